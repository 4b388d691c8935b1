"""The workloads, each in a process and a file of its own: `python -m benchmarks.workloads W1/64`.

Client and engine share the process, as they do in an application that embeds the engine. A run
warms up, measures, and then reads every journal to see that each saga was done exactly once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from amends import Client, Handle, Saga, SagaNotCompleted
from amends.errors import InstanceNotFound
from benchmarks import sagas as s
from benchmarks.measure import (
    CpuMeter,
    Driven,
    Figures,
    check,
    check_equal,
    drive,
    quiet,
    rss_bytes,
)

WARM_UP: Final = 300
NOBODY: Final = nullcontext()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A saga, and what must come of it: its result or final state, its events, its runs."""

    saga: Saga[Any, Any]
    input: Any
    outcome: Any
    journal: Mapping[str, int]
    runs: Mapping[str, int]


TRANSFER: Final = Case(
    saga=s.transfer,
    input=s.Order(),
    outcome=20,
    journal={"SagaStarted": 1, "StepScheduled": 2, "StepCompleted": 2, "SagaCompleted": 1},
    runs={"withdraw": 1, "deposit": 1},
)
CHAIN10: Final = Case(
    saga=s.chain10,
    input=0,
    outcome=10,
    journal={"SagaStarted": 1, "StepScheduled": 10, "StepCompleted": 10, "SagaCompleted": 1},
    runs={"plus": 10},
)
COMPENSATE: Final = Case(
    saga=s.compensate,
    input=s.Order(),
    outcome="compensated",
    journal={
        "SagaStarted": 1,
        "StepScheduled": 5,
        "StepCompleted": 4,
        "StepAttemptFailed": 1,
        "StepFailed": 1,
        "CompensationStarted": 1,
        "SagaCompensated": 1,
    },
    runs={"withdraw": 1, "deposit": 1, "refuse": 1, "refund": 1, "take_back": 1},
)
FANOUT: Final = Case(
    saga=s.fanout,
    input=100,
    outcome=sum(range(1, 101)),
    journal={"SagaStarted": 1, "StepScheduled": 100, "StepCompleted": 100, "SagaCompleted": 1},
    runs={"plus": 100},
)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is run how often, and how many at once. `key` names it on the command line."""

    key: str
    what: str
    n: int
    inflight: int
    case: Case | None = None

    @property
    def name(self) -> str:
        return self.key.partition("/")[0]

    def scaled(self, factor: float) -> Workload:
        """The same with another number of sagas, for a quick look or a long one."""
        return replace(self, n=max(1, round(self.n * factor)))


WORKLOADS: Final = (
    Workload(key="W1/64", what="transfer", n=2000, inflight=64, case=TRANSFER),
    Workload(key="W1/256", what="transfer", n=2000, inflight=256, case=TRANSFER),
    Workload(key="W1/1", what="transfer, one at a time", n=200, inflight=1, case=TRANSFER),
    Workload(key="W2", what="chain of 10", n=500, inflight=64, case=CHAIN10),
    Workload(key="W3", what="compensate", n=1000, inflight=64, case=COMPENSATE),
    Workload(key="W4", what="fan-out of 100", n=20, inflight=4, case=FANOUT),
    Workload(key="W5", what="sleepers", n=5000, inflight=64),
)


async def run(
    workload: Workload, file: Path, watch: AbstractContextManager[object] = NOBODY
) -> Figures:
    """Run a workload on a new file; `watch` is entered while it is measured. Raises CheckFailed."""
    async with s.app.run(file) as client:
        await _finish_all(client, TRANSFER, WARM_UP, 64)
        s.RUNS.clear()
        gc.collect()
        if workload.case is None:
            return await _sleepers(client, workload, watch)
        return await _throughput(client, workload, workload.case, watch)


async def _throughput(
    client: Client, workload: Workload, case: Case, watch: AbstractContextManager[object]
) -> Figures:
    with CpuMeter() as cpu, watch:
        driven, ids = await _finish_all(client, case, workload.n, workload.inflight)
    await _check_journals(client, case.saga, ids, case.journal)
    wanted = {name: runs * workload.n for name, runs in case.runs.items()}
    check_equal(s.RUNS, wanted, "activities ran another number of times than they should")
    return Figures(
        workload=workload.name,
        what=workload.what,
        n=workload.n,
        inflight=workload.inflight,
        per_s=driven.per_s,
        steps_per_s=driven.per_s * case.journal["StepScheduled"],
        p50_ms=driven.percentile_ms(50),
        p99_ms=driven.percentile_ms(99),
        cpu_s_per_1000=cpu.used_s / workload.n * 1000,
        others_cpus=cpu.others_cpus,
    )


async def _finish_all(
    client: Client, case: Case, n: int, inflight: int
) -> tuple[Driven, list[str]]:
    """Start sagas and wait for the outcome of each, which must be the right one. Gives their ids."""
    ids: list[str] = []

    async def one(_: int) -> None:
        handle = await client.start(case.saga, case.input)
        outcome = await _outcome(handle)
        check(outcome == case.outcome, "wrong outcome", found=outcome, wanted=case.outcome)
        ids.append(handle.id)

    return await drive(n, inflight, one), ids


async def _outcome(handle: Handle[Any]) -> Any:
    try:
        return await handle.result()
    except SagaNotCompleted as ended:
        return ended.state


async def _check_journals(
    client: Client, saga: Saga[Any, Any], ids: Sequence[str], wanted: Mapping[str, int]
) -> None:
    check(len(set(ids)) == len(ids), "two sagas of one id")
    for id in ids:
        journal = await client.handle(saga, id).journal()
        found = Counter(record.type for record in journal)
        check_equal(found, wanted, f"the journal of {saga.name}/{id} is not as it should be")


async def _sleepers(
    client: Client, workload: Workload, watch: AbstractContextManager[object]
) -> Figures:
    """Starts count when they are durable; `settled` when those started last sleep durably."""
    ids = [f"sleeper-{number}" for number in range(workload.n)]

    async def submit(number: int) -> None:
        await client.submit(s.sleep, id=ids[number])

    resident = rss_bytes()
    last = ids[-workload.inflight :]
    with CpuMeter() as cpu, watch:
        driven = await drive(workload.n, workload.inflight, submit)
        settled = await drive(len(last), 1, lambda i: _asleep(client.handle(s.sleep, last[i])))
    gc.collect()
    resident = rss_bytes() - resident
    for id in ids:
        await _asleep(client.handle(s.sleep, id))
    await _check_journals(client, s.sleep, ids, {"SagaStarted": 1, "TimerStarted": 1})
    return Figures(
        workload=workload.name,
        what=workload.what,
        n=workload.n,
        inflight=workload.inflight,
        per_s=driven.per_s,
        p50_ms=driven.percentile_ms(50),
        p99_ms=driven.percentile_ms(99),
        settled_per_s=workload.n / (driven.wall_s + settled.wall_s),
        cpu_s_per_1000=cpu.used_s / workload.n * 1000,
        others_cpus=cpu.others_cpus,
        rss_per_sleeper_bytes=resident / workload.n,
    )


async def _asleep(handle: Handle[Any]) -> None:
    while not await _has_timer(handle):  # noqa: ASYNC110 - as anyone would who waits for a state
        await asyncio.sleep(0.005)


async def _has_timer(handle: Handle[Any]) -> bool:
    try:
        return bool((await handle.state()).timers)
    except InstanceNotFound:
        return False


def main() -> None:
    """Run the workload of a key on a file, and print its figures as JSON."""
    key, file, scale = sys.argv[1:]
    quiet()
    found = {workload.key: workload for workload in WORKLOADS}[key].scaled(float(scale))
    print(json.dumps(asdict(asyncio.run(run(found, Path(file))))))


if __name__ == "__main__":
    main()

"""W7: a mixed load, held at a rate: sagas arrive when they arrive, not when the engine is ready.

Each latency counts from the moment at which a clock, and not the engine, wanted something to
happen: the arrival of a transfer or of one that will be compensated, the sending of a signal, the
due time of a timer. See `benchmarks.open_loop`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from amends import Client
from amends.domain.events import TimerStarted
from amends.sagas import journal
from benchmarks import sagas as s
from benchmarks.cases import (
    COMPENSATE,
    TRANSFER,
    Case,
    check_journals,
    check_runs,
    finish,
    warm_up,
)
from benchmarks.latency import histogram, percentile_ms
from benchmarks.measure import TIMEOUT_S, CpuMeter, Figures, check
from benchmarks.open_loop import arrivals, offer, until

SLEEP: Final = Case(
    saga=s.doze,
    input=None,
    outcome="woke",
    journal={"SagaStarted": 1, "TimerStarted": 1, "TimerFired": 1, "SagaCompleted": 1},
    runs={},
)
APPROVE: Final = Case(
    saga=s.approval,
    input=s.Order(),
    outcome=20,
    journal={
        "SagaStarted": 1,
        "SignalReceived": 1,
        "StepScheduled": 1,
        "StepCompleted": 1,
        "SagaCompleted": 1,
    },
    runs={"deposit": 1},
)

#: What arrives, and how many of a hundred are so.
KINDS: Final[Mapping[str, tuple[int, Case]]] = {
    "transfers": (60, TRANSFER),
    "sleepers": (20, SLEEP),
    "signals": (15, APPROVE),
    "compensations": (5, COMPENSATE),
}


class Arrival(NamedTuple):
    """One saga of the load. It sleeps, or waits for its signal, for `pause_s`."""

    due_s: float
    kind: str
    pause_s: float


class Done(NamedTuple):
    """What became of one arrival. `due` and `ended` are of the loop's time."""

    kind: str
    id: str
    due: float
    ended: float
    ended_at: datetime


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A rate of arrivals, and for how long it is held. `seed` says who arrives when."""

    key: str
    rate_per_s: float
    hold_s: float
    pause_s: float = 2.0
    """How long a saga sleeps, or waits for its signal: from half of it to half as much again."""
    seed: int = 7

    def scaled(self, factor: float) -> Self:
        """The same rate for another time; for a quick look, with pauses as much shorter."""
        return replace(self, hold_s=self.hold_s * factor, pause_s=self.pause_s * min(1.0, factor))

    def plan(self) -> list[Arrival]:
        """Who arrives when: the same each time."""
        source = random.Random(self.seed)
        names, shares = list(KINDS), [share for share, _ in KINDS.values()]
        return [
            Arrival(due_s, kind, source.uniform(0.5, 1.5) * self.pause_s)
            for due_s in arrivals(self.rate_per_s, self.hold_s, self.seed)
            for kind in source.choices(names, shares)
        ]

    async def run(self, file: Path, watch: AbstractContextManager[object]) -> list[Figures]:
        """Hold the rate on a new file; figures of all kinds together, and of each."""
        plan = self.plan()
        check(bool(plan), "nobody arrives in so short a time", hold_s=self.hold_s)
        async with s.app.run(file) as client:
            await warm_up(client)
            with CpuMeter() as cpu, watch:
                began = asyncio.get_running_loop().time()
                done = await _offer(client, plan, began)
            latencies_s = await _checked(client, done)
        in_time = [each.kind for each in done if each.ended <= began + self.hold_s]
        everything = Figures(
            workload="W7",
            what="mixed load",
            n=len(plan),
            rate_per_s=self.rate_per_s,
            per_s=len(in_time) / self.hold_s,
            steps_per_s=sum(map(_steps_of, in_time)) / self.hold_s,
            cpu_s_per_1000=cpu.used_s / len(plan) * 1000,
            others_cpus=cpu.others_cpus,
            **_percentiles([latency for each in latencies_s.values() for latency in each]),
        )
        return [everything, *(_of_kind(kind, each) for kind, each in latencies_s.items())]


HOLD: Final = Hold(key="W7/hold", rate_per_s=200, hold_s=60)


async def _offer(client: Client, plan: Sequence[Arrival], began: float) -> list[Done]:
    done: list[Done] = []

    async def arrive(number: int, due: float) -> None:
        _, kind, pause_s = plan[number]
        _, case = KINDS[kind]
        input = pause_s if case is SLEEP else case.input
        handle = await client.start(case.saga, input, confirm_timeout=TIMEOUT_S)
        if case is APPROVE:
            due += pause_s
            await until(due)
            await handle.signal(s.approved, 10)
        id = await finish(handle, case)
        done.append(Done(kind, id, due, asyncio.get_running_loop().time(), datetime.now(UTC)))

    await offer([arrival.due_s for arrival in plan], arrive, began=began)
    return done


async def _checked(client: Client, done: Sequence[Done]) -> dict[str, list[float]]:
    """The latencies of each kind, in seconds, if all is as it should be."""
    kinds = Counter(each.kind for each in done)
    check_runs(s.RUNS, [(KINDS[kind][1], n) for kind, n in kinds.items()])
    latencies_s = {}
    for kind, (_, case) in KINDS.items():
        its = [each for each in done if each.kind == kind]
        await check_journals(client, case.saga, [each.id for each in its], case.journal)
        if case is SLEEP:
            latencies_s[kind] = [await _lateness_s(client, each) for each in its]
        else:
            latencies_s[kind] = [each.ended - each.due for each in its]
    return latencies_s


async def _lateness_s(client: Client, slept: Done) -> float:
    """How long after its timer was due somebody who waited for the saga knew that it had ended."""
    records = await client.handle(s.doze, slept.id).journal()
    (timer,) = [event for event in map(journal.decode, records) if isinstance(event, TimerStarted)]
    return (slept.ended_at - timer.due).total_seconds()


def _steps_of(kind: str) -> int:
    return KINDS[kind][1].journal.get("StepScheduled", 0)


def _of_kind(kind: str, latencies_s: Sequence[float]) -> Figures:
    return Figures(
        workload="W7", what=f"mixed load: {kind}", n=len(latencies_s), **_percentiles(latencies_s)
    )


def _percentiles(latencies_s: Sequence[float]) -> dict[str, Any]:
    if not latencies_s:
        return {}
    return {
        "p50_ms": percentile_ms(latencies_s, 50),
        "p99_ms": percentile_ms(latencies_s, 99),
        "histogram": histogram(latencies_s),
    }

"""W6: sagas that are under way when their process is killed with SIGKILL, and the restart.

Each saga runs a step, sleeps for 2 s durably, and runs a second step. The process is killed at
once after all starts are durable, or a second later. The steps write a line for every run to a
file that survives.

On RabbitMQ the workers, which are processes of their own, are killed and restarted together with
the one that runs the sagas; the server stays.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Final

from amends.domain import events as e
from amends.errors import InstanceNotFound
from amends.sagas import journal
from amends.settings import Settings
from benchmarks import sagas as s
from benchmarks.cases import TRANSFER, finish_all
from benchmarks.children import child, cpu_s_of, heard, say
from benchmarks.deployment import (
    BROKER,
    ORCHESTRATOR,
    WORKERS,
    Place,
    Workers,
    cpu_costs,
    orchestrating,
    place,
    working,
)
from benchmarks.measure import (
    TIMEOUT_S,
    CpuMeter,
    Figures,
    check,
    check_equal,
    drive,
    quiet,
)

N: Final = 500
INFLIGHT: Final = 64
DATABASE: Final = "w6.db"
JOURNAL: Final = {
    "SagaStarted": 1,
    "StepScheduled": 2,
    "StepCompleted": 2,
    "TimerStarted": 1,
    "TimerFired": 1,
    "SagaCompleted": 1,
}


#: The id of a saga, and the name of its step.
Step = tuple[str, str]


def recover(killed_after_s: float, folder: Path, n: int = N, *, workers: int = 0) -> Figures:
    """Start, kill, restart, and check that every saga was done once. With workers, it is spread
    over RabbitMQ. Raises CheckFailed.
    """
    log = folder / "steps.log"
    with (
        place(folder / DATABASE, is_spread=workers > 0) as here,
        CpuMeter({BROKER: here.broker_cpu_s}) as cpu,
    ):
        with _life("start", here, workers, log, n) as first:
            heard(first.orchestrator, "started")
            time.sleep(killed_after_s)
            first_s = first.cpu_s()
        begun = _steps(log)
        as_killed = _copy(folder)
        began = time.perf_counter()
        with _life("finish", here, workers, log, n) as second:
            heard(second.orchestrator, "running")
            restarted_s = time.perf_counter() - began
            heard(second.orchestrator, "done")
            recovered_s = time.perf_counter() - began
            second_s = second.cpu_s()
            heard(second.orchestrator, "checked")
    used_s = {part: first_s[part] + second_s[part] for part in first_s}
    used_s[BROKER] = cpu.used_s_by[BROKER]
    running = set(begun) - asyncio.run(_recorded(as_killed, n))
    runs = _steps(log)
    check_steps(runs, None if workers else running, n)
    when = f"{killed_after_s:g} s later" if killed_after_s else "at once"
    return Figures(
        workload="W6",
        what=f"recovery, killed {when}{', RabbitMQ' if workers else ''}",
        n=n,
        inflight=INFLIGHT,
        workers=workers or None,
        killed_after_s=killed_after_s,
        cpu_s_per_1000=sum(used_s.values()) / n * 1000,
        open_at_kill=n - sum(step == "after" for _, step in begun),
        steps_running=len(running),
        restarted_s=restarted_s,
        recovered_s=recovered_s,
        steps_twice=len(_run_again(runs)),
        others_cpus=cpu.others_cpus,
        **(cpu_costs(used_s, n) if workers else {}),
    )


def check_steps(runs: Counter[Step], running: set[Step] | None, n: int) -> None:
    """Every step was run, and none again but those that were running. None says that more may be,
    because a broker apart has two copies of a command when its sender died before it knew.
    """
    wanted = {(f"saga-{number}", step) for number in range(n) for step in ("before", "after")}
    check(set(runs) == wanted, "a step never ran", missing=sorted(wanted - set(runs))[:3])
    if running is not None:
        needless = sorted(_run_again(runs) - running)[:3]
        check(not needless, "a step was run again though its outcome was on record", such=needless)


def _run_again(runs: Counter[Step]) -> set[Step]:
    return {step for step, count in runs.items() if count > 1}


def _copy(folder: Path) -> Path:
    """The database as the killed process left it. To look at the file itself would do a part of
    the recovery: whoever opens it first reads the write-ahead log, and whoever closes it last
    empties that.
    """
    copy = folder / "as-killed"
    copy.mkdir()
    for name in (DATABASE, f"{DATABASE}-wal"):
        shutil.copy(folder / name, copy)
    return copy / DATABASE


async def _recorded(file: Path, n: int) -> set[Step]:
    """The steps whose outcome is on record."""
    found: set[Step] = set()
    async with s.app.client(file) as client:
        for id in (f"saga-{number}" for number in range(n)):
            with suppress(InstanceNotFound):
                names: dict[int, str] = {}
                for event in map(journal.decode, await client.handle(s.recover, id).journal()):
                    if isinstance(event, e.StepScheduled):
                        names[event.seq] = event.activity
                    elif isinstance(event, e.StepCompleted):
                        found.add((id, names[event.seq]))
    return found


@dataclass(frozen=True)
class _Life:
    """The processes of an engine."""

    orchestrator: Popen[str]
    workers: Workers

    def cpu_s(self) -> dict[str, float]:
        """The CPU time of each part so far."""
        return {ORCHESTRATOR: cpu_s_of(self.orchestrator), WORKERS: self.workers.cpu_s()}


@contextmanager
def _life(verb: str, here: Place, workers: int, log: Path, n: int) -> Iterator[_Life]:
    """An engine, killed at the end of the block. Workers are there before the first saga starts."""
    environment = {**here.environment, s.STEP_LOG: str(log)}
    with working(workers, environment) as others:
        if verb == "start":
            others.wait_until_they_work()
        with child("benchmarks.recovery", verb, str(n), **environment) as orchestrator:
            try:
                yield _Life(orchestrator, others)
            finally:
                for process in (orchestrator, *others.processes):
                    process.kill()


def _steps(log: Path) -> Counter[Step]:
    """How often each step of each saga was run."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter((id, step) for id, step in map(str.split, lines))


# --- the children


async def _start(n: int) -> None:
    async with orchestrating(Settings()) as client:
        await finish_all(client, TRANSFER, 1, 1)  # now everything is there

        async def submit(number: int) -> None:
            await client.submit(s.recover, id=f"saga-{number}")

        await drive(n, INFLIGHT, submit)
        say("started")
        await asyncio.sleep(TIMEOUT_S)


async def _finish(n: int) -> None:
    async with orchestrating(Settings()) as client:
        say("running")
        handles = [client.handle(s.recover, f"saga-{number}") for number in range(n)]
        async with asyncio.timeout(TIMEOUT_S):
            results = await asyncio.gather(*[handle.result() for handle in handles])
        say("done")
        check(set(results) == {"before and after"}, "wrong result", found=set(results))
        for handle in handles:
            found = Counter(record.type for record in await handle.journal())
            check_equal(found, JOURNAL, f"the journal of {handle.instance} is not as it should be")
        say("checked")


def main() -> None:
    """Be one of the two processes."""
    verb, n = sys.argv[1:]
    quiet()
    asyncio.run({"start": _start, "finish": _finish}[verb](int(n)))


if __name__ == "__main__":
    main()

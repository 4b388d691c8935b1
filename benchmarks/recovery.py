"""W6: sagas that are under way when their process is killed with SIGKILL, and the restart.

Each saga runs a step, sleeps for 2 s durably, and runs a second step. The process is killed at
once after all starts are durable, or a second later. The steps write a line for every run to a
file that survives.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from amends.domain import events as e
from amends.errors import InstanceNotFound
from amends.sagas import journal
from benchmarks import sagas as s
from benchmarks.children import child, heard, say
from benchmarks.measure import (
    TIMEOUT_S,
    CpuMeter,
    Figures,
    check,
    check_equal,
    cpu_s,
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


def recover(killed_after_s: float, folder: Path, n: int = N) -> Figures:
    """Start, kill, restart, and check that every saga was done once. Raises CheckFailed."""
    log = folder / "steps.log"
    used_s = cpu_s()
    with CpuMeter() as cpu:
        with _child("start", folder, n) as first:
            heard(first, "started")
            time.sleep(killed_after_s)
        used_s = cpu_s() - used_s
        begun = _steps(log)
        as_killed = _copy(folder)
        began = time.perf_counter()
        with _child("finish", folder, n) as second:
            heard(second, "running")
            restarted_s = time.perf_counter() - began
            done = heard(second, "done")
            recovered_s = time.perf_counter() - began
            heard(second, "checked")
    running = set(begun) - asyncio.run(_recorded(as_killed, n))
    runs = _steps(log)
    check_steps(runs, running, n)
    return Figures(
        workload="W6",
        what=f"recovery, killed {'at once' if not killed_after_s else f'{killed_after_s:g} s later'}",
        n=n,
        inflight=INFLIGHT,
        killed_after_s=killed_after_s,
        cpu_s_per_1000=(used_s + done["cpu_s"]) / n * 1000,
        open_at_kill=n - sum(step == "after" for _, step in begun),
        steps_running=len(running),
        restarted_s=restarted_s,
        recovered_s=recovered_s,
        steps_twice=len(_run_again(runs)),
        others_cpus=cpu.others_cpus,
    )


def check_steps(runs: Counter[Step], running: set[Step], n: int) -> None:
    """Every step was run, and none again whose outcome was on record."""
    wanted = {(f"saga-{number}", step) for number in range(n) for step in ("before", "after")}
    check(set(runs) == wanted, "a step never ran", missing=sorted(wanted - set(runs))[:3])
    again = _run_again(runs)
    needless = sorted(again - running)[:3]
    check(again <= running, "a step was run again though its outcome was on record", such=needless)


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


def _child(verb: str, folder: Path, n: int) -> AbstractContextManager[subprocess.Popen[str]]:
    arguments = verb, str(folder / DATABASE), str(n)
    log = {s.STEP_LOG: str(folder / "steps.log")}
    return child("benchmarks.recovery", *arguments, **log)


def _steps(log: Path) -> Counter[Step]:
    """How often each step of each saga was run."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter((id, step) for id, step in map(str.split, lines))


# --- the children


async def _start(file: Path, n: int) -> None:
    async with s.app.run(file) as client:

        async def submit(number: int) -> None:
            await client.submit(s.recover, id=f"saga-{number}")

        await drive(n, INFLIGHT, submit)
        say("started")
        await asyncio.sleep(TIMEOUT_S)


async def _finish(file: Path, n: int) -> None:
    async with s.app.run(file) as client:
        say("running")
        handles = [client.handle(s.recover, f"saga-{number}") for number in range(n)]
        async with asyncio.timeout(TIMEOUT_S):
            results = await asyncio.gather(*[handle.result() for handle in handles])
        say("done", cpu_s=cpu_s())
        check(set(results) == {"before and after"}, "wrong result", found=set(results))
        for handle in handles:
            found = Counter(record.type for record in await handle.journal())
            check_equal(found, JOURNAL, f"the journal of {handle.instance} is not as it should be")
        say("checked")


def main() -> None:
    """Be one of the two processes."""
    verb, file, n = sys.argv[1:]
    quiet()
    asyncio.run({"start": _start, "finish": _finish}[verb](Path(file), int(n)))


if __name__ == "__main__":
    main()

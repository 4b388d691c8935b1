"""W6: sagas that are under way when their process is killed with SIGKILL, and the restart.

Each saga runs a step, sleeps for 2 s durably, and runs a second step. The process is killed at
once after all starts are durable, or a second later. The steps write a line for every run to a
file that survives.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import sagas as s
from benchmarks.measure import (
    TIMEOUT_S,
    Figures,
    check,
    check_equal,
    cpu_s,
    drive,
    quiet,
)

N: Final = 500
INFLIGHT: Final = 64
JOURNAL: Final = {
    "SagaStarted": 1,
    "StepScheduled": 2,
    "StepCompleted": 2,
    "TimerStarted": 1,
    "TimerFired": 1,
    "SagaCompleted": 1,
}


def recover(killed_after_s: float, folder: Path, n: int = N) -> Figures:
    """Start, kill, restart, and check that every saga was done once. Raises CheckFailed."""
    log = folder / "steps.log"
    used_s = cpu_s()
    with _child("start", folder, n) as first:
        _line(first, "started")
        time.sleep(killed_after_s)
    used_s = cpu_s() - used_s
    begun_after = sum(step == "after" for _, step in _steps(log))
    began = time.perf_counter()
    with _child("finish", folder, n) as second:
        _line(second, "running")
        restarted_s = time.perf_counter() - began
        done = _line(second, "done")
        recovered_s = time.perf_counter() - began
        _line(second, "checked")
    runs = _steps(log)
    wanted = {(f"saga-{number}", step) for number in range(n) for step in ("before", "after")}
    check(set(runs) == wanted, "a step never ran", missing=sorted(wanted - set(runs))[:3])
    return Figures(
        workload="W6",
        what=f"recovery, killed {'at once' if not killed_after_s else f'{killed_after_s:g} s later'}",
        n=n,
        inflight=INFLIGHT,
        killed_after_s=killed_after_s,
        cpu_s_per_1000=(used_s + done["cpu_s"]) / n * 1000,
        open_at_kill=n - begun_after,
        restarted_s=restarted_s,
        recovered_s=recovered_s,
        steps_twice=sum(count > 1 for count in runs.values()),
    )


@contextmanager
def _child(verb: str, folder: Path, n: int) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, for as long as the block lasts."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.recovery", verb, str(folder / "w6.db"), str(n)],
        env={**os.environ, s.STEP_LOG: str(folder / "steps.log")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def _line(child: subprocess.Popen[str], word: str) -> Any:
    """The next line of a child, which must tell of `word`."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        child.wait()
    check(bool(line), f"the process ended before it was {word}", exit_status=child.returncode)
    said = json.loads(line)
    check(said["said"] == word, f"the process was not {word}", said=said)
    return said


def _steps(log: Path) -> Counter[tuple[str, str]]:
    """How often each step of each saga was run."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter((id, step) for id, step in map(str.split, lines))


# --- the children


async def _start(file: Path, n: int) -> None:
    async with s.app.run(file) as client:

        async def submit(number: int) -> None:
            await client.submit(s.recover, id=f"saga-{number}")

        await drive(n, INFLIGHT, submit)
        _say("started")
        await asyncio.sleep(TIMEOUT_S)


async def _finish(file: Path, n: int) -> None:
    async with s.app.run(file) as client:
        _say("running")
        handles = [client.handle(s.recover, f"saga-{number}") for number in range(n)]
        async with asyncio.timeout(TIMEOUT_S):
            results = await asyncio.gather(*[handle.result() for handle in handles])
        _say("done", cpu_s=cpu_s())
        check(set(results) == {"before and after"}, "wrong result", found=set(results))
        for handle in handles:
            found = Counter(record.type for record in await handle.journal())
            check_equal(found, JOURNAL, f"the journal of {handle.instance} is not as it should be")
        _say("checked")


def _say(word: str, **more: float) -> None:
    print(json.dumps({"said": word} | more), flush=True)


def main() -> None:
    """Be one of the two processes."""
    verb, file, n = sys.argv[1:]
    quiet()
    asyncio.run({"start": _start, "finish": _finish}[verb](Path(file), int(n)))


if __name__ == "__main__":
    main()

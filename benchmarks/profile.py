"""Where the time of one workload goes: `python -m benchmarks.profile W1/64`.

Options: `--top 40` lines a table, `--scale 0.5` of the sagas, `--out FILE` to keep the totals for
snakeviz and its kind.

Counts CPU time, thread by thread: waiting for the disk, the interpreter lock or a message is not
in it. The event loop runs the engine, the client and the activities, and is watched while the
workload is measured; the writer commits, and is watched from the warm-up on. The profiler itself
makes small functions look dearer than they are, so measure before and after a change.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import io
import pstats
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.measure import quiet
from benchmarks.run import folder_on_disk
from benchmarks.workloads import WORKLOADS

LOOP = "event loop"
WRITER = "amends-writer"


class Profiles:
    """One profile of this thread while it is entered, and one of each thread started since."""

    def __init__(self) -> None:
        self.of: dict[str, cProfile.Profile] = {LOOP: cProfile.Profile(time.thread_time)}
        # Since Python 3.12 a profile sees every thread by itself, and there can be one only.
        if sys.version_info < (3, 12):
            threading.setprofile(self._begin)

    def __enter__(self) -> None:
        self.of[LOOP].enable()

    def __exit__(self, *_: object) -> None:
        self.of[LOOP].disable()

    def _begin(self, frame: FrameType, event: str, arg: Any) -> None:
        """Called in a new thread, where the profile takes its place at once."""
        name = threading.current_thread().name
        if name == WRITER:
            self.of[name] = cProfile.Profile(time.thread_time)
            self.of[name].enable()


def report(profiles: Profiles, top: int) -> str:
    """Each thread by the time within each function, and the totals by the time below it too."""
    out = io.StringIO()
    for name, profile in profiles.of.items():
        print(f"=== {name}: time within the function itself", file=out)
        pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(top)
    print("=== all threads: time within the function and what it called", file=out)
    totals(profiles, out).sort_stats("cumtime").print_stats(top)
    here = f"{Path(__file__).resolve().parents[1]}/"
    return out.getvalue().replace(here, "")


def totals(profiles: Profiles, out: io.StringIO | None = None) -> pstats.Stats:
    """All threads together."""
    return pstats.Stats(*profiles.of.values(), stream=out or io.StringIO())


def main() -> None:
    """Profile the workload that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    quiet()
    workload = WORKLOADS[options.workload].scaled(options.scale)
    profiles = Profiles()
    with tempfile.TemporaryDirectory(prefix="amends-bench-", dir=folder_on_disk()) as folder:
        asyncio.run(workload.run(Path(folder) / "bench.db", profiles))
    print(report(profiles, options.top))
    if options.out is not None:
        totals(profiles).dump_stats(options.out)


if __name__ == "__main__":
    main()

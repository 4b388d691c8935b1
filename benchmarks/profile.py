"""Where the time of one workload goes: `python -m benchmarks.profile W1/64`.

Options: `--top 40` lines a table, `--scale 0.5` of the sagas, `--out FILE` to keep the totals for
snakeviz and its kind.

Counts CPU time, thread by thread: waiting for the disk, the interpreter lock or a message is not
in it. The event loop runs the engine, the client and the activities, and is watched while the
workload is measured; the writer commits, and is watched from the warm-up on, and so are workers,
which are processes of their own on RabbitMQ. The profiler itself makes small functions look dearer
than they are, so measure before and after a change.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import pstats
import tempfile
from collections.abc import Mapping
from pathlib import Path
from site import getsitepackages
from sysconfig import get_path
from typing import Any, Final

from benchmarks.measure import quiet
from benchmarks.profiles import FOLDER, Profiles, of_workers
from benchmarks.run import folder_on_disk
from benchmarks.subsystems import shares
from benchmarks.workloads import WORKLOADS

#: What has less of a thread's time is not told.
SHARE_MIN: Final = 0.001


def report(threads: Mapping[str, pstats.Stats], top: int) -> str:
    """Each thread by the time within each function, and within each subsystem; and all together by
    the time below each function, too.
    """
    out = io.StringIO()
    for name, stats in threads.items():
        print(f"=== {name}: time within the function itself", file=out)
        _print_to(out, stats).sort_stats("tottime").print_stats(top)
        print(f"=== {name}: time by subsystem, with what it called that is written in C", file=out)
        for subsystem, share_s, of_all in shares(stats):
            if of_all >= SHARE_MIN:
                print(f"{share_s:9.3f} s {of_all:6.1%}  {subsystem}", file=out)
        print(file=out)
    print("=== all: time within the function and what it called", file=out)
    _print_to(out, totals(threads)).sort_stats("cumtime").print_stats(top)
    text = out.getvalue()
    for folder in (*getsitepackages(), get_path("stdlib"), Path(__file__).resolve().parents[1]):
        text = text.replace(f"{folder}/", "")
    return text


def _print_to(out: io.StringIO, stats: Any) -> pstats.Stats:
    stats.stream = out
    printing: pstats.Stats = stats
    return printing


def totals(threads: Mapping[str, Any]) -> pstats.Stats:
    """All threads together."""
    return pstats.Stats().add(*threads.values())


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
    with (
        tempfile.TemporaryDirectory(prefix="amends-bench-", dir=folder_on_disk()) as folder,
        tempfile.TemporaryDirectory() as kept,
    ):
        os.environ[FOLDER] = kept
        asyncio.run(workload.run(Path(folder) / "bench.db", profiles))
        threads = profiles.stats() | of_workers(Path(kept))
    print(report(threads, options.top))
    if options.out is not None:
        totals(threads).dump_stats(options.out)


if __name__ == "__main__":
    main()

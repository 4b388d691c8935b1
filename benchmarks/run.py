"""Run the benchmarks of the embedded default: `make bench`, or `python -m benchmarks.run`.

One JSON object a line on stdout, a table on stderr. The environment chooses:

WORKLOADS   names or keys, `W1 W3` or `W1/64`; default: all
REPEATS     how often each is run, 3; the figures are medians
SCALE       multiplies the number of sagas: `SCALE=0.05` for a quick look
BENCH_DIR   where the databases go; it should be on a disk
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.measure import CheckFailed, Figures, is_in_memory, summary
from benchmarks.recovery import N, recover
from benchmarks.restart import N as SLEEPERS
from benchmarks.restart import restart
from benchmarks.workloads import WORKLOADS, Workload

Run = Callable[[Path, float], Figures]

CONSOLE: Final = Console(stderr=True, width=None if sys.stderr.isatty() else 160)


def runs() -> dict[str, Run]:
    """Everything that can be run, by its key."""
    return {
        **{workload.key: partial(_in_child, workload) for workload in WORKLOADS},
        "W5/restart": lambda folder, scale: restart(folder, max(1, round(SLEEPERS * scale))),
        "W6/0": partial(_recover, 0.0),
        "W6/1": partial(_recover, 1.0),
    }


def _in_child(workload: Workload, folder: Path, scale: float) -> Figures:
    """A process of its own, so that nothing is warm, and no memory taken, that should not be."""
    command = [sys.executable, "-m", "benchmarks.workloads"]
    child = subprocess.run(
        [*command, workload.key, str(folder / "bench.db"), str(scale)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        raise CheckFailed(f"{workload.key} failed: its process ended with {child.returncode}")
    return Figures(**json.loads(child.stdout))


def _recover(killed_after_s: float, folder: Path, scale: float) -> Figures:
    return recover(killed_after_s, folder, max(1, round(N * scale)))


def chosen(words: str) -> dict[str, Run]:
    """The runs that words name, by name or key. Raises SystemExit for one that names none."""
    known = runs()
    wanted = words.lower().split()
    for word in wanted:
        if not any(word in _names(key) for key in known):
            raise SystemExit(f"no workload {word!r}; there are: {' '.join(known)}")
    return {
        key: run for key, run in known.items() if not wanted or not _names(key).isdisjoint(wanted)
    }


def _names(key: str) -> set[str]:
    """What a run is called: by its key, or by what stands before the slash."""
    return {key.lower(), key.partition("/")[0].lower()}


def folder_on_disk() -> str:
    """Where the databases go."""
    given = os.environ.get("BENCH_DIR") or tempfile.gettempdir()
    if not is_in_memory(given):
        return given
    here = os.getcwd()
    CONSOLE.print(f"{given} is in memory, where a sync costs nothing: using {here}", style="yellow")
    return here


def measure(repeats: int, scale: float, root: str) -> Iterator[dict[str, Any]]:
    """One row for each chosen workload."""
    for key, run in chosen(os.environ.get("WORKLOADS", "")).items():
        figures = []
        load = os.getloadavg()[0]
        for number in range(repeats):
            with (
                CONSOLE.status(f"{key}, {number + 1} of {repeats}"),
                tempfile.TemporaryDirectory(prefix="amends-bench-", dir=root) as folder,
            ):
                figures.append(run(Path(folder), scale))
        yield summary(figures) | {"load_before": round(load, 2)}


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    title = (
        f"Amends {version('amends')}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs: medians (from – to)"
    )
    made = Table(title=title, caption="CPU: user and system, client and engine, per 1,000 sagas")
    columns = {
        "/s": "per_s",
        "steps/s": "steps_per_s",
        "p50 ms": "p50_ms",
        "p99 ms": "p99_ms",
        "CPU s": "cpu_s_per_1000",
        "bytes a sleeper": "rss_per_sleeper_bytes",
        "answered s": "answered_s",
        "recovered s": "recovered_s",
        "steps twice": "steps_twice",
        "others' CPUs": "others_cpus",
    }
    made.add_column("workload")
    for heading in ("n", "in flight", *columns):
        made.add_column(heading, justify="right")
    for row in rows:
        cells = [_cell(row, field) for field in columns.values()]
        made.add_row(
            f"{row['workload']} {row['what']}", str(row["n"]), str(row["inflight"]), *cells
        )
    return made


def _cell(row: dict[str, Any], field: str) -> str:
    if field not in row:
        return ""
    low, high = row["spread"][field]
    return f"{row[field]}" if low == high else f"{row[field]}\n({low} – {high})"


def main() -> None:
    """Run what the environment chooses."""
    repeats = int(os.environ.get("REPEATS", "3"))
    scale = float(os.environ.get("SCALE", "1"))
    rows = []
    try:
        for row in measure(repeats, scale, folder_on_disk()):
            print(json.dumps(row), flush=True)
            rows.append(row)
    except CheckFailed as error:
        raise SystemExit(f"WRONG: {error}") from error
    finally:
        if rows:
            CONSOLE.print(table(rows))


if __name__ == "__main__":
    main()

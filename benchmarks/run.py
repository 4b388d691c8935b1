"""Run the benchmarks: `make bench`, or `python -m benchmarks.run`.

One JSON object a line on stdout, a table on stderr. The environment chooses:

WORKLOADS   names or keys, `W1 W3` or `W1/64`; default: all of the embedded default. On RabbitMQ:
            `W1/rabbitmq`, `W1/64/rabbitmq`, or `rabbitmq` for all
REPEATS     how often each is run, 3; the figures are medians
SCALE       multiplies the number of sagas, or the time: `SCALE=0.05` for a quick look
RATE        sagas a second that W7/hold offers, 200
BENCH_DIR   where the databases go; it should be on a disk
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.measure import CheckFailed, Figures, Workload, is_in_memory, summary
from benchmarks.mixed import HOLD
from benchmarks.recovery import N, recover
from benchmarks.restart import N as SLEEPERS
from benchmarks.restart import restart
from benchmarks.search import search
from benchmarks.workloads import WORKLOADS, run_in_child

Run = Callable[[Path, float], list[Figures]]

#: What the keys of those say that run there.
ON_RABBITMQ: Final = "rabbitmq"

CONSOLE: Final = Console(stderr=True, width=None if sys.stderr.isatty() else 200)


def runs() -> dict[str, Run]:
    """Everything that can be run, by its key."""
    made: dict[str, Run] = {key: partial(_in_child, each) for key, each in WORKLOADS.items()}
    made[HOLD.key] = partial(_in_child, replace(HOLD, rate_per_s=_rate()))
    made["W5/restart"] = _restart
    for workers, place in ((0, ""), (1, f"/{ON_RABBITMQ}")):
        made[f"W6/0{place}"] = partial(_recover, 0.0, workers)
        made[f"W6/1{place}"] = partial(_recover, 1.0, workers)
    made["W7/search"] = search
    return dict(sorted(made.items(), key=lambda item: item[0].partition("/")[0]))


def _in_child(workload: Workload, folder: Path, scale: float) -> list[Figures]:
    return run_in_child(workload.scaled(scale), folder)


def _rate() -> float:
    rate = float(os.environ.get("RATE") or HOLD.rate_per_s)
    if rate <= 0:
        raise SystemExit(f"RATE={rate:g}: a load has more than 0 sagas a second")
    return rate


def _restart(folder: Path, scale: float) -> list[Figures]:
    return [restart(folder, max(1, round(SLEEPERS * scale)))]


def _recover(killed_after_s: float, workers: int, folder: Path, scale: float) -> list[Figures]:
    return [recover(killed_after_s, folder, max(1, round(N * scale)), workers=workers)]


def chosen(words: str) -> dict[str, Run]:
    """The runs that words name, by name or key. Raises SystemExit for one that names none."""
    known = runs()
    wanted = words.lower().split()
    for word in wanted:
        if not any(word in _names(key) for key in known):
            raise SystemExit(f"no workload {word!r}; there are: {' '.join(known)}")
    if not wanted:
        return {key: run for key, run in known.items() if ON_RABBITMQ not in key.split("/")}
    return {key: run for key, run in known.items() if not _names(key).isdisjoint(wanted)}


def _names(key: str) -> set[str]:
    """What a run is called: by its key, and by its workload. What is on RabbitMQ says so, and what
    has not the usual one worker there is another thing.
    """
    key = key.lower()
    name, *more = key.split("/")
    if ON_RABBITMQ not in more:
        return {key, name}
    return {key, ON_RABBITMQ} | ({f"{name}/{ON_RABBITMQ}"} if more[-1] == ON_RABBITMQ else set())


def folder_on_disk() -> str:
    """Where the databases go."""
    given = os.environ.get("BENCH_DIR") or tempfile.gettempdir()
    if not is_in_memory(given):
        return given
    here = os.getcwd()
    CONSOLE.print(f"{given} is in memory, where a sync costs nothing: using {here}", style="yellow")
    return here


def measure(repeats: int, scale: float, root: str) -> Iterator[dict[str, Any]]:
    """The rows of each chosen workload."""
    for key, run in chosen(os.environ.get("WORKLOADS", "")).items():
        figures: list[list[Figures]] = []
        load = os.getloadavg()[0]
        for number in range(repeats):
            with (
                CONSOLE.status(f"{key}, {number + 1} of {repeats}"),
                tempfile.TemporaryDirectory(prefix="amends-bench-", dir=root) as folder,
            ):
                figures.append(run(Path(folder), scale))
        for row in zip(*figures, strict=True):
            yield summary(row) | {"load_before": round(load, 2)}


COLUMNS: Final = {
    "n": "n",
    "in flight": "inflight",
    "workers": "workers",
    "events": "journal_events",
    "offered /s": "rate_per_s",
    "highest /s": "highest_rate_per_s",
    "/s": "per_s",
    "steps/s": "steps_per_s",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "CPU s": "cpu_s_per_1000",
    "orchestrator": "orchestrator_cpu_s_per_1000",
    "workers' CPU": "workers_cpu_s_per_1000",
    "broker": "broker_cpu_s_per_1000",
    "messages": "messages_per_saga",
    "AMQP": "amqp_per_saga",
    "CPU ms a turn": "cpu_ms_per_turn",
    "bytes a sleeper": "rss_per_sleeper_bytes",
    "replayed s": "replay_s",
    "answered s": "answered_s",
    "recovered s": "recovered_s",
    "steps running": "steps_running",
    "steps twice": "steps_twice",
    "others' CPUs": "others_cpus",
}


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    title = (
        f"Amends {version('amends')}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs: medians (from – to)"
    )
    made = Table(title=title, caption="CPU: user and system, client and engine, per 1,000 sagas")
    columns = {
        heading: field for heading, field in COLUMNS.items() if any(field in row for row in rows)
    }
    made.add_column("workload")
    for heading in columns:
        made.add_column(heading, justify="right")
    for row in rows:
        cells = [_cell(row, field) for field in columns.values()]
        made.add_row(f"{row['workload']} {row['what']}", *cells)
    return made


def _cell(row: dict[str, Any], field: str) -> str:
    if field not in row:
        return ""
    low, high = row["spread"].get(field, (row[field], row[field]))
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

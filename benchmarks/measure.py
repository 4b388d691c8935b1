"""Measuring: latencies under bounded concurrency, CPU, memory, and medians of repeated runs."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Protocol, Self

import psutil
import structlog

from benchmarks.latency import Buckets, added, percentile_ms

#: Nothing that is measured takes this long, unless it hangs.
TIMEOUT_S: Final = 300.0


class CheckFailed(Exception):
    """What was measured gave a wrong result, so that its speed means nothing."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run of a workload came to; None where a figure does not apply."""

    workload: str
    what: str
    n: int
    inflight: int | None = None
    workers: int | None = None
    """Processes that run activities for another that runs the sagas."""
    journal_events: int | None = None
    """How long the journals were at which it was measured."""
    rate_per_s: float | None = None
    """Sagas a second that were offered, whatever became of them."""
    highest_rate_per_s: float | None = None
    per_s: float | None = None
    steps_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_s_per_1000: float | None = None
    orchestrator_cpu_s_per_1000: float | None = None
    """The share in it of the process that runs the sagas and the client."""
    workers_cpu_s_per_1000: float | None = None
    broker_cpu_s_per_1000: float | None = None
    messages_per_saga: float | None = None
    """The engine's own; several may travel in one of AMQP's."""
    amqp_per_saga: float | None = None
    """Published, also those by which processes tell each other that they live: one a second."""
    orchestrator_amqp_per_saga: float | None = None
    workers_amqp_per_saga: float | None = None
    cpu_ms_per_turn: float | None = None
    settled_per_s: float | None = None
    """Starts a second until the last saga slept durably, not only was accepted."""
    rss_per_sleeper_bytes: float | None = None
    read_s: float | None = None
    replay_s: float | None = None
    """One journal: from the file, and through the code to where it ends."""
    killed_after_s: float | None = None
    open_at_kill: float | None = None
    """Sagas whose last step had not begun when the process was killed."""
    steps_running: float | None = None
    """Steps that had begun then, and whose outcome was not on record."""
    restarted_s: float | None = None
    """From the start of the new process until its engine runs."""
    recovered_s: float | None = None
    """From the start of the new process until every saga is done."""
    answered_s: float | None = None
    """From the start of the new process until it has done a saga that was started then."""
    answered_after_kill_s: float | None = None
    """The same after a SIGKILL while much was going on."""
    woken_s: float | None = None
    """From the start of the new process until all that was due had woken and ended."""
    file_per_sleeper_bytes: float | None = None
    steps_twice: float | None = None
    others_cpus: float | None = None
    """CPUs that other programs kept busy meanwhile, on average: the noise."""
    histogram: Buckets | None = None


#: What says which run it was; the others are its results.
IDENTITY: Final = (
    "workload",
    "what",
    "n",
    "inflight",
    "workers",
    "journal_events",
    "killed_after_s",
)
RESULTS: Final = tuple(
    field.name for field in fields(Figures) if field.name not in (*IDENTITY, "histogram")
)


class Workload(Protocol):
    """What can be run in a process and a file of its own."""

    @property
    def key(self) -> str:
        """Its name on the command line."""

    def scaled(self, factor: float) -> Self:
        """The same, shorter or longer: for a quick look, or a long one."""

    async def run(self, file: Path, watch: AbstractContextManager[object]) -> list[Figures]:
        """Run it on a new file; `watch` is entered while it is measured. Raises CheckFailed."""


def summary(runs: Sequence[Figures]) -> dict[str, Any]:
    """Medians of repeated runs, and from where to where they went; histograms are added up."""
    rows = [asdict(run) for run in runs]
    row = {name: rows[0][name] for name in IDENTITY if rows[0][name] is not None}
    spread = {}
    for name in RESULTS:
        values = [one[name] for one in rows if one[name] is not None]
        if values:
            row[name] = rounded(statistics.median(values))
            spread[name] = [rounded(min(values)), rounded(max(values))]
    row |= {"repeats": len(runs), "spread": spread}
    histograms = [run.histogram for run in runs if run.histogram is not None]
    return row | ({"histogram": added(histograms)} if histograms else {})


def rounded(value: float) -> float:
    """As many digits as mean something."""
    return round(value) if abs(value) >= 100 else round(value, 1 if abs(value) >= 10 else 3)


@dataclass(frozen=True)
class Driven:
    """How long calls took: all together, and each."""

    wall_s: float
    latencies_s: Sequence[float]

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s

    def percentile_ms(self, percent: float) -> float:
        return percentile_ms(self.latencies_s, percent)


async def drive(n: int, inflight: int, call: Callable[[int], Awaitable[None]]) -> Driven:
    """Make `n` calls, at most `inflight` at once. Raises what a call raises, and TimeoutError."""
    numbers = iter(range(n))
    latencies_s: list[float] = []

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            latencies_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        for _ in range(min(n, inflight)):
            group.create_task(caller())
    return Driven(time.perf_counter() - began, latencies_s)


class CpuMeter:
    """The CPU time that the program takes while it is measured, and that others take from it.

    This process is the program's, with the children that it waits for, under the name `here`;
    `parts` are more processes, by name, each with what gives the CPU time that it took so far.
    """

    def __init__(
        self, parts: Mapping[str, Callable[[], float]] | None = None, *, here: str = "here"
    ) -> None:
        self._parts = {here: cpu_s, **(parts or {})}
        self.used_s_by: dict[str, float] = {}
        self.others_cpus = 0.0
        """How many CPUs other programs kept busy, on average: what made the figures noisy."""

    @property
    def used_s(self) -> float:
        """What all parts took together."""
        return sum(self.used_s_by.values())

    def __enter__(self) -> CpuMeter:
        self._began = time.perf_counter(), self._so_far_s(), _busy_s()
        return self

    def _so_far_s(self) -> dict[str, float]:
        return {part: used_s() for part, used_s in self._parts.items()}

    def __exit__(self, *_: object) -> None:
        wall_s, before_s, busy_s = self._began
        self.used_s_by = {part: now - before_s[part] for part, now in self._so_far_s().items()}
        busy_s = _busy_s() - busy_s - self.used_s
        self.others_cpus = max(0.0, busy_s / (time.perf_counter() - wall_s))


def _busy_s() -> float:
    """CPU time of everything on this machine since it was started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)


def cpu_s() -> float:
    """User and system time of this process, all its threads and the children it waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def rss_bytes() -> int:
    """The memory of this process that is in RAM."""
    return psutil.Process().memory_info().rss


def is_in_memory(path: str) -> bool:
    """Whether a directory is on a file system that forgets: there, a sync costs nothing."""
    real = os.path.realpath(path)
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    holding = (mount for mount in mounts if os.path.commonpath([mount, real]) == mount)
    return mounts[max(holding, key=len)] in {"tmpfs", "ramfs"}


def check(holds: bool, what: str, **seen: object) -> None:
    """Raise CheckFailed unless it holds."""
    if not holds:
        details = ", ".join(f"{name}={value!r}" for name, value in seen.items())
        raise CheckFailed(f"{what} ({details})")


def check_equal(found: Mapping[str, int], wanted: Mapping[str, int], what: str) -> None:
    """Raise CheckFailed unless two counts are the same."""
    check(dict(found) == dict(wanted), what, found=dict(found), wanted=dict(wanted))


def quiet() -> None:
    """Let the engine log warnings and worse only, to stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

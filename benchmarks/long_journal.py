"""W8: long journals: what a turn costs at the end of one, and how long it takes to replay one.

A saga posts entries one after another, each a step with an undo, so that every turn adds two
events, and then waits for a signal.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final, Self

from amends import Client, Handle
from amends.sagas.outside import outside_tasks
from amends.sagas.replay import replay
from benchmarks import sagas as s
from benchmarks.cases import Case, check_journals, check_runs, finish, warm_up
from benchmarks.latency import percentile_ms
from benchmarks.measure import TIMEOUT_S, CpuMeter, Figures

EVENTS_PER_TURN: Final = 2
#: Turns are measured while a journal grows by so much of its length.
GROWTH: Final = 0.2


def _case(events: int) -> Case:
    """A saga whose journal has so many events when it begins to wait for its signal."""
    entries = max(1, events // EVENTS_PER_TURN)
    return Case(
        saga=s.ledger,
        input=entries,
        outcome=f"{sum(range(entries))} by hand",
        journal={
            "SagaStarted": 1,
            "StepScheduled": entries,
            "StepCompleted": entries,
            "SignalReceived": 1,
            "SagaCompleted": 1,
        },
        runs={"post": entries},
    )


class _Stopwatch:
    """CPU and wall time between the posting of two entries, added up over sagas."""

    def __init__(self, first: int, last: int) -> None:
        self.turns = 0
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self._first = first
        self._last = last
        self._began = (0.0, 0.0)

    def __call__(self, number: int) -> None:
        if number == self._first:
            self._began = time.process_time(), time.perf_counter()
        elif number == self._last:
            cpu_s, wall_s = self._began
            self.cpu_s += time.process_time() - cpu_s
            self.wall_s += time.perf_counter() - wall_s
            self.turns += self._last - self._first


@dataclass(frozen=True, kw_only=True)
class _LongJournals:
    """How many sagas, and how long their journals are."""

    key: str
    events: int
    sagas: int

    def scaled(self, factor: float) -> Self:
        """The same with other numbers of sagas; for a quick look, with shorter journals too."""
        return replace(
            self,
            events=max(20, round(self.events * min(1.0, factor))),
            sagas=max(1, round(self.sagas * factor)),
        )


@dataclass(frozen=True, kw_only=True)
class Turns(_LongJournals):
    """Sagas one after another, watched while the journal of each is about so long."""

    async def run(self, file: Path, watch: AbstractContextManager[object]) -> list[Figures]:
        """Run it on a new file; `watch` is entered while it is measured. Raises CheckFailed."""
        middle, window = self.events // EVENTS_PER_TURN, self.events * GROWTH / EVENTS_PER_TURN
        stopwatch = _Stopwatch(round(middle - window / 2), round(middle + window / 2))
        case = _case(round(self.events * (1 + GROWTH)))
        ids = []
        async with s.app.run(file) as client:
            await warm_up(client)
            s.WATCHERS.append(stopwatch)
            with CpuMeter() as cpu, watch:
                for number in range(self.sagas):
                    handle = await client.start(case.saga, case.input, id=f"ledger-{number}")
                    await handle.signal(s.closed, "by hand")
                    ids.append(await finish(handle, case))
            check_runs(s.RUNS, [(case, self.sagas)])
            await check_journals(client, case.saga, ids, case.journal)
        return [
            Figures(
                workload="W8",
                what="turns at the end of a journal",
                n=stopwatch.turns,
                inflight=1,
                journal_events=self.events,
                steps_per_s=stopwatch.turns / stopwatch.wall_s,
                cpu_ms_per_turn=stopwatch.cpu_s / stopwatch.turns * 1000,
                others_cpus=cpu.others_cpus,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Replays(_LongJournals):
    """Sagas with long journals that no engine has in memory, and that are signalled."""

    async def run(self, file: Path, watch: AbstractContextManager[object]) -> list[Figures]:
        """Run it on a new file; `watch` is entered while it is measured. Raises CheckFailed."""
        case = _case(self.events)
        ids = [f"ledger-{number}" for number in range(self.sagas)]
        async with s.app.run(file) as client:
            await warm_up(client)
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.gather(*[_write(client, id, case) for id in ids])
            check_runs(s.RUNS, [(case, self.sagas)])
        async with s.app.run(file) as client:
            parts = [await _read_and_replay(client, id) for id in ids]
            with CpuMeter() as cpu, watch:
                resumed_s = [await _resume(client, id, case) for id in ids]
            check_runs(s.RUNS, [(case, self.sagas)])
            await check_journals(client, case.saga, ids, case.journal)
        return [
            Figures(
                workload="W8",
                what="resuming from a journal",
                n=self.sagas,
                inflight=1,
                journal_events=self.events,
                p50_ms=percentile_ms(resumed_s, 50),
                p99_ms=percentile_ms(resumed_s, 99),
                cpu_s_per_1000=cpu.used_s / self.sagas * 1000,
                read_s=median(read_s for read_s, _ in parts),
                replay_s=median(replay_s for _, replay_s in parts),
                others_cpus=cpu.others_cpus,
            )
        ]


async def _write(client: Client, id: str, case: Case) -> None:
    """Run a saga until it waits for its signal."""
    handle = await client.start(case.saga, case.input, id=id)
    while await _last_version(client, handle) < EVENTS_PER_TURN * case.input:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _last_version(client: Client, handle: Handle[str]) -> int:
    (last,) = await client.backend.store.read_backwards(handle.instance.stream, limit=1)
    return last.version


async def _read_and_replay(client: Client, id: str) -> tuple[float, float]:
    """How long each takes, in seconds, done by hand."""
    instance = client.handle(s.ledger, id).instance
    began = time.perf_counter()
    records = await client.journal(instance)
    read = time.perf_counter()
    execution = await outside_tasks(lambda: replay(s.ledger, instance, records, s.app.activities))
    replayed = time.perf_counter()
    execution.discard()
    return read - began, replayed - read


async def _resume(client: Client, id: str, case: Case) -> float:
    """How long it takes the engine, in seconds, from the signal to the result."""
    began = time.perf_counter()
    handle = client.handle(s.ledger, id)
    await handle.signal(s.closed, "by hand")
    await finish(handle, case)
    return time.perf_counter() - began


WORKLOADS: Final = (
    Turns(key="W8/100", events=100, sagas=100),
    Turns(key="W8/1000", events=1000, sagas=10),
    Turns(key="W8/10000", events=10_000, sagas=1),
    Replays(key="W8/replay", events=10_000, sagas=5),
)

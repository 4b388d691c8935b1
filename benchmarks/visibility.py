"""`amends list` over many instances: how long the projection *sagas* takes to answer.

    python -m benchmarks.visibility [--instances 1000000] [--keep DIR]

A log is made up while it is read: of each 1000 instances 943 complete, 40 are compensated, 5 fail, 10 run,
1 is parked, 1 is stalled. The projection builds its tables from it as from any other log. Then each question is
asked 21 times: the first answer, the median and the slowest are shown, and what a whole command takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TypeVar, cast
from uuid import UUID

from sqlalchemy import Connection

from amends import App
from amends.domain import events as e
from amends.domain.envelope import RecordedEvent, encode_metadata
from amends.domain.ids import InstanceId, Position
from amends.projections.build import build
from amends.projections.builtin import Sagas
from amends.projections.builtin.finding import count, find
from amends.projections.database import Database
from amends.projections.filter import parse_filter
from amends.sagas.journal import encode_data
from amends.stores.port import EventFilter, EventStore

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)
METADATA = encode_metadata(correlation_id="c", causation_id="c")
EVENTS = 4  # of each instance
QUESTIONS = (
    "",
    "state:parked",
    "state:parked,stalled saga:transfer_money older:1h",
    "state:running",
    "saga:refund_order older:30d",
    "payer:DE0000012345",
    "state:parked payer:DE00000*",
    "state:compensated currency:EUR newer:9000h",
    "state:parked currency:EUR",
    "id:p-77777*",
    "step:withdraw idle:1h",
    "step:deposit",
    "error:Refused state:parked",
    "error:Nothing",
)


class GeneratedLog:
    """A log that is made up where it is read: `EVENTS` events for each instance, one after another."""

    def __init__(self, instances: int) -> None:
        self.instances = instances

    async def end(self) -> Position:
        return Position(self.instances * EVENTS - 1)

    async def read_all(
        self, after: Position, *, filter: EventFilter, limit: int
    ) -> list[RecordedEvent]:
        last = min(after + limit, self.instances * EVENTS - 1)
        return [self._record(position) for position in range(after + 1, last + 1)]

    def _record(self, position: int) -> RecordedEvent:
        number, version = divmod(position, EVENTS)
        instance, events = journal(number)
        event = events[version]
        at = START + timedelta(seconds=number * 10 + version)
        return RecordedEvent(
            instance.stream, version, Position(position), UUID(int=position),
            type(event).__name__, encode_data(event), METADATA, at,
        )  # fmt: skip


@lru_cache(maxsize=1)
def journal(number: int) -> tuple[InstanceId, list[e.JournalEvent]]:
    """The journal of an instance, by its number."""
    draw = random.Random(number)
    instance = InstanceId("refund_order" if number % 10 == 0 else "transfer_money", f"p-{number}")
    at = START + timedelta(seconds=number * 10)
    input = {
        "payer": f"DE{draw.randrange(100_000):010}",
        "payee": f"FR{draw.randrange(100_000):010}",
        "cents": draw.randrange(100_000),
        "currency": draw.choice(("EUR", "EUR", "CHF")),
    }
    error = e.ErrorInfo(type="Refused", message="the account is closed", declared=True)
    return instance, [
        e.SagaStarted(at=at, saga=instance.saga, id=instance.id, input=input),
        e.StepScheduled(seq=1, activity="withdraw", queue="ledger", input=input, undo="refund"),
        *fate(draw.randrange(1000), at, error),
    ]


def fate(draw: int, at: datetime, error: e.ErrorInfo) -> list[e.JournalEvent]:
    done = e.StepCompleted(at=at, seq=1, attempt=1, result={"version": 1})
    if draw < 943:
        return [done, e.SagaCompleted(seq=0, result={"version": 1})]
    if draw < 983:
        return [done, e.SagaCompensated(seq=0, error=error)]
    if draw < 988:
        return [e.StepFailed(at=at, seq=1, error=error), e.SagaFailed(seq=0, error=error)]
    failed = e.StepAttemptFailed(
        at=at, seq=1, attempt=1, outcome=e.AttemptOutcome.TIMED_OUT, error=error
    )
    if draw < 998:
        return [failed, e.StepRetried(at=at, seq=1, attempt=2)]
    if draw < 999:
        return [failed, e.StepParked(at=at, seq=1, error=error)]
    return [done, e.SagaStalled(at=at, error=error, since=2)]


async def make(folder: Path, instances: int) -> None:
    log = GeneratedLog(instances)
    began = time.perf_counter()
    async with Database.at(f"sqlite:///{folder / 'amends-projections.db'}") as database:
        await build(Sagas(), cast(EventStore, log), database)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"built from {instances * EVENTS:,} events: {instances * EVENTS / seconds:,.0f} events/s, "
        f"peak {peak} MB"
    )


async def ask(folder: Path, times: int) -> None:
    now = datetime.now(UTC)
    async with Database.at(f"sqlite:///{folder / 'amends-projections.db'}") as database:
        for question in QUESTIONS:
            filter = parse_filter(question)
            answer, took = await clock(database, lambda c: find(c, filter, now, 50), times)  # noqa: B023
            shown = f"{len(answer.instances)}{'+' if answer.more else ''} found"
            report(f"list {question}", took, shown)
        counts, took = await clock(database, count, 3)
        report("status", took, f"{counts.total():,} counted")


async def clock(
    database: Database, work: Callable[[Connection], T], times: int
) -> tuple[T, list[float]]:
    """The answer, and how many milliseconds it took each time."""
    took = []
    for _ in range(times - 1):
        began = time.perf_counter()
        await database.look(work)
        took.append((time.perf_counter() - began) * 1000)
    return await database.look(work), took


def report(what: str, took: list[float], found: str) -> None:
    print(
        f"{what:<52} first {took[0]:6.1f} ms  median {median(took):6.1f} ms  "
        f"max {max(took):6.1f} ms  {found}"
    )


def command(folder: Path) -> None:
    """What a whole command takes, in a process of its own; the store beside it is empty."""
    asyncio.run(open_empty(folder / "amends.db"))
    for question in QUESTIONS[1:3]:
        began = time.perf_counter()
        args = [sys.executable, "-m", "amends", "list", *question.split(), "--json"]
        ran = subprocess.run(
            [*args, "--db", str(folder / "amends.db")], capture_output=True, check=True
        )
        seconds = time.perf_counter() - began
        found = [json.loads(line) for line in ran.stdout.splitlines()]
        print(f"amends list {question}: {len(found)} shown, the whole process {seconds:.2f} s")


async def open_empty(file: Path) -> None:
    async with App().run(file):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=21)
    parser.add_argument("--keep", type=Path, help="keep the tables there, and use them again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "amends-projections.db").exists():
            asyncio.run(make(folder, options.instances))
        asyncio.run(ask(folder, options.times))
        command(folder)


if __name__ == "__main__":
    main()

"""How fast a projection is rebuilt, and how far it lags behind the log under load.

    python -m benchmarks.projections rebuild [--events 1000000] [--folder DIRECTORY] [--typed]
    python -m benchmarks.projections lag [--sagas-per-s 200] [--seconds 20] [--apart]

`rebuild`: a projection with one row for each event, over a log of journals of ten events. Prints
events a second, the peak of the process's memory, and what it grew while it rebuilt. `--typed`
decodes and validates every event; without, the handler reads the payload as JSON.

`lag`: from the moment at which an event is appended to the commit of its row, in an engine that
runs sagas meanwhile; `--apart` runs the projection in a process of its own.

`benchmarks/projections_eventsourcing.py` is the same rebuild on the `eventsourcing` library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from pydantic_core import to_json
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, func, select

from amends import App, SagaContext, Settings, activity, saga
from amends.domain.clock import SystemClock
from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.events import SagaStarted, StepCompleted, StepScheduled
from amends.domain.ids import NO_STREAM, START, InstanceId
from amends.projections import Event, Moment, Projection, Rows, on
from amends.projections.applying import Applier
from amends.projections.build import build
from amends.projections.database import Database
from amends.projections.lease import Lease
from amends.projections.log import Batch
from amends.projections.rebuild import Rebuild
from amends.projections.records import Fault
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from benchmarks.children import child

EVENTS_OF_ONE = 10
AT_ONCE = 100

rows_table = Table(
    "steps",
    MetaData(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("instance", String, nullable=False),
    Column("type", String, nullable=False),
    Column("seq", Integer),
    Column("at", Moment, nullable=False),
)


class Raw(Projection):
    """One row for each event, from the payload as it was written."""

    name = "steps"
    tables = (rows_table,)
    streams = ("saga.",)

    @on(SagaStarted, StepScheduled, StepCompleted)
    def any(self, event: Event[SagaStarted | StepScheduled | StepCompleted], rows: Rows) -> None:
        rows.insert(
            rows_table,
            position=event.position,
            instance=event.stream_id,
            type=event.type,
            seq=event.json.get("seq"),
            at=event.at,
        )


class Typed(Raw):
    """The same, with every event decoded and validated."""

    @on(SagaStarted, StepScheduled, StepCompleted)
    def any(self, event: Event[SagaStarted | StepScheduled | StepCompleted], rows: Rows) -> None:
        data = event.data
        rows.insert(
            rows_table,
            position=event.position,
            instance=event.stream_id,
            type=event.type,
            seq=None if isinstance(data, SagaStarted) else data.seq,
            at=event.at,
        )


# --- rebuild


def a_journal(random: random.Random, instance: InstanceId) -> list[NewEvent]:
    at = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    metadata = encode_metadata(correlation_id=str(instance), causation_id=str(instance))

    def new(type: str, **data: Any) -> NewEvent:
        return NewEvent(UUID(int=random.getrandbits(128)), type, to_json(data), metadata)

    events = [new("SagaStarted", at=at, saga=instance.saga, id=instance.id, input={"amount": 5})]
    for seq in range(1, EVENTS_OF_ONE):
        if seq % 2:
            given = {"activity": "withdraw", "queue": "default", "input": {"amount": seq}}
            events.append(new("StepScheduled", seq=seq, **given))
        else:
            events.append(new("StepCompleted", at=at, seq=seq - 1, attempt=1, result="receipt"))
    return events


def journals(count: int) -> Iterator[Append]:
    drawn = random.Random(1)
    for number in range(count):
        instance = InstanceId("transfer", f"{number:08d}")
        yield Append(instance.stream, a_journal(drawn, instance), NO_STREAM)


async def fill(store: SqliteStore, events: int) -> None:
    """Append until there are so many events in the log."""
    have = await store.end() - START
    waiting = []
    for number, append in enumerate(journals(events // EVENTS_OF_ONE)):
        if number * EVENTS_OF_ONE < have:
            continue
        waiting.append(store.append(append))
        if len(waiting) == AT_ONCE:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def rebuild(events: int, folder: Path, projection: Projection) -> dict[str, Any]:
    log = await SqliteDatabase.open(folder / "log.db")
    store = SqliteStore(log)
    await fill(store, events)
    database = Database.at(f"sqlite:///{folder / 'projections.db'}")
    try:
        # Live tables that are empty, so that what is built and compared is all of it.
        await build(projection, store, database, until=START)
        await database.run(
            lambda c: c.exec_driver_sql(
                "UPDATE amends_projections SET position = ?", (int(events - 1),)
            )
        )
        before, began, cpu = peak_mib(), time.perf_counter(), time.process_time()
        marks: list[float] = []
        work = Rebuild(
            projection, store, database, SystemClock(),
            progress=lambda n, at: marks.append(time.perf_counter()),
        )  # fmt: skip
        rebuilt = await work.run(allow=None)
        ended = time.perf_counter()
        assert rebuilt.swapped
        assert rebuilt.diff[0].added == events
        return {
            "what": f"rebuild, {type(projection).__name__.lower()}",
            "events": events,
            "events_per_s": round(events / (marks[-1] - began)),
            "with_diff_and_swap_per_s": round(events / (ended - began)),
            "cpu_s_per_100k": round((time.process_time() - cpu) / events * 1e5, 2),
            "peak_mib": round(peak_mib(), 1),
            "grew_mib": round(peak_mib() - before, 1),
            "load": psutil.getloadavg()[0],
        }
    finally:
        await database.close()
        await store.close()


# --- lag


@activity
async def add_one(n: int) -> int:
    return n + 1


@saga
async def small(ctx: SagaContext, n: int) -> int:
    return await ctx.do(add_one, n)


seen_table = Table(
    "seen",
    MetaData(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("appended", Moment, nullable=False),
)


class Seen(Projection):
    """A row for each event of a saga."""

    name = "seen"
    tables = (seen_table,)
    streams = ("saga.",)
    skips_unknown = True

    @on(SagaStarted, StepScheduled, StepCompleted)
    def any(self, event: Event[SagaStarted | StepScheduled | StepCompleted], rows: Rows) -> None:
        rows.insert(seen_table, position=event.position, appended=event.at)


def tell_commits(path: str) -> None:
    """Write into a file up to which position was committed, and when."""
    apply = Lease.apply

    async def applied(self: Lease, applier: Applier, batch: Batch, *rest: Any) -> Fault | None:
        fault = await apply(self, applier, batch, *rest)
        with Path(path).open("a") as file:  # noqa: ASYNC230 - a line
            file.write(f"{batch.end} {datetime.now(UTC).isoformat()}\n")
        return fault

    Lease.apply = applied  # type: ignore[assignment,method-assign]


COMMITS = "AMENDS_BENCHMARK_COMMITS"
if COMMITS in os.environ:  # also in a process that only has this application
    tell_commits(os.environ[COMMITS])

app = App(sagas=[small], activities=[add_one], projections=[Seen()])


def lags_ms(rows: list[dict[str, Any]], commits: Path) -> Iterator[float]:
    """From each append to the commit of its row."""
    told = (line.split() for line in commits.read_text().splitlines())
    done = [(int(position), datetime.fromisoformat(at)) for position, at in told]
    for row in rows:
        at = done[bisect_left(done, row["position"], key=lambda commit: commit[0])][1]
        yield (at - row["appended"]).total_seconds() * 1000


async def lag(rate: float, seconds: float, folder: Path, *, apart: bool) -> dict[str, Any]:
    settings = Settings(store=f"sqlite:///{folder / 'log.db'}", run_projections=not apart)
    drawn = random.Random(1)
    ended = 0
    async with app.run(settings) as client:
        began, due, waiting = time.perf_counter(), 0.0, set()

        async def one() -> None:
            nonlocal ended
            await (await client.start(small, 1)).result()
            ended += 1

        while due < seconds:
            due += drawn.expovariate(rate)
            await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
            waiting.add(asyncio.create_task(one()))
        took = time.perf_counter() - began
        await asyncio.gather(*waiting)
        await client.projections.caught_up(timeout=120)
        rows = await client.projections.query(select(seen_table))
        count = select(func.count()).select_from(seen_table)
        events = (await client.projections.query(count))[0]
    lags = sorted(lags_ms(rows, folder / "commits"))
    return {
        "what": f"lag, {'a process of its own' if apart else 'in the engine'}",
        "sagas_per_s": round(ended / took),
        "wanted_per_s": rate,
        "events": events["count_1"],
        "p50_ms": round(statistics.median(lags), 1),
        "p99_ms": round(lags[int(len(lags) * 0.99)], 1),
        "max_ms": round(lags[-1], 1),
        "load": psutil.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rebuild", "lag"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--typed", action="store_true")
    parser.add_argument("--sagas-per-s", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for old in folder.glob("projections.db*"):
            old.unlink()
        os.environ[COMMITS] = str(folder / "commits")
        if given.what == "rebuild":
            done = asyncio.run(rebuild(given.events, folder, Typed() if given.typed else Raw()))
        elif given.apart:
            environment = {"AMENDS_STORE": f"sqlite:///{folder / 'log.db'}"}
            asyncio.run(make_store(folder))
            with child("amends.cli", "projector", "benchmarks.projections:app", "--json",
                       "--log-level", "error", **environment) as process:  # fmt: skip
                assert process.stdout is not None
                process.stdout.readline()
                done = asyncio.run(lag(given.sagas_per_s, given.seconds, folder, apart=True))
        else:
            tell_commits(os.environ[COMMITS])
            done = asyncio.run(lag(given.sagas_per_s, given.seconds, folder, apart=False))
    print(json.dumps(done))


async def make_store(folder: Path) -> None:
    await (await SqliteDatabase.open(folder / "log.db")).close()


if __name__ == "__main__":
    main()

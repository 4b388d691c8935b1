"""Running projections: exactly once, one runner each, and a stop at an event that is too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, select

from amends import AmendsError, Settings
from amends.domain.ids import START
from amends.errors import LeaseLost, NotRegistered, ProjectionMismatch, ProjectionStopped
from amends.projections import Event, Projection, Rows, on, on_every
from amends.projections import records as on_record
from amends.projections.applying import Applier, prepare
from amends.projections.database import Database
from amends.projections.lease import Lease, fault_of
from amends.projections.log import Batch, read_batch
from amends.projections.operating import resume, skip
from amends.projections.projector import Projector
from amends.projections.reading import Projections
from amends.projections.records import Record, Target
from amends.stores.memory import MemoryStore
from amends.testing.clock import VirtualClock
from tests.integration.projections.sample import (
    Account,
    Deposited,
    Ledger,
    Sagas,
    accounts,
    append,
    move,
    moves,
    new_event,
    sagas,
    totals,
)

pytestmark = pytest.mark.virtual_time

Open = Callable[[], Database]


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(clock)


@asynccontextmanager
async def running(
    store: MemoryStore,
    database: Database,
    clock: VirtualClock,
    *projections: Projection,
    rebuilds: bool = False,
) -> AsyncIterator[Projections]:
    """The projections run meanwhile; given is what reads them."""
    known = {projection.name: projection for projection in projections}
    projector = Projector(projections, store, database, clock, rebuilds=rebuilds)
    await projector.check()
    task = asyncio.create_task(projector.run())
    reader = Projections(known, Settings(), store, clock)
    reader._database = database
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def record_of(database: Database, name: str) -> Record:
    reader = Projections({}, Settings(), None, None)  # type: ignore[arg-type]
    reader._database = database
    (record,) = [record for record in await reader.records() if record.name == name]
    return record


async def balances(database: Database) -> dict[str, int]:
    return {row["id"]: row["balance"] for row in await database.query(select(accounts))}


async def test_rows_follow_the_log(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 5, 7, -3)
    async with running(store, database, clock, Ledger()) as projections:
        await projections.caught_up()
        assert await balances(database) == {"a": 9}
        await move(store, "b", 1)
        await move(store, "a", 1)
        await projections.caught_up("ledger")
    assert await balances(database) == {"a": 10, "b": 1}
    amounts = select(moves.c.amount).order_by(moves.c.position)
    assert [row["amount"] for row in await database.query(amounts)] == [5, 7, -3, 1, 1]
    assert await database.query(select(totals).order_by(totals.c.kind)) == [
        {"kind": "Deposited", "events": 4, "amount": 14},
        {"kind": "Withdrawn", "events": 1, "amount": 3},
    ]
    (moved,) = await database.query(select(accounts.c.moved).where(accounts.c.id == "a"))
    assert moved["moved"] == (await store.read_all())[-1].recorded_at


async def test_it_goes_on_where_it_stopped(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    for round in range(3):
        await move(store, "a", *range(1, 1500))
        async with running(store, database, clock, Ledger()) as projections:
            await projections.caught_up()
        record = await record_of(database, "ledger")
        assert record.position == await store.end()
        assert record.events == 1499 * (round + 1)
        assert record.owner is None
    assert await balances(database) == {"a": 3 * sum(range(1, 1500))}


async def test_what_it_skips_moves_its_checkpoint(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await append(store, "saga.s-1", new_event("SagaStarted"), new_event("StepScheduled", seq=1))
    await append(store, "saga.s-1", new_event("TimerStarted"), new_event("SagaCompleted"))
    await append(store, "else-1", new_event("SagaStarted"))
    async with running(store, database, clock, Sagas()) as projections:
        await projections.caught_up()
    assert await database.query(select(sagas)) == [{"id": "s/1", "state": "completed", "steps": 1}]
    assert (await record_of(database, "sagas")).position == await store.end()


# --- stopping


class Picky(Projection):
    name = "picky"
    tables = (Table("picky", MetaData(), Column("n", Integer, primary_key=True)),)
    skips_unknown = True
    refused: frozenset[int] = frozenset({3})

    @on(Deposited)
    def deposited(self, event: Event[Deposited], rows: Rows) -> None:
        if event.data.amount in self.refused:
            raise ValueError("not this one")
        rows.insert(self.table_list[0], n=event.data.amount)


async def picked(database: Database) -> list[int]:
    rows = await database.query(select(Picky.table_list[0]).order_by("n"))
    return [row["n"] for row in rows]


async def test_it_stops_at_an_event_and_the_others_go_on(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 2, 3, 4)
    async with running(store, database, clock, Picky(), Ledger()) as projections:
        await projections.caught_up("ledger")
        with pytest.raises(ProjectionStopped, match=r"position 2 \(Deposited.*not this one.*skip"):
            await projections.caught_up("picky")
    assert await picked(database) == [1, 2]
    record = await record_of(database, "picky")
    assert record.fault is not None
    assert (record.fault.position, record.fault.type) == (2, "Deposited")
    assert "in deposited" in record.fault.traceback
    assert await balances(database) == {"a": 10}


async def test_a_stopped_one_waits_for_a_person_also_after_a_restart(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 3, 4)
    for _ in range(2):
        async with running(store, database, clock, Picky()) as projections:
            with pytest.raises(ProjectionStopped):
                await projections.caught_up("picky")
            await clock.advance(100)
    assert await picked(database) == [1]


async def test_it_is_resumed_with_corrected_code(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 3, 4)
    async with running(store, database, clock, Picky()) as projections:
        with pytest.raises(ProjectionStopped):
            await projections.caught_up("picky")
        await resume(database, clock, "picky", who="anna", why="try")
        await clock.advance(10)
        with pytest.raises(ProjectionStopped):
            await projections.caught_up("picky")
    corrected = Picky()
    corrected.refused = frozenset()
    async with running(store, database, clock, corrected) as projections:
        await resume(database, clock, "picky", who="anna", why="corrected")
        await projections.caught_up("picky")
    assert await picked(database) == [1, 3, 4]


async def test_an_event_is_skipped_on_record(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 3, 4)
    async with running(store, database, clock, Picky()) as projections:
        with pytest.raises(ProjectionStopped):
            await projections.caught_up("picky")
        fault = await skip(database, clock, "picky", who="anna", why="a test")
        assert fault.position == 1
        await projections.caught_up("picky")
    assert await picked(database) == [1, 4]
    with pytest.raises(AmendsError, match="did not stop"):
        await skip(database, clock, "picky", who="anna", why="again")
    with pytest.raises(NotRegistered, match=r"no projection 'nobody'.*picky"):
        await resume(database, clock, "nobody", who="anna", why="")


async def test_a_broken_rule_of_the_table_is_found_at_its_event(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 2, 4, 2, 5)
    async with running(store, database, clock, Picky()) as projections:
        with pytest.raises(ProjectionStopped, match="position 3"):
            await projections.caught_up("picky")
    assert await picked(database) == [1, 2, 4]


async def test_an_unknown_event_in_its_scope_stops_it(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1)
    await append(store, "account-a", new_event("Frozen"))
    await move(store, "a", 1)
    async with running(store, database, clock, Ledger()) as projections:
        with pytest.raises(ProjectionStopped, match=r"no handler.*skips_unknown"):
            await projections.caught_up("ledger")
    assert await balances(database) == {"a": 1}


async def test_an_event_that_does_not_fit_its_class_stops_it(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await append(store, "account-a", new_event("Deposited", amount="much"))
    async with running(store, database, clock, Ledger()) as projections:
        with pytest.raises(ProjectionStopped, match="does not fit"):
            await projections.caught_up("ledger")


class Everything(Projection):
    name = "everything"
    tables = (
        Table("all_events", MetaData(), Column("n", Integer, primary_key=True),
              Column("type", String), Column("amount", Integer)),
    )  # fmt: skip
    events = Account

    @on(Deposited)
    def deposited(self, event: Event[Deposited], rows: Rows) -> None:
        rows.insert(self.table_list[0], n=event.position, type="in", amount=event.json["amount"])

    @on_every
    def other(self, event: Event[Any], rows: Rows) -> None:
        rows.insert(self.table_list[0], n=event.position, type=event.type)


async def test_one_handler_may_take_whatever_comes(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, -1)
    await append(store, "x-1", new_event("Unheard"))
    async with running(store, database, clock, Everything()) as projections:
        await projections.caught_up()
    assert [tuple(row.values()) for row in await database.query(select(Everything.table_list[0]))] == [
        (0, "in", 1), (1, "Withdrawn", None), (2, "Unheard", None),
    ]  # fmt: skip


# --- the lease


async def test_a_second_runner_waits_and_takes_over(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    one, other = open_database(), open_database()
    await move(store, "a", 1)
    async with running(store, one, clock, Ledger()) as first:
        await first.caught_up()
        owner = (await record_of(one, "ledger")).owner
        async with running(store, other, clock, Ledger()) as second:
            for n in range(20):
                await move(store, "a", 1)
                await clock.advance(3)
                assert (await record_of(one, "ledger")).owner == owner, n
            assert await balances(one) == {"a": 21}
        async with running(store, other, clock, Ledger()) as second:
            await clock.advance(1)
            await kill(first)
            await move(store, "a", 1)
            await clock.advance(5)
            assert await balances(other) == {"a": 21}
            await second.caught_up(timeout=20)
            assert (await record_of(other, "ledger")).owner != owner
    assert await balances(other) == {"a": 22}


async def kill(projections: Projections) -> None:
    """Take the database from under it, as if the process were gone: the lease is not given back."""
    await projections.database.close()


async def test_whoever_lost_the_lease_writes_nothing(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    one, other = open_database(), open_database()
    await move(store, "a", *[1] * 50)
    async with running(store, one, clock, Ledger()) as first:
        await first.caught_up()
        async with running(store, other, clock, Ledger()) as second:
            # It sleeps for longer than its lease holds, and finds out when it writes.
            await expire(other)
            await clock.advance(5)
            await move(store, "a", 1)
            await second.caught_up()
            assert await balances(other) == {"a": 51}
            await clock.advance(100)
            record = await record_of(other, "ledger")
            assert record.events == 51


async def test_the_token_fences_every_write(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 2)
    one, other = open_database(), open_database()
    slow = await leased(one, clock)
    batch = await read_batch(store, START, Ledger().filter, 10)
    applier = Applier(Ledger(), await slow.renewed(), one)
    await clock.advance(11)
    quick = await leased(other, clock)
    assert await quick.apply(Applier(Ledger(), await quick.renewed(), other), batch) is None
    for act in (
        lambda: slow.apply(applier, batch),
        lambda: slow.apply(applier, Batch([], batch.end)),
        slow.renewed,
        lambda: slow.stop(fault_of(batch.events[0], ValueError("late"), clock.now())),
    ):
        with pytest.raises(LeaseLost):
            await act()
    await slow.release()
    record = await record_of(other, "ledger")
    assert (record.events, record.is_stopped, record.token) == (2, False, quick.token)
    assert record.owner is not None
    assert await balances(other) == {"a": 3}


async def leased(database: Database, clock: VirtualClock) -> Lease:
    def take(connection: Connection) -> int:
        now = clock.now()
        prepare(connection, Ledger(), database, now)
        token = on_record.take_lease(
            connection, "ledger", Target.LIVE, owner="me", now=now, lease_s=10
        )
        assert token is not None
        return token

    return Lease(database, clock, "ledger", Target.LIVE, await database.run(take), 10)


async def expire(database: Database) -> None:
    await database.run(
        lambda c: c.execute(on_record.projections.update().values(leased_until=None, owner=None))
    )


# --- what does not fit


def other_ledger(
    *columns: Any, version: int = 1, name: str = "ledger", table: str = "accounts"
) -> Projection:
    body = Table(table, MetaData(), Column("id", String, primary_key=True), *columns)

    class Other(Projection):
        tables = (body,)
        skips_unknown = True

        @on(Deposited)
        def deposited(self, event: Event[Deposited], rows: Rows) -> None: ...

    made: Projection = type("Named", (Other,), {"name": name, "version": version})()
    return made


async def check(database: Database, clock: VirtualClock, *projections: Projection) -> None:
    await Projector(projections, MemoryStore(clock), database, clock).check()


async def test_other_tables_of_the_same_version_are_refused(
    database: Database, clock: VirtualClock
) -> None:
    await check(database, clock, other_ledger(Column("a", Integer)))
    for columns in [Column("b", Integer)], [Column("a", String)], []:
        with pytest.raises(ProjectionMismatch, match=r"Raise its version to 2.*rebuild ledger"):
            await check(database, clock, other_ledger(*columns), Sagas())
    await check(database, clock, other_ledger(Column("a", Integer)))
    with pytest.raises(ValueError, match="unpack"):
        await record_of(database, "sagas")  # nothing was changed


async def test_tables_of_somebody_else_are_left_alone(
    database: Database, clock: VirtualClock
) -> None:
    await check(database, clock, other_ledger())
    with pytest.raises(ProjectionMismatch, match="not its own"):
        await check(database, clock, other_ledger(name="another"))


async def test_tables_that_somebody_changed_are_refused(
    database: Database, clock: VirtualClock
) -> None:
    await check(database, clock, other_ledger(Column("a", Integer)))
    await database.run(lambda c: c.exec_driver_sql("ALTER TABLE accounts ADD COLUMN more TEXT"))
    with pytest.raises(ProjectionMismatch, match=r"somebody has changed table 'accounts'"):
        await check(database, clock, other_ledger(Column("a", Integer)))
    await database.run(lambda c: c.exec_driver_sql("DROP TABLE accounts"))
    with pytest.raises(ProjectionMismatch, match="dropped"):
        await check(database, clock, other_ledger(Column("a", Integer)))


async def test_tables_of_a_longer_log_are_refused(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 2)
    async with running(store, database, clock, Ledger()) as projections:
        await projections.caught_up()
    rows, before = await balances(database), await record_of(database, "ledger")
    shorter = MemoryStore(clock)  # a new file under the old name, or one from a backup
    await move(shorter, "a", 1)
    with pytest.raises(ProjectionMismatch, match=r"ends at position \d+, .* another log"):
        await Projector([Ledger()], shorter, database, clock).check()
    # Nor does one go on that was running: events would be left out.
    with pytest.raises(ProjectionMismatch, match="another log"):
        await read_batch(shorter, before.position, Ledger().filter, 10)
    assert await balances(database) == rows
    assert (await record_of(database, "ledger")).position == before.position


async def test_another_version_waits_and_touches_nothing(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await check(database, clock, other_ledger(version=2))
    await move(store, "a", 1)
    for version, why in ((1, "deploy the newer"), (3, "rebuild ledger")):
        async with running(store, database, clock, other_ledger(version=version)) as projections:
            await clock.advance(60)
            with pytest.raises(ProjectionMismatch, match=why):
                await projections.caught_up()
        record = await record_of(database, "ledger")
        assert (record.version, record.position, record.token) == (2, START, 0)


class Spoilt(MemoryStore):
    """Cannot be read for a while, in a way that no store should fail."""

    failures = 3

    async def read_all(self, *args: Any, **options: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise TypeError("a row is not what it should be")
        return await super().read_all(*args, **options)

    def subscribe(self, *args: Any, **options: Any) -> Any:
        if self.failures:
            raise TypeError("a row is not what it should be")
        return super().subscribe(*args, **options)


async def test_a_log_that_cannot_be_read_ends_no_engine(
    database: Database, clock: VirtualClock
) -> None:
    """It waits, says so, and goes on by itself once the log can be read."""
    store = Spoilt(clock)
    await move(store, "a", 5)
    async with running(store, database, clock, Ledger()) as reader:
        await reader.caught_up("ledger")
        assert store.failures == 0

"""Building projections anew: beside the live tables, compared with them, swapped at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, inspect, select

from amends import AmendsError
from amends.errors import (
    NotRegistered,
    ProjectionMismatch,
    ProjectionStopped,
    ProjectionUnavailable,
)
from amends.projections import Event, Projection, Rows, on
from amends.projections import records as on_record
from amends.projections.build import build
from amends.projections.database import Database
from amends.projections.operating import skip
from amends.projections.rebuild import Rebuild, Rebuilt
from amends.stores.memory import MemoryStore
from amends.testing.clock import VirtualClock
from tests.integration.projections.sample import Deposited, Ledger, accounts, move, moves
from tests.integration.projections.test_running import (
    Picky,
    balances,
    picked,
    record_of,
    running,
)

pytestmark = pytest.mark.virtual_time

Open = Callable[[], Database]


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(clock)


async def rebuild(
    projection: Projection, store: MemoryStore, database: Database, clock: VirtualClock,
    **options: Any,
) -> Rebuilt:  # fmt: skip
    return await Rebuild(projection, store, database, clock, who="anna").run(**options)


async def tables_in(database: Database) -> set[str]:
    names = await database.look(lambda c: set(inspect(c).get_table_names()))
    return {name for name in names if not name.startswith("amends_")}


async def ran(
    store: MemoryStore, database: Database, clock: VirtualClock, projection: Projection
) -> None:
    async with running(store, database, clock, projection) as projections:
        await projections.caught_up()


async def test_the_same_comes_of_it_again_and_again(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", *range(1, 1200))
    await ran(store, database, clock, Ledger())
    for round in range(3):
        rebuilt = await rebuild(Ledger(), store, database, clock)
        assert (rebuilt.swapped, rebuilt.differences) == (True, 0)
        assert [table.rows for table in rebuilt.diff] == [1, 1199 + round, 1]
        assert await tables_in(database) == {"accounts", "moves", "totals"}
        await move(store, "a", 1)
        await ran(store, database, clock, Ledger())
    assert await balances(database) == {"a": sum(range(1, 1200)) + 3}
    assert (await record_of(database, "ledger")).events == 1202


async def spoil(database: Database) -> None:
    def write(connection: Any) -> None:
        connection.execute(accounts.update().where(accounts.c.id == "a").values(balance=99))
        connection.execute(moves.delete().where(moves.c.account == "b"))
        moment = "2026-01-01 00:00:00.000000+00"
        connection.exec_driver_sql(f"INSERT INTO accounts VALUES ('nobody', 1, '{moment}')")

    await database.run(write)


@pytest.mark.parametrize(("options", "swapped"), [
    ({}, False), ({"allow": 2}, False), ({"dry_run": True}, False),
    ({"allow": 3, "dry_run": True}, False), ({"allow": 3}, True), ({"allow": None}, True),
])  # fmt: skip
async def test_the_difference_decides_whether_they_are_swapped(
    store: MemoryStore, database: Database, clock: VirtualClock, options: Any, swapped: bool
) -> None:
    await move(store, "a", 5)
    await move(store, "b", 7)
    await ran(store, database, clock, Ledger())
    await spoil(database)
    rebuilt = await rebuild(Ledger(), store, database, clock, **options)
    assert (rebuilt.swapped, rebuilt.differences) == (swapped, 3)
    first, second, third = rebuilt.diff
    assert (first.added, first.missing, first.changed) == (0, 1, 1)
    assert [row["id"] for row in first.missing_rows] == ["nobody"]
    assert [(c.before["balance"], c.after["balance"]) for c in first.changed_rows] == [(99, 5)]
    assert (second.added, second.missing, second.changed) == (1, 0, 0)
    assert second.added_rows[0]["account"] == "b"
    assert third.size == 0
    right, wrong = {"a": 5, "b": 7}, {"a": 99, "b": 7, "nobody": 1}
    assert await balances(database) == (right if swapped else wrong)
    assert await tables_in(database) == {"accounts", "moves", "totals"}
    await move(store, "b", 1)
    await ran(store, database, clock, Ledger())  # the lease was given back


async def test_it_is_built_while_the_live_one_goes_on(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    await move(store, "a", *[1] * 2500)
    live = open_database()
    async with running(store, live, clock, Ledger()) as projections:
        await projections.caught_up()
        seen: list[int] = []

        def progress(events: int, position: int) -> None:
            seen.append(position)

        work = Rebuild(Ledger(), store, open_database(), clock, progress=progress)
        await move(store, "a", 1)
        rebuilt = await work.run()
        assert (rebuilt.swapped, rebuilt.differences) == (True, 0)
        assert seen == sorted(seen)
        assert len(seen) >= 3
        await move(store, "a", 1)
        await projections.caught_up()
    assert await balances(live) == {"a": 2502}


def wider_ledger(version: int) -> Projection:
    body = Table(
        "accounts", MetaData(), Column("id", String, primary_key=True),
        Column("moves", Integer, nullable=False),
    )  # fmt: skip

    class Wider(Projection):
        name = "ledger"
        tables = (body,)
        skips_unknown = True

        @on(Deposited)
        def deposited(self, event: Event[Deposited], rows: Rows) -> None:
            rows.add(body, id=event.stream_id, moves=1)

    Wider.version = version
    return Wider()


async def test_another_version_has_other_tables(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 5, 6)
    await ran(store, database, clock, Ledger())
    with pytest.raises(ProjectionMismatch):
        await rebuild(wider_ledger(1), store, database, clock)
    rebuilt = await rebuild(wider_ledger(2), store, database, clock)
    assert rebuilt.swapped
    assert not rebuilt.diff[0].comparable
    assert await tables_in(database) == {"accounts"}
    await move(store, "a", 5)
    await ran(store, database, clock, wider_ledger(2))
    rows = await database.query(select(wider_ledger(2).table_list[0]))
    assert rows == [{"id": "a", "moves": 3}]
    history = await database.query(select(on_record.history))
    assert [(h["action"], h["version"], h["who"]) for h in history] == [
        ("create", 1, None), ("rebuild", 2, "anna"),
    ]  # fmt: skip


async def test_another_version_rebuilds_by_itself_if_asked_to(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    await move(store, "a", 5, 6)
    old = open_database()
    async with running(store, old, clock, Ledger()) as projections:
        await projections.caught_up()
        new = open_database()
        async with running(store, new, clock, wider_ledger(2), rebuilds=True):
            await clock.advance(10)
            await move(store, "a", 1)
            await clock.advance(10)
            record = await record_of(new, "ledger")
            assert (record.version, record.position) == (2, await store.end())
            await clock.advance(60)
            assert (await record_of(new, "ledger")).owner == record.owner
    rows = await new.query(select(wider_ledger(2).table_list[0]))
    assert rows == [{"id": "a", "moves": 3}]


async def test_one_that_died_is_cleared_away(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    await move(store, "a", *[1] * 1500)
    one, other = open_database(), open_database()
    await ran(store, one, clock, Ledger())

    def die(events: int, position: int) -> None:
        raise KeyboardInterrupt

    dying = Rebuild(Ledger(), store, one, clock, progress=die)
    dying._clean_up = nothing  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        await dying.run()
    assert len(await tables_in(other)) == 6
    with pytest.raises(AmendsError, match="is being rebuilt"):
        await rebuild(Ledger(), store, other, clock)
    await clock.advance(61)
    assert (await rebuild(Ledger(), store, other, clock)).swapped
    assert len(await tables_in(other)) == 3


async def nothing(*_: object) -> None: ...


async def test_what_was_skipped_is_skipped_again_in_the_same_version(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 3, 4)
    async with running(store, database, clock, Picky()) as projections:
        with pytest.raises(ProjectionStopped):
            await projections.caught_up()
        await skip(database, clock, "picky", who="anna", why="a test")
        await projections.caught_up()
    rebuilt = await rebuild(Picky(), store, database, clock)
    assert (rebuilt.swapped, rebuilt.differences) == (True, 0)

    class Picky2(Picky):
        version = 2

    with pytest.raises(ProjectionStopped, match="position 1"):
        await rebuild(Picky2(), store, database, clock)
    assert await picked(database) == [1, 4]
    corrected = Picky2()
    corrected.refused = frozenset()
    assert (await rebuild(corrected, store, database, clock)).swapped
    assert await picked(database) == [1, 3, 4]


async def test_a_stopped_one_goes_on_after_it(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", 1, 3, 4)
    async with running(store, database, clock, Picky()) as projections:
        with pytest.raises(ProjectionStopped):
            await projections.caught_up()
    rebuilt = await rebuild(Picky(), store, database, clock)
    assert (rebuilt.swapped, rebuilt.position) == (True, 0)
    corrected = Picky()
    corrected.refused = frozenset()
    await ran(store, database, clock, corrected)
    assert await picked(database) == [1, 3, 4]


async def test_there_must_be_something_to_rebuild(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    with pytest.raises(NotRegistered, match="never ran here"):
        await rebuild(Ledger(), store, database, clock)
    assert await tables_in(database) == set()


# --- as of


async def test_it_is_built_as_of_any_position_or_moment(
    store: MemoryStore, open_database: Open, clock: VirtualClock
) -> None:
    moments = []
    for _ in range(5):
        await move(store, "a", 1, 1)
        moments.append(clock.now())
        await clock.advance(60)
    cases: list[tuple[Any, int]] = [(None, 10), (3, 4), (0, 1), (-1, 0), (99, 10)]
    cases += [(moment, 2 * n) for n, moment in enumerate(moments, 1)]
    for until, expected in cases:
        async with Database.at("sqlite://") as aside:
            record = await build(Ledger(), store, aside, until=until, clock=clock)
            assert record.events == expected
            assert await balances(aside) == ({"a": expected} if expected else {})
            with pytest.raises(AmendsError, match="already"):
                await build(Ledger(), store, aside, clock=clock)


class Unreliable(Database):
    """Cannot be used now and then."""

    calls = 0

    async def run(self, work: Any) -> Any:
        self.calls += 1
        if self.calls % 4 == 0:
            raise ProjectionUnavailable("not now")
        return await super().run(work)


async def test_a_rebuild_waits_for_its_database(
    store: MemoryStore, address: str, database: Database, clock: VirtualClock
) -> None:
    await move(store, "a", *[1] * 2500)
    await ran(store, database, clock, Ledger())
    async with Unreliable.at(address) as unreliable:
        rebuilt = await rebuild(Ledger(), store, unreliable, clock)
        assert unreliable.calls > 9
    assert (rebuilt.swapped, rebuilt.differences, rebuilt.events) == (True, 0, 2500)


async def test_one_that_cannot_be_rebuilt_waits_for_a_person(
    store: MemoryStore, database: Database, clock: VirtualClock
) -> None:
    class Picky2(Picky):
        version = 2

    await move(store, "a", 1, 2)
    await ran(store, database, clock, Picky())
    await move(store, "a", 3)
    async with running(store, database, clock, Picky2(), rebuilds=True):
        await clock.advance(60)
        assert (await record_of(database, "picky")).version == 1
        builds = (await record_of(database, "picky")).build
        await clock.advance(600)
        assert (await record_of(database, "picky")).build == builds
    assert await picked(database) == [1, 2]
    assert len(await tables_in(database)) == 1

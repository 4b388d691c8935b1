"""Random histories, with a crash between any two batches: nothing is taken in twice or left out.

What a rebuild makes of the log is what is in the live tables, and as of any moment a projection is
what a replay up to it gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json
from sqlalchemy import Connection, MetaData, select

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import Position
from amends.projections import build as building
from amends.projections import runner as running
from amends.projections.database import Database
from amends.projections.projector import Projector
from amends.projections.reading import Projections
from amends.projections.rebuild import Rebuild
from amends.settings import Settings
from amends.stores.memory import MemoryStore
from amends.testing.clock import VirtualClock, run_virtual
from tests.integration.projections.sample import Ledger, accounts, move, moves, totals

amounts = st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=6)
appends = st.tuples(st.sampled_from("abc"), amounts, st.sampled_from([0, 0, 1, 45]))
histories = st.lists(appends, max_size=12)
crashes = st.lists(
    st.tuples(st.integers(1, 6), st.booleans()), max_size=6
)  # after how many transactions; and whether the last one was committed
cuts = st.lists(st.integers(-1, 40) | st.floats(0, 200), max_size=3)

#: Small, so that there are many batches.
BATCH = 3


class Crash(BaseException):
    """The process is gone."""


class CrashingDatabase(Database):
    """Dies at a transaction, before or after it is committed."""

    transactions_left: int | None = None
    is_committed = False

    async def run(self, work: Callable[[Connection], Any]) -> Any:
        if self.transactions_left is None:
            return await super().run(work)
        self.transactions_left -= 1
        if self.transactions_left > 0:
            return await super().run(work)
        if self.is_committed and self.transactions_left == 0:
            await super().run(work)
        raise Crash


def replayed(events: list[RecordedEvent]) -> dict[str, list[dict[str, Any]]]:
    """What the tables must be, by the plainest means."""
    by_account: dict[str, dict[str, Any]] = {}
    by_kind: dict[str, dict[str, Any]] = {}
    moved = []
    for record in events:
        amount = from_json(record.data)["amount"]
        signed = amount if record.type == "Deposited" else -amount
        id = record.stream.removeprefix("account-")
        row = by_account.setdefault(id, {"id": id, "balance": 0})
        row |= {"balance": row["balance"] + signed, "moved": record.recorded_at}
        total = by_kind.setdefault(record.type, {"kind": record.type, "events": 0, "amount": 0})
        total |= {"events": total["events"] + 1, "amount": total["amount"] + amount}
        moved.append(
            {"account": id, "n": record.version, "amount": signed, "position": record.position}
        )
    return {
        "accounts": sorted(by_account.values(), key=lambda row: row["id"]),
        "moves": sorted(moved, key=lambda row: (row["account"], row["n"])),
        "totals": sorted(by_kind.values(), key=lambda row: row["kind"]),
    }


async def tables_of(database: Database) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: await database.query(select(table).order_by(*table.primary_key.columns))
        for table in (accounts, moves, totals)
    }


async def life(store: MemoryStore, clock: VirtualClock, database: CrashingDatabase) -> bool:
    """Run the projection until it is up to date or dies; whether it died."""
    projector = Projector([Ledger()], store, database, clock)
    reader = Projections({"ledger": Ledger()}, Settings(), store, clock)
    reader._database = database
    try:
        await projector.check()
        task = asyncio.create_task(projector.run())
        waiting = asyncio.create_task(reader.caught_up())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        died = task.done()
        for one in (waiting, task):
            one.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
        return died
    except Crash:
        return True
    finally:
        await database.close()


async def story(
    address: str, history: list[Any], dying: list[Any], looked_at: list[Any], clock: VirtualClock
) -> None:
    store = MemoryStore(clock)
    begun = clock.now()
    deaths = iter(dying)
    for account, given_amounts, pause in history:
        await move(store, account, *given_amounts)
        await clock.advance(pause)
        death = next(deaths, None)
        if death is None:
            continue
        database = CrashingDatabase.at(address)
        database.transactions_left, database.is_committed = death
        if await life(store, clock, database):
            event("died, its last transaction committed" if death[1] else "died before a commit")
            await clock.advance(11)  # until its lease runs out
    assert not await life(store, clock, CrashingDatabase.at(address))
    events = await store.read_all(limit=10_000)
    async with Database.at(address) as last:
        assert await tables_of(last) == replayed(events)
        rebuilt = await Rebuild(Ledger(), store, last, clock).run()
        assert (rebuilt.swapped, rebuilt.differences) == (True, 0)
        assert await tables_of(last) == replayed(events)
    for cut in looked_at:
        await check_as_of(store, clock, cut, events, begun)


async def check_as_of(
    store: MemoryStore, clock: VirtualClock, cut: float, events: list[RecordedEvent], begun: Any
) -> None:
    until: Any
    if isinstance(cut, int):
        until = Position(cut)
        then = [record for record in events if record.position <= cut]
    else:
        until = begun + timedelta(seconds=cut)
        then = [record for record in events if record.recorded_at <= until]
    async with Database.at("sqlite://") as aside:
        await building.build(Ledger(), store, aside, until=until, clock=clock)
        assert await tables_of(aside) == replayed(then)


async def empty(address: str) -> None:
    def drop(connection: Connection) -> None:
        there = MetaData()
        there.reflect(connection)
        there.drop_all(connection)

    async with Database.at(address) as database:
        await database.run(drop)


def test_a_projection_is_what_the_log_says_wherever_it_dies(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BATCH", BATCH)
    monkeypatch.setattr(building, "BATCH", BATCH)
    examples = 8 if address.startswith("postgresql") else 25

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(history=histories, dying=crashes, looked_at=cuts)
    def check(history: list[Any], dying: list[Any], looked_at: list[Any]) -> None:
        asyncio.run(empty(address))
        clock = VirtualClock()
        run_virtual(story(address, history, dying, looked_at, clock), clock=clock)

    check()

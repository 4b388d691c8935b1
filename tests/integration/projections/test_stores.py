"""Projections over every store, on real clocks: followed live, rebuilt, and as of a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amends.domain.clock import SystemClock
from amends.projections.build import build
from amends.projections.database import Database
from amends.projections.projector import Projector
from amends.projections.reading import Projections
from amends.projections.rebuild import Rebuild
from amends.settings import Settings
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.memory import MemoryStore
from amends.stores.port import EventStore
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from tests.esdb.double import ProtocolDouble
from tests.integration.projections.sample import Ledger, append, move, new_event
from tests.integration.projections.test_running import balances

WAIT_S = 60


@pytest.fixture(params=["memory", "sqlite", "eventstoredb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        yield MemoryStore(SystemClock())
    elif request.param == "sqlite":
        made = SqliteStore(await SqliteDatabase.open(tmp_path / "log.db"))
        yield made
        await made.close()
    else:
        async with ProtocolDouble.running() as double:
            remote = EventStoreDb(StoreAddress.parse(double.uri))
            yield remote
            await remote.close()


async def test_a_projection_follows_any_store(store: EventStore) -> None:
    clock = SystemClock()
    await move(store, "a", *[1] * 1500)
    await append(store, "else-1", new_event("Unheard"))
    async with Database.at("sqlite://") as database:
        projector = Projector([Ledger()], store, database, clock)
        await projector.check()
        task = asyncio.create_task(projector.run())
        reader = Projections({"ledger": Ledger()}, Settings(), store, clock)
        reader._database = database
        await reader.caught_up(timeout=WAIT_S)
        assert await balances(database) == {"a": 1500}
        moment = datetime.now(UTC)
        for n in range(5):
            await move(store, "b", 2)
            await append(store, "else-1", new_event("Unheard"))
            await reader.caught_up(timeout=WAIT_S)
            assert await balances(database) == {"a": 1500, "b": 2 * n + 2}
        rebuilt = await Rebuild(Ledger(), store, database, clock).run()
        assert (rebuilt.swapped, rebuilt.differences) == (True, 0)
        await move(store, "b", 2)
        await reader.caught_up(timeout=WAIT_S)
        assert await balances(database) == {"a": 1500, "b": 12}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with Database.at("sqlite://") as aside:
        await build(Ledger(), store, aside, until=moment)
        assert await balances(aside) == {"a": 1500}

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amends.stores.memory import MemoryStore
from amends.stores.port import EventStore
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.clock import ManualClock
from amends.testing.contracts.store_base import Reopen
from amends.testing.store_contract import EventStoreContract


class TestMemoryStore(EventStoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[MemoryStore]:
        store = MemoryStore(clock)
        yield store
        await store.close()

    @pytest.fixture
    def reopen(self, store: EventStore) -> Reopen:
        assert isinstance(store, MemoryStore)

        async def open_again() -> EventStore:
            return store.reopened()

        return open_again


class TestSqliteStore(EventStoreContract):
    @pytest.fixture
    async def database(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteDatabase]:
        async with await SqliteDatabase.open(tmp_path / "log.db", clock=clock) as database:
            yield database

    @pytest.fixture
    async def store(self, database: SqliteDatabase) -> AsyncIterator[SqliteStore]:
        store = SqliteStore(database)
        yield store
        await store.close()

    @pytest.fixture
    async def reopen(self, database: SqliteDatabase) -> AsyncIterator[Reopen]:
        opened: list[SqliteDatabase] = []

        async def open_again() -> EventStore:
            await database.close()
            again = await SqliteDatabase.open(database.path, clock=database.clock)
            opened.append(again)
            return SqliteStore(again)

        yield open_again
        for again in opened:
            await again.close()

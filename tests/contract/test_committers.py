from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amends.broker.commit import SequentialCommitter
from amends.broker.embedded import EmbeddedBroker
from amends.broker.memory import MemoryBroker
from amends.stores.memory import MemoryStore
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.clock import ManualClock
from amends.testing.committer_contract import OTHER_QUEUE, QUEUE, CommitterContract, Engine


class TestSequentialCommitterInMemory(CommitterContract):
    @pytest.fixture
    async def engine(self, clock: ManualClock) -> AsyncIterator[Engine]:
        store, broker = MemoryStore(clock), MemoryBroker(clock)
        await broker.declare([QUEUE, OTHER_QUEUE])
        yield Engine(store, broker, SequentialCommitter(store, broker))
        await broker.close()
        await store.close()


@pytest.fixture
async def embedded(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Engine]:
    async with await SqliteDatabase.open(tmp_path / "engine.db", clock=clock) as database:
        store, broker = SqliteStore(database), EmbeddedBroker(database)
        await broker.declare([QUEUE, OTHER_QUEUE])
        yield Engine(store, broker, broker)
        await broker.close()
        await store.close()


class TestEmbeddedCommitter(CommitterContract):
    @pytest.fixture
    async def engine(self, embedded: Engine) -> Engine:
        return embedded


class TestSequentialCommitterOnOneFile(CommitterContract):
    @pytest.fixture
    async def engine(self, embedded: Engine) -> Engine:
        store, broker, _ = embedded
        return Engine(store, broker, SequentialCommitter(store, broker))

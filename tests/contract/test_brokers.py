from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amends.broker.embedded import EmbeddedBroker
from amends.broker.memory import MemoryBroker
from amends.broker.port import Broker
from amends.stores.sqlite import SqliteDatabase
from amends.testing.broker_contract import BrokerContract
from amends.testing.clock import ManualClock
from amends.testing.contracts.broker_base import Reopen


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    async def broker(self, clock: ManualClock) -> AsyncIterator[MemoryBroker]:
        broker = MemoryBroker(clock)
        yield broker
        await broker.close()

    @pytest.fixture
    def reopen(self, broker: Broker) -> Reopen:
        assert isinstance(broker, MemoryBroker)

        async def open_again() -> Broker:
            broker.crash_consumers()
            return broker.reopened()

        return open_again


class TestEmbeddedBroker(BrokerContract):
    @pytest.fixture
    async def database(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteDatabase]:
        async with await SqliteDatabase.open(tmp_path / "mail.db", clock=clock) as database:
            yield database

    @pytest.fixture
    async def broker(self, database: SqliteDatabase) -> AsyncIterator[EmbeddedBroker]:
        broker = EmbeddedBroker(database)
        yield broker
        await broker.close()

    @pytest.fixture
    async def reopen(self, database: SqliteDatabase) -> AsyncIterator[Reopen]:
        opened: list[tuple[SqliteDatabase, EmbeddedBroker]] = []

        async def open_again() -> Broker:
            # Not the broker, which would hand back what its consumers hold.
            await database.close()
            again = await SqliteDatabase.open(database.path, clock=database.clock)
            opened.append((again, EmbeddedBroker(again)))
            return opened[-1][1]

        yield open_again
        for again, broker in opened:
            await broker.close()
            await again.close()

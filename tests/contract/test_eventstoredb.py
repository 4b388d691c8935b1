"""The contracts of the store and of the committer, on EventStoreDB.

Against the protocol double, or the server that AMENDS_TEST_ESDB_URI names; through whichever client
is installed.
"""

from collections.abc import AsyncIterator

import pytest

from amends.broker.commit import SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.domain.ids import StreamName
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.port import EventStore, Removal
from amends.testing.clock import ManualClock
from amends.testing.committer_contract import OTHER_QUEUE, QUEUE, CommitterContract, Engine
from amends.testing.contracts.store_base import Reopen
from amends.testing.store_contract import EventStoreContract, StoreFeatures


class TestEventStoreDb(EventStoreContract):
    features = StoreFeatures(
        retries_any=False,
        append_bytes_max=1_000_000,
        starts_empty=False,
        sets_clock=False,
        forgets_at_once=False,
    )

    @pytest.fixture
    async def store(self, esdb: str) -> AsyncIterator[EventStoreDb]:
        store = EventStoreDb(StoreAddress.parse(esdb))
        yield store
        await store.close()

    @pytest.fixture
    async def reopen(self, esdb: str) -> AsyncIterator[Reopen]:
        opened: list[EventStoreDb] = []

        async def open_again() -> EventStore:
            opened.append(EventStoreDb(StoreAddress.parse(esdb)))
            return opened[-1]

        yield open_again
        for store in opened:
            await store.close()


class TestSequentialCommitterOnEventStoreDb(CommitterContract):
    @pytest.fixture
    async def engine(self, esdb: str, clock: ManualClock) -> AsyncIterator[Engine]:
        store, broker = EventStoreDb(StoreAddress.parse(esdb)), MemoryBroker(clock)
        # The log is shared, and the contract has streams of its own.
        for n in range(100):
            stream = StreamName.of("saga.transfer", str(n))
            for last in await store.read_backwards(stream, limit=1):
                await store.remove([Removal(stream, last.version)])
        await broker.declare([QUEUE, OTHER_QUEUE])
        yield Engine(store, broker, SequentialCommitter(store, broker))
        await broker.close()
        await store.close()

from collections.abc import AsyncIterator

import pytest

from amends.stores.memory import MemoryStore
from amends.stores.port import EventStore
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

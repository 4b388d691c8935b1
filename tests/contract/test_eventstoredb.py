"""The contract of the store, of the committer and of aggregates, on EventStoreDB.

Against the protocol double, or the server that AMENDS_TEST_ESDB_URI names; through whichever client
is installed.
"""

from collections.abc import AsyncIterator

import pytest

from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.port import EventStore
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

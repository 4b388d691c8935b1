from collections.abc import AsyncIterator

import pytest

from amends.broker.commit import SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.stores.memory import MemoryStore
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

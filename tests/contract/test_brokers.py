from collections.abc import AsyncIterator

import pytest

from amends.broker.memory import MemoryBroker
from amends.broker.port import Broker
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

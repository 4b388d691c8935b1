from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from amends.broker.port import Broker
from amends.broker.rabbitmq import BrokerAddress, RabbitBroker
from amends.domain.clock import SystemClock
from amends.testing.broker_contract import BrokerContract, BrokerFeatures
from amends.testing.contracts.broker_base import Reopen

Open = Callable[[], Awaitable[RabbitBroker]]


class TestRabbitBroker(BrokerContract):
    features = BrokerFeatures(sets_clock=False)

    @pytest.fixture
    async def open_broker(self, rabbitmq: str, rabbit_prefix: str) -> AsyncIterator[Open]:
        opened: list[RabbitBroker] = []

        async def open_broker() -> RabbitBroker:
            address = BrokerAddress.parse(rabbitmq)
            opened.append(
                await RabbitBroker.open(
                    address, rabbit_prefix, SystemClock(), partitions=2, publish_timeout_s=5
                )
            )
            return opened[-1]

        yield open_broker
        for broker in opened:
            await broker.close()

    @pytest.fixture
    async def broker(self, open_broker: Open) -> RabbitBroker:
        broker = await open_broker()
        await broker.declare([])
        return broker

    @pytest.fixture
    def reopen(self, broker: RabbitBroker, open_broker: Open) -> Reopen:
        async def open_again() -> Broker:
            await broker.close()
            return await open_broker()

        return open_again

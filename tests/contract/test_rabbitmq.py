import os
from collections.abc import AsyncIterator
from secrets import token_hex

import pytest

from amends.broker.port import Broker
from amends.broker.rabbitmq import BrokerAddress, RabbitBroker
from amends.domain.clock import SystemClock
from amends.testing.broker_contract import BrokerContract, BrokerFeatures
from amends.testing.contracts.broker_base import Reopen

URL = os.environ.get("AMENDS_TEST_AMQP_URL", "")
pytestmark = pytest.mark.skipif(not URL, reason="AMENDS_TEST_AMQP_URL names no server")


async def open_broker(prefix: str) -> RabbitBroker:
    address = BrokerAddress.parse(URL)
    return await RabbitBroker.open(
        address, prefix, SystemClock(), partitions=2, publish_timeout_s=5
    )


class TestRabbitBroker(BrokerContract):
    features = BrokerFeatures(sets_clock=False)

    @pytest.fixture
    def prefix(self) -> str:
        return f"contract-{token_hex(4)}"

    @pytest.fixture
    async def broker(self, prefix: str) -> AsyncIterator[RabbitBroker]:
        broker = await open_broker(prefix)
        await broker.declare([])
        yield broker
        await broker.close()

    @pytest.fixture
    async def reopen(self, broker: RabbitBroker, prefix: str) -> AsyncIterator[Reopen]:
        opened: list[RabbitBroker] = []

        async def open_again() -> Broker:
            await broker.close()
            opened.append(await open_broker(prefix))
            return opened[-1]

        yield open_again
        for again in opened:
            await again.close()

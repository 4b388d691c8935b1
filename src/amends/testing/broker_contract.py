"""The contract of the broker port, as tests that run over any backend.

A backend's own test module inherits the class and says how to make a broker::

    class TestMyBroker(BrokerContract):
        features = BrokerFeatures(sets_clock=False)

        @pytest.fixture
        async def broker(self, clock):
            broker = await MyBroker.open(..., clock=clock)
            yield broker
            await broker.close()

        @pytest.fixture
        def reopen(self, broker, clock):
            async def open_again():
                await broker.close()
                return await MyBroker.open(..., clock=clock)

            return open_again

See `amends.testing.store_contract` for what pytest needs.
"""

from __future__ import annotations

from amends.testing.contracts.broker_base import BrokerFeatures
from amends.testing.contracts.delivering import ConsumerContract, DeliveryContract
from amends.testing.contracts.owning import OwnershipContract
from amends.testing.contracts.replying import ReplyContract
from amends.testing.contracts.requesting import RequestContract
from amends.testing.contracts.upkeep import (
    BrokerLifecycleContract,
    DeadLetterContract,
    DelayContract,
    DepthContract,
)

__all__ = ["BrokerContract", "BrokerFeatures"]


class BrokerContract(
    DeliveryContract,
    ConsumerContract,
    OwnershipContract,
    ReplyContract,
    RequestContract,
    DelayContract,
    DeadLetterContract,
    DepthContract,
    BrokerLifecycleContract,
):
    """Everything that the port promises. See the module for how to use it.

    `features` declares what a backend cannot do; the fixtures `broker` and `reopen` make the
    brokers, on the `clock` fixture's ManualClock.
    """

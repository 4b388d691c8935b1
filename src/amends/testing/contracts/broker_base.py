"""What every part of the broker contract needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import pytest

from amends.broker.port import Broker, Consumer, Delivery, Message, QueueDepth
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import new_message, soon

Reopen = Callable[[], Awaitable[Broker]]

QUEUE = "commands.ledger"
OTHER_QUEUE = "inbox.0"


@dataclass(frozen=True)
class BrokerFeatures:
    """What a backend cannot do, said out loud; the defaults are the full contract."""

    sets_clock: bool = True
    """Whether due times and `died_at` follow the `clock` fixture."""
    survives_close: bool = True
    """Whether the `reopen` fixture gives a second broker over the same messages."""


class BrokerContractBase:
    """The fixtures that a backend supplies, and shorthands for the tests."""

    features: ClassVar[BrokerFeatures] = BrokerFeatures()

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock that the broker was given."""
        return ManualClock()

    @pytest.fixture
    async def broker(self, clock: ManualClock) -> Broker:
        """The broker under test, to be overridden. The fixture closes it."""
        raise NotImplementedError("override the `broker` fixture")

    @pytest.fixture
    def reopen(self, broker: Broker) -> Reopen:
        """Ends `broker` as a crash would and opens another one over the same messages."""
        raise NotImplementedError("override the `reopen` fixture")

    @pytest.fixture
    async def queue(self, broker: Broker) -> str:
        """A declared queue, empty."""
        await broker.declare([QUEUE])
        return QUEUE

    @pytest.fixture
    async def other_queue(self, broker: Broker) -> str:
        """Another declared queue, empty."""
        await broker.declare([OTHER_QUEUE])
        return OTHER_QUEUE

    def needs_clock(self) -> None:
        """Skip a test that moves the clock."""
        if not self.features.sets_clock:
            pytest.skip("the backend has a clock of its own")

    def needs_reopen(self) -> None:
        """Skip a test that opens the broker again."""
        if not self.features.survives_close:
            pytest.skip("the backend keeps nothing")


@asynccontextmanager
async def consuming(broker: Broker, queue: str, limit: int = 10) -> AsyncIterator[Consumer]:
    """A consumer that is closed at the end of the block."""
    consumer = broker.consume(queue, limit=limit)
    try:
        yield consumer
    finally:
        await consumer.close()


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    """Exactly `count` deliveries, in however many portions they come."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        portion = await soon(consumer.receive())
        assert portion, "the consumer was stopped"
        deliveries += portion
    assert len(deliveries) == count
    return deliveries


async def drain(broker: Broker, queue: str) -> list[Delivery]:
    """Everything that is in a queue now, acknowledged: up to a message put behind it."""
    last = new_message(queue, "the last one")
    await broker.publish([last])
    drained: list[Delivery] = []
    async with consuming(broker, queue) as consumer:
        while True:
            deliveries = await soon(consumer.receive())
            await broker.ack(deliveries)
            for delivery in deliveries:
                if delivery.message.id == last.id:
                    return drained
                drained.append(delivery)


async def settle(broker: Broker) -> None:
    """Give whatever is on its way in the broker several chances to arrive."""
    for _ in range(20):
        await broker.depths()
        await asyncio.sleep(0)


async def depth_of(broker: Broker, queue: str) -> QueueDepth:
    """How full one queue is."""
    return next(depth for depth in await broker.depths() if depth.queue == queue)


def messages_of(deliveries: list[Delivery]) -> list[Message]:
    """What was delivered."""
    return [delivery.message for delivery in deliveries]


def after(clock: ManualClock, seconds: float) -> datetime:
    """A moment seen from now."""
    return clock.now() + timedelta(seconds=seconds)

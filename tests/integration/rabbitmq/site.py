"""Brokers of a test's own on a real server, and a client that knows nothing of Amends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel as Wire
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from amends.broker.port import Broker, Consumer, Delivery, Message
from amends.broker.rabbitmq import BrokerAddress, RabbitBroker
from amends.broker.rabbitmq.connection import LOST, wire_of
from amends.domain.clock import Clock, SystemClock

#: Never waited for in vain.
PATIENCE_S = 20.0


class Site:
    """Opens brokers under one prefix, and closes them."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self._opened: list[RabbitBroker] = []

    def make(
        self,
        *,
        url: str | None = None,
        clock: Clock | None = None,
        partitions: int = 4,
        publish_timeout_s: float = 10,
        **address: Any,
    ) -> RabbitBroker:
        """A broker that is not connected yet."""
        made = RabbitBroker(
            BrokerAddress.parse(url or self.url, **address),
            self.prefix,
            clock or SystemClock(),
            partitions=partitions,
            publish_timeout_s=publish_timeout_s,
        )
        self._opened.append(made)
        return made

    async def open(self, *queues: str, **options: Any) -> RabbitBroker:
        """A broker as an application has it, with these queues."""
        broker = await self.open_undeclared(**options)
        await broker.declare(queues)
        return broker

    async def open_undeclared(self, **options: Any) -> RabbitBroker:
        """A broker as a client has it."""
        broker = self.make(**options)
        await broker.connect()
        return broker

    async def close(self) -> None:
        """Close whatever is open still."""
        for broker in self._opened:
            await broker.close()


class Plain:
    """Somebody else, who publishes with aio-pika what they like."""

    def __init__(self, site: Site, connection: AbstractConnection, wire: Wire) -> None:
        self.connection = connection
        self.wire = wire
        self._prefix = site.prefix

    @classmethod
    async def connect(cls, site: Site) -> Plain:
        connection = await aio_pika.connect(site.url)
        channel = await connection.channel()
        return cls(site, connection, await wire_of(channel))

    async def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Straight into a queue, through the default exchange."""
        await self.wire.basic_publish(
            body,
            routing_key=f"{self._prefix}.{queue}",
            properties=Basic.Properties(**properties),
            mandatory=True,
        )

    async def publish_raw(self, queue: str, body: bytes, properties: bytes) -> None:
        """With properties that the library cannot even write."""
        content = ContentHeader(body_size=len(body))

        def marshal() -> bytes:
            return properties

        content.properties.marshal = marshal  # type: ignore[method-assign]
        content.properties.message_id = "set, so that the library does not set it"
        await self.wire.basic_publish(
            body, routing_key=f"{self._prefix}.{queue}", properties=content.properties
        )

    async def count(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        told = await self.wire.queue_declare(f"{self._prefix}.{queue}", passive=True)
        return told.message_count or 0

    async def delete(self, queue: str) -> None:
        await self.wire.queue_delete(f"{self._prefix}.{queue}")

    async def close(self) -> None:
        with suppress(*LOST):
            await self.connection.close()


async def take(broker: Broker, queue: str, count: int) -> list[Delivery]:
    """Receive so many messages, with a consumer of its own, and acknowledge them."""
    consumer = broker.consume(queue, limit=count)
    try:
        deliveries = await receive(consumer, count)
        await broker.ack(deliveries)
    finally:
        await consumer.close()
    return deliveries


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    """Exactly so many, in however many portions they come."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        async with asyncio.timeout(PATIENCE_S):
            portion = await consumer.receive()
        assert portion, "the consumer was stopped"
        deliveries += portion
    assert len(deliveries) == count
    return deliveries


async def eventually(check: Callable[[], Any], *, within_s: float = 10) -> Any:
    """What a check answers once it is true; it may be a coroutine. The server is not ours to ask
    for a notice, so it is asked again.
    """
    answer: Any = None
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                answer = check()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.02)
    raise AssertionError(f"it did not come to that within {within_s} s; at last: {answer!r}")


async def messages_in(broker: Broker, queue: str) -> list[Message]:
    """Everything that is in a queue now, copies included; it is acknowledged."""
    (depth,) = [depth for depth in await broker.depths() if depth.queue == queue]
    return [delivery.message for delivery in await take(broker, queue, depth.ready)]

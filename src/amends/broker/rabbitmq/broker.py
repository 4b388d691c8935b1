"""The broker on RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from amends.broker.port import Consumer, DeadLetter, Delivery, Message, Process, QueueDepth
from amends.broker.rabbitmq.address import BrokerAddress
from amends.broker.rabbitmq.connection import Connection
from amends.broker.rabbitmq.consumer import Counters, RabbitConsumer, Token
from amends.broker.rabbitmq.dead import DeadLetters
from amends.broker.rabbitmq.declaring import Declarations
from amends.broker.rabbitmq.inboxes import Inboxes
from amends.broker.rabbitmq.letters import to_dead
from amends.broker.rabbitmq.looking import depths
from amends.broker.rabbitmq.members import Membership, Report, census, process_name
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.publisher import Publisher
from amends.broker.rabbitmq.topology import Finding
from amends.broker.rabbitmq.wire import Post, post
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.errors import BrokerClosed, UsageError


class RabbitBroker:
    """Implements `Broker` on RabbitMQ, 3.10 to 4.

    It publishes over one connection and consumes over another, because a server in need blocks
    those who publish, and acknowledgements must go on. `Delivery.count` counts each time that a
    message was in a consumer's reach and not acknowledged, received or not. `QueueDepth.delayed` is
    known for all queues together only, and so is `dead`: each stands in a row of its own.
    """

    def __init__(
        self,
        address: BrokerAddress,
        prefix: str,
        clock: Clock,
        *,
        partitions: int,
        publish_timeout_s: float,
    ) -> None:
        self._names = names = Names(prefix)
        self._clock = clock
        self._publishing = Connection(address, "publisher", clock)
        self._consuming = Connection(address, "consumer", clock)
        self._declarations = Declarations(
            self._consuming, names, partitions, on_made=self._made_anew
        )
        self._publisher = Publisher(
            self._publishing,
            names,
            clock,
            timeout_s=publish_timeout_s,
            repair=self._declarations.repair,
            carrier=self._carrier,
        )
        self._dead = DeadLetters(self._consuming, self._publisher, names)
        self._membership = Membership(
            self._consuming,
            self._publisher,
            names,
            clock,
            self._report,
            self._served,
            on_made=self._renew,
        )
        self._consumers: list[RabbitConsumer] = []
        self._inboxes: list[Inboxes] = []
        self._counters = Counters()
        self._bringing: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        address: BrokerAddress,
        prefix: str,
        clock: Clock,
        *,
        partitions: int,
        publish_timeout_s: float,
    ) -> Self:
        """A broker that has reached its server, so that a wrong address is found out at once.

        `publish_timeout_s` is how long a message is tried, over all reconnects. Raises BrokerRefused,
        BrokerUnavailable, InvalidSettings.
        """
        broker = cls(
            address, prefix, clock, partitions=partitions, publish_timeout_s=publish_timeout_s
        )
        try:
            await broker.connect()
        except BaseException:
            await broker.close()
            raise
        return broker

    async def connect(self) -> None:
        """Reach the server now, and not only when it is needed. Raises BrokerRefused,
        BrokerUnavailable, InvalidSettings.
        """
        await self._publishing.made()

    # --- declaring

    async def declare(self, queues: Sequence[str]) -> None:
        """See `Broker.declare`. Raises BrokerRefused for a queue that exists otherwise."""
        self._check_open()
        await self._declarations.declare(queues)

    async def set_up(self, queues: Sequence[str]) -> list[Finding]:
        """Declare all there is, with these queues, and say what was missing and what differs."""
        self._check_open()
        return await self._declarations.set_up(queues)

    def _made_anew(self, queues: Sequence[str]) -> None:
        self._renew(queues)
        self._membership.say_made(queues)

    def _renew(self, queues: Sequence[str]) -> None:
        """These queues were made anew: what was subscribed to the old ones is over."""
        for consumer in self._live():
            if consumer.queue in queues:
                consumer.renew()

    # --- publishing

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Broker.publish`."""
        self._check_open()
        await self._declarations.check(message.queue for message in messages)
        await self._publish(messages)

    async def _publish(self, messages: Sequence[Message], earlier: int = 0) -> None:
        if not self._declarations.has_delays and any(m.due is not None for m in messages):
            await self._declarations.declare_delays()
        await self._publisher.publish(messages, earlier=earlier)

    async def request(self, message: Message) -> None:
        """See `Broker.request`. As durable as any message."""
        await self.publish([message])

    async def reply(self, delivery: Delivery, message: Message) -> None:
        """See `Broker.reply`. Until the message is confirmed, the delivery is not acknowledged."""
        await self.publish([message])
        await self.ack([delivery])

    # --- consuming

    def consume(self, queue: str, *, limit: int) -> Consumer:
        """See `Broker.consume`."""
        self._check_open()
        _check_limit(limit)
        consumer = self._make(queue, limit)
        self._consumers = [known for known in self._consumers if not known.is_over]
        self._consumers.append(consumer)
        self._membership.start()
        return consumer

    def own(self, queues: Sequence[str], *, limit: int) -> Consumer:
        """See `Broker.own`."""
        self._check_open()
        _check_limit(limit)
        inboxes = Inboxes(
            queues,
            self._membership,
            self._clock,
            make=lambda queue, bell: self._make(queue, limit, bell),
            prepare=self._declarations.prepare,
            on_first_taken=self._bring_back,
        )
        self._inboxes = [known for known in self._inboxes if known.wanted]
        self._inboxes.append(inboxes)
        return inboxes

    def _bring_back(self) -> None:
        if self._bringing is None or self._bringing.done():
            self._bringing = asyncio.create_task(self._dead.bring_back(self._clock))

    def _make(self, queue: str, limit: int, bell: Bell | None = None) -> RabbitConsumer:
        return RabbitConsumer(
            self._consuming,
            queue,
            self._names.queue(queue),
            limit,
            self._clock,
            prepare=self._declarations.prepare,
            republish=self._republish,
            counters=self._counters,
            bell=bell,
            on_lost=self._membership.changed.ring,
        )

    async def _republish(self, message: Message, earlier: int) -> None:
        await self._publish([message], earlier)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        self._check_open()
        for delivery in deliveries:
            token: Token = delivery.token
            token.letter.consumer.done(token)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.release`."""
        self._check_open()
        for delivery in deliveries:
            token: Token = delivery.token
            await token.letter.consumer.release(delivery)

    # --- dead letters

    async def dead_letter(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """See `Broker.dead_letter`."""
        self._check_open()
        token: Token = delivery.token
        consumer = token.letter.consumer
        if not consumer.holds(token):
            return
        dead = to_dead(
            self._as_it_came(delivery),
            queue=delivery.message.queue,
            reason=reason,
            detail=detail,
            deliveries=delivery.count,
            now=self._clock.now(),
        )
        await self._publisher.send(self._names.dead, "", dead)
        consumer.done(token)

    def _as_it_came(self, delivery: Delivery) -> Post:
        letter = delivery.token.letter
        if letter.size > 1:
            return post(delivery.message, at=self._clock.now())
        return Post(letter.raw.body, letter.raw.header.properties)

    async def dead_letters(self, *, queue: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `Broker.dead_letters`."""
        self._check_open()
        return await self._dead.read(queue=queue, limit=limit)

    async def redrive(self, ids: Sequence[UUID]) -> int:
        """See `Broker.redrive`. One after the other: a crash leaves a letter, or a copy."""
        self._check_open()
        return await self._dead.redrive(set(ids)) if ids else 0

    async def discard(self, ids: Sequence[UUID]) -> int:
        """See `Broker.discard`."""
        self._check_open()
        return await self._dead.discard(set(ids)) if ids else 0

    # --- looking

    async def depths(self, queues: Sequence[str] = ()) -> list[QueueDepth]:
        """See `Broker.depths`. Of those, and of what a process that runs, or this one, has to do
        with.
        """
        self._check_open()
        reports = await self._reports()
        known = self._declarations.queues | set(queues)
        for report in reports:
            known.update(report.queues, report.inboxes)
        return await depths(self._consuming, self._names, sorted(known), reports)

    async def processes(self) -> list[Process]:
        """See `Broker.processes`. Waits a moment for their answers."""
        self._check_open()
        return [report.process() for report in await self._reports()]

    async def _reports(self) -> list[Report]:
        if self._membership.is_running and await self._membership.is_joined():
            return self._membership.reports()
        return await census(self._consuming, self._publisher, self._names, self._clock)

    def _carrier(self, inbox: str) -> str:
        return self._membership.carrier(inbox)

    def _served(self) -> list[str]:
        """Inboxes whose messages are begun here: not those that are being handed over."""
        consumers = [consumer for each in self._inboxes for consumer in each.consumers()]
        return [consumer.queue for consumer in consumers if not consumer.is_draining]

    def _live(self) -> list[RabbitConsumer]:
        consumers = [*self._consumers, *(c for each in self._inboxes for c in each.consumers())]
        return [consumer for consumer in consumers if not consumer.is_over]

    def _report(self, kind: str) -> Report:
        live = self._live()
        return Report(
            kind=kind,
            member=self._membership.me,
            name=process_name(),
            inboxes=frozenset[str]().union(*(each.wanted for each in self._inboxes)),
            queues=tuple(sorted({consumer.queue for consumer in live})),
            owns=tuple(sorted(self._served())),
            held=_held(live),
            oldest=_oldest(live),
            blocked_since=self._membership.blocked_since,
            published=self._publisher.published,
            delivered=self._counters.delivered,
            reconnects=max(0, self._publishing.reconnects) + max(0, self._consuming.reconnects),
        )

    # --- the rest

    async def close(self) -> None:
        """See `Broker.close`. What its consumers had not acknowledged is handed back."""
        if self._closed:
            return
        self._closed = True
        if self._bringing is not None:
            self._bringing.cancel()
            await asyncio.wait([self._bringing])
        for inboxes in self._inboxes:
            await inboxes.close()
        for consumer in self._consumers:
            await consumer.close()
        await self._membership.close()
        await self._publisher.close()
        await self._publishing.close()
        await self._consuming.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerClosed("the broker is closed; nothing was published or acknowledged")


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise UsageError(f"a consumer that may hold {limit} messages never receives one")


def _held(consumers: Sequence[RabbitConsumer]) -> dict[str, int]:
    held: dict[str, int] = {}
    for consumer in consumers:
        held[consumer.queue] = held.get(consumer.queue, 0) + consumer.held
    return held


def _oldest(consumers: Sequence[RabbitConsumer]) -> dict[str, datetime]:
    oldest: dict[str, datetime] = {}
    for consumer in consumers:
        moment = consumer.oldest
        if moment is not None:
            oldest[consumer.queue] = min(moment, oldest.get(consumer.queue, moment))
    return oldest

"""Consuming one queue.

A consumer has a channel of its own: closing it hands back, in order and before all else, whatever
was not acknowledged. Deliveries are put into a buffer of ours and not worked on in the client
library's callbacks, which it cancels when the connection is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire

from amends.broker.port import Delivery, Message
from amends.broker.rabbitmq.connection import (
    LOST,
    REQUEST_TIMEOUT_S,
    Connection,
    describe,
    library_words,
    on_close,
    while_open,
    wire_of,
)
from amends.broker.rabbitmq.delays import is_early
from amends.broker.rabbitmq.settling import Settling
from amends.broker.rabbitmq.wire import sent_at, unpack
from amends.broker.topology import INBOX_PREFIX
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.errors import BrokerError, BrokerUnavailable, UsageError
from amends.telemetry import Log

log = Log("amends.broker")

#: AMQP messages of an inbox that the server sends ahead: each may be a parcel.
INBOX_PREFETCH_MAX: Final = 200


class Hold(Enum):
    """What became of a message that was delivered."""

    HELD = "held"
    DONE = "done"
    RETURNED = "returned"


@dataclass
class Counters:
    """What the consumers of a process count together."""

    delivered: int = 0
    """AMQP messages."""


class Letter:
    """An AMQP message in a consumer's hands. It is acknowledged when none of its messages is open."""

    __slots__ = ("consumer", "open", "raw", "size")

    def __init__(self, consumer: RabbitConsumer, raw: DeliveredMessage, size: int) -> None:
        self.consumer = consumer
        self.raw = raw
        self.size = size
        self.open = size


class Token:
    """What a `Delivery` carries: one message of a letter."""

    __slots__ = ("hold", "letter")

    def __init__(self, letter: Letter) -> None:
        self.letter = letter
        self.hold = Hold.HELD


class RabbitConsumer:
    """Implements `Consumer` for one queue.

    `prepare` makes sure that the queue is there. `republish` publishes a message anew that is not
    due, or that goes back alone out of a parcel (with the deliveries that it has had). `bell` rings
    whenever there may be something to receive.
    """

    def __init__(
        self,
        connection: Connection,
        queue: str,
        physical: str,
        limit: int,
        clock: Clock,
        *,
        prepare: Callable[[str], Awaitable[None]],
        republish: Callable[[Message, int], Awaitable[None]],
        counters: Counters,
        bell: Bell | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = queue
        self._connection = connection
        self._physical = physical
        self._limit = limit
        self._clock = clock
        self._prepare = prepare
        self._republish = republish
        self._counters = counters
        self._bell = bell or Bell()
        self._on_lost = on_lost
        self._channel: AbstractChannel | None = None
        self._wire: Wire | None = None
        self._tag = ""
        self._opening: asyncio.Task[None] | None = None
        self._connected = False
        self._closing: asyncio.Task[None] | None = None
        self._buffer: deque[Delivery] = deque()
        self._letters: dict[int, Letter] = {}
        self._settling: Settling | None = None
        self._out: set[Token] = set()
        """What was received and is not settled."""
        self.is_draining = False
        self._returning = False
        self._stopped = False
        self._closed = False
        self._lost: str | None = None
        self._aside: set[asyncio.Task[None]] = set()

    # --- the port

    async def receive(self) -> list[Delivery]:
        """See `Consumer.receive`."""
        await asyncio.sleep(0)
        await self.subscribe()
        while not self._stopped:
            if taken := self.take():
                return taken
            await self._bell.wait()
        return []

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        if self._stopped:
            return
        self._stopped = True
        self._bell.ring()
        if self._opening is None or not self._opening.done():
            await self.close()  # nothing was received
            return
        if self._wire is not None and self._lost is None:
            with suppress(*LOST), library_words():
                cancelling = self._wire.basic_cancel(self._tag, timeout=REQUEST_TIMEOUT_S)
                await while_open(self._wire, cancelling)
        # Not before, or it would be delivered here again.
        self._returning = True
        await self._return_buffer()

    async def close(self) -> None:
        """See `Consumer.close`. What was not acknowledged comes again, in order."""
        if self._closing is None:
            # A task of its own, like `subscribe`.
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._closed = self._stopped = True
        self._bell.ring()
        if self._opening is not None:
            if not self._connected:
                self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._settling is not None:
            await self._settling.told()
        self._forget("it was closed")
        if self._channel is not None:
            with suppress(*LOST), library_words():
                await self._channel.close()

    # --- for those who put several together

    async def subscribe(self) -> None:
        """Begin, unless it has begun. Raises BrokerUnavailable, UsageError."""
        if self._stopped:
            return
        if self._opening is None:
            # A task of its own: a request that is cancelled takes the whole channel with it.
            self._opening = asyncio.create_task(self._open())
        await asyncio.wait([self._opening])
        if not self._opening.cancelled():  # by `close`
            self._opening.result()

    def renew(self) -> None:
        """The queue was deleted and made anew, and what comes over this channel may be the old one's:
        nothing at all. Whoever receives is told to subscribe again.
        """
        if self._channel is not None:
            self._lose("the queue was made anew")

    def take(self) -> list[Delivery]:
        """Whatever may be received now. Raises BrokerUnavailable once the connection is lost."""
        if self.is_lost and not self._stopped:
            raise BrokerUnavailable(
                f"the subscription to {self.queue!r} is lost ({self._lost}); what it had not "
                "acknowledged comes again. Subscribe again"
            )
        if self.is_draining or self._stopped:
            return []
        taken: list[Delivery] = []
        while self._buffer and len(self._out) < self._limit:
            delivery = self._buffer.popleft()
            self._out.add(delivery.token)
            taken.append(delivery)
        return taken

    def drain(self) -> None:
        """Give out no more. What comes meanwhile goes back when the channel is closed."""
        self.is_draining = True

    async def drained(self) -> None:
        """Wait until what was received is done with."""
        while self._out and self._lost is None:
            await self._bell.wait()

    @property
    def is_over(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def is_lost(self) -> bool:
        """Whether nothing more will come over it."""
        return self._lost is not None

    @property
    def held(self) -> int:
        """Messages in hand, received or not."""
        return len(self._out) + len(self._buffer)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest message in hand was published, to the second."""
        sent = (sent_at(letter.raw.header.properties) for letter in self._letters.values())
        return min((moment for moment in sent if moment is not None), default=None)

    # --- what becomes of deliveries

    def done(self, token: Token) -> None:
        """A message is done with. Whatever was done or handed back before stays as it is."""
        if self.holds(token):
            self._settle(token, Hold.DONE)
            if not token.letter.open:
                self._settled(token.letter).done(_tag(token.letter))

    async def release(self, delivery: Delivery) -> None:
        """Hand one message back. Raises BrokerUnavailable."""
        token: Token = delivery.token
        if not self.holds(token):
            return
        letter = token.letter
        if letter.size > 1:
            # The others of its parcel are not to come again with it.
            await self._republish(delivery.message, delivery.count)
            self.done(token)
            return
        self._settle(token, Hold.RETURNED)
        self._settled(letter).returned(_tag(letter))

    def holds(self, token: Token) -> bool:
        """Whether it is in hand still: not what was settled before, and not what was lost with a channel."""
        return token.hold is Hold.HELD and self._letters.get(_tag(token.letter)) is token.letter

    def _settle(self, token: Token, hold: Hold) -> None:
        token.hold = hold
        token.letter.open -= 1
        self._out.discard(token)
        self._bell.ring()

    def _settled(self, letter: Letter) -> Settling:
        del self._letters[_tag(letter)]
        assert self._settling is not None, "it was delivered over a channel"
        return self._settling

    # --- the channel

    async def _open(self) -> None:
        await self._connection.made()
        self._connected = True
        await self._prepare(self.queue)
        self._channel = channel = await self._connection.channel()
        on_close(channel, self._on_close)
        self._wire = wire = await wire_of(channel)
        self._settling = Settling(wire, self._letters)
        wire.on_consumer_cancel_callbacks.add(self._on_cancel)
        try:
            with library_words():
                self._tag = await while_open(wire, self._begin(wire))
        except LOST as error:
            raise BrokerUnavailable(
                f"{self.queue!r} cannot be consumed now: {describe(error)}"
            ) from error

    async def _begin(self, wire: Wire) -> str:
        await wire.basic_qos(prefetch_count=self._prefetch, timeout=REQUEST_TIMEOUT_S)
        consumed = await wire.basic_consume(
            self._physical, self._on_delivery, timeout=REQUEST_TIMEOUT_S
        )
        return str(consumed.consumer_tag)

    @property
    def _prefetch(self) -> int:
        most = INBOX_PREFETCH_MAX if self.queue.startswith(INBOX_PREFIX) else 65_535
        return min(self._limit, most)

    async def _on_delivery(self, raw: DeliveredMessage) -> None:
        self._counters.delivered += 1
        arrived = unpack(self.queue, raw)
        letter = Letter(self, raw, len(arrived))
        self._letters[_tag(letter)] = letter
        now = self._clock.now()
        for message, count in arrived:
            delivery = Delivery(message, count, Token(letter))
            if is_early(message.due, now):
                self._aside_task(self._park_again(delivery))
            else:
                self._buffer.append(delivery)
        if self._returning:
            self._aside_task(self._return_buffer())
        self._bell.ring()

    async def _park_again(self, delivery: Delivery) -> None:
        """It was due later than the delays reach: here is the rest."""
        try:
            await self._republish(delivery.message, delivery.count - 1)
        except (BrokerError, UsageError) as error:
            log.warning("not_parked_again", key=delivery.message.key, error=str(error))
            self._lose("a message that is not due could not be parked again")
            return
        self.done(delivery.token)

    async def _return_buffer(self) -> None:
        """Hand back what was delivered and never received."""
        if self._closed:
            return  # the channel does it
        waiting, self._buffer = self._buffer, deque()
        untouched = Counter(delivery.token.letter for delivery in waiting)
        for delivery in waiting:
            letter = delivery.token.letter
            if not self.holds(delivery.token):
                continue
            if untouched[letter] == letter.size:
                self._settled(letter).returned(_tag(letter))
            else:
                with suppress(BrokerUnavailable):
                    await self.release(delivery)

    # --- the end of the channel

    def _on_cancel(self, _: object) -> None:
        self._lose("the queue was deleted, or its leader was lost")

    def _on_close(self, error: BaseException | None) -> None:
        if not self._closed:
            self._lose(describe(error) if error is not None else "its channel was closed")

    def _lose(self, why: str) -> None:
        if self._lost is None:
            log.warning("subscription_lost", queue=self.queue, why=why)
            self._forget(why)

    def _forget(self, why: str) -> None:
        """Nothing is in hand any more: the server delivers it again."""
        self._lost = self._lost or why
        if self._settling is not None:
            # Before it is taken for all that is unsettled.
            self._settling.abandon()
        self._buffer.clear()
        self._letters.clear()
        self._out.clear()
        self._bell.ring()
        self._on_lost()

    def _aside_task(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)


def _tag(letter: Letter) -> int:
    tag = letter.raw.delivery_tag
    assert tag is not None
    return tag

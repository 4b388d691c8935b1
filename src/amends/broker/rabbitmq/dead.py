"""Dead letters: one queue for all that was put aside, by us or by RabbitMQ itself.

A dead letter is the AMQP message that it was, with its headers and properties, and a few headers
that say why. Reading takes messages without acknowledging them and hands them back, so it needs the
queue for itself. RabbitMQ does not keep other consumers off a quorum queue, so readers look whether
they are alone, and whoever is not tries again a little later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from copy import copy
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire
from aiormq.exceptions import ChannelNotFoundEntity

from amends.broker.port import DeadLetter
from amends.broker.rabbitmq.connection import (
    LOST,
    REQUEST_TIMEOUT_S,
    Connection,
    describe,
    wire_of,
)
from amends.broker.rabbitmq.delays import target_of
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.publisher import Publisher
from amends.broker.rabbitmq.wire import (
    DELIVERY_COUNT,
    EARLIER,
    Post,
    Properties,
    message_id_of,
    unpack,
)
from amends.domain.clock import Clock
from amends.errors import BrokerUnavailable

QUEUE: Final = "amends-dead-queue"
REASON: Final = "amends-dead-reason"
DETAIL: Final = "amends-dead-detail"
DIED_AT: Final = "amends-dead-at"
DELIVERIES: Final = "amends-dead-deliveries"
_OURS: Final = (QUEUE, REASON, DETAIL, DIED_AT, DELIVERIES)

#: Properties and headers travel in one AMQP frame, of 128 KiB; that is for the original's.
DETAIL_BYTES_MAX: Final = 16 * 1024
HEADER_BYTES_MAX: Final = 120 * 1024
#: A letter that a server does not deliver for so long is in other hands.
QUIET_S: Final = 2.0
#: What an earlier reader has handed back may not be counted yet.
RETURNING_S: Final = 0.1
#: How often a reader tries while another one reads.
TRIES_MAX: Final = 8

#: What RabbitMQ says of what it puts aside by itself, in our words.
_REASONS: Final = {"delivery_limit": "delivered too often", "rejected": "rejected"}


class _Read(NamedTuple):
    letter: DeadLetter
    raw: DeliveredMessage


def to_dead(
    mail: Post, *, queue: str, reason: str, detail: str, deliveries: int, now: datetime
) -> Post:
    """The AMQP message of a dead letter. A long detail is cut."""
    properties = copy(mail.properties)
    ours: dict[str, str | int] = {
        QUEUE: queue,
        REASON: reason,
        DETAIL: _cut(detail),
        DIED_AT: now.isoformat(),
        DELIVERIES: deliveries,
    }
    headers = dict(properties.headers or {})
    properties.headers = {**headers, **ours}
    if len(properties.marshal()) > HEADER_BYTES_MAX:
        dropped = f"its {len(headers)} headers did not fit beside this, and were dropped. {detail}"
        properties.headers = {**ours, DETAIL: _cut(dropped)}
    return Post(mail.body, properties)


def _cut(detail: str) -> str:
    encoded = detail.encode(errors="backslashreplace")
    if len(encoded) <= DETAIL_BYTES_MAX:
        return encoded.decode()
    return encoded[:DETAIL_BYTES_MAX].decode(errors="ignore") + " … (cut)"


class DeadLetters:
    """Reads and moves the dead letters of a deployment."""

    def __init__(
        self, connection: Connection, publisher: Publisher, names: Names, clock: Clock
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = names
        self._clock = clock

    async def read(self, *, queue: str | None, limit: int) -> list[DeadLetter]:
        """The letters of a queue, or of all, oldest first."""
        async with self._reading() as (_, found):
            letters = [read.letter for read in found if queue in (None, read.letter.message.queue)]
        return sorted(letters, key=lambda letter: letter.died_at)[:limit]

    async def redrive(self, ids: Collection[UUID]) -> int:
        """Publish letters into their queues, and only then take them away."""
        async with self._reading() as (wire, found):
            chosen = [read for read in found if read.letter.message.id in ids]
            for read in chosen:
                queue = read.letter.message.queue
                mail = Post(read.raw.body, _revived(read.raw.header.properties))
                await self._publisher.send(self._names.exchange, queue, mail, queue=queue)
                await _take_away(wire, read)
        return len(chosen)

    async def discard(self, ids: Collection[UUID]) -> int:
        """Take letters away for good."""
        async with self._reading() as (wire, found):
            chosen = [read for read in found if read.letter.message.id in ids]
            for read in chosen:
                await _take_away(wire, read)
        return len(chosen)

    # --- reading

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[Wire, list[_Read]]]:
        """Everything that is there, for as long as the block lasts, in nobody else's hands."""
        try:
            channel, wire, raws = await self._read_all()
        except ChannelNotFoundEntity as error:
            raise BrokerUnavailable(
                f"there is no queue {self._names.dead}: {describe(error)}. Run `amends broker setup`"
            ) from error
        except LOST as error:
            raise BrokerUnavailable(f"dead letters cannot be read: {describe(error)}") from error
        try:
            yield wire, [_Read(self._letter(raw), raw) for raw in raws]
        finally:
            # Whatever is left goes back, in its order.
            with suppress(*LOST):
                await channel.close()

    async def _read_all(self) -> tuple[Any, Wire, list[DeliveredMessage]]:
        dead = self._names.dead
        for _ in range(TRIES_MAX):
            channel = await self._connection.channel()
            wire = await wire_of(channel)
            raws: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
            declared = await wire.queue_declare(dead, passive=True, timeout=REQUEST_TIMEOUT_S)
            await wire.basic_consume(dead, raws.put, timeout=REQUEST_TIMEOUT_S)
            readers = await wire.queue_declare(dead, passive=True, timeout=REQUEST_TIMEOUT_S)
            if readers.consumer_count == 1:
                return channel, wire, await _all_of(raws, declared.message_count or 0)
            await channel.close()
            await asyncio.sleep(random.uniform(0.1, 1.0))
        raise BrokerUnavailable("others are reading the dead letters all the time: try again")

    def _letter(self, raw: DeliveredMessage) -> DeadLetter:
        properties = raw.header.properties
        headers = properties.headers or {}
        if REASON in headers:
            queue = str(headers.get(QUEUE, ""))
            (message, _), *_ = unpack(queue, raw)
            died_at = datetime.fromisoformat(str(headers[DIED_AT]))
            return DeadLetter(
                message, str(headers[REASON]), str(headers[DETAIL]), died_at,
                int(str(headers[DELIVERIES])),
            )  # fmt: skip
        return self._put_aside_by_the_server(raw, headers)

    def _put_aside_by_the_server(
        self, raw: DeliveredMessage, headers: dict[str, Any]
    ) -> DeadLetter:
        if raw.exchange == self._names.delivery:
            queue, why = target_of(raw.routing_key or ""), "its queue was gone when it was due"
        else:
            physical = str(headers.get("x-first-death-queue", ""))
            queue = self._names.logical(physical) or physical
            why = str(headers.get("x-first-death-reason", "unknown"))
        (message, count), *_ = unpack(queue, raw)
        deaths = headers.get("x-death")
        moment = deaths[0].get("time") if isinstance(deaths, list) and deaths else None
        return DeadLetter(
            message,
            _REASONS.get(why, why),
            f"RabbitMQ put it aside by itself: {why}",
            _utc(moment),
            count,
        )


async def _all_of(raws: asyncio.Queue[DeliveredMessage], expected: int) -> list[DeliveredMessage]:
    found: list[DeliveredMessage] = []
    with suppress(TimeoutError):
        while True:
            patience_s = QUIET_S if len(found) < expected else RETURNING_S
            found.append(await asyncio.wait_for(raws.get(), patience_s))
    return found


async def _take_away(wire: Wire, read: _Read) -> None:
    tag = read.raw.delivery_tag
    assert tag is not None
    try:
        await wire.basic_ack(tag)
    except LOST as error:
        raise BrokerUnavailable(f"a dead letter may be there still: {describe(error)}") from error


def _revived(properties: Properties) -> Properties:
    """As it was before it died; its deliveries are counted anew."""
    revived = copy(properties)
    revived.headers = {
        name: value
        for name, value in (properties.headers or {}).items()
        if name not in (*_OURS, EARLIER, DELIVERY_COUNT)
        and not name.startswith(("x-death", "x-first-death", "x-last-death"))
    }
    revived.message_id = message_id_of(properties) or None
    return revived


def _utc(moment: object) -> datetime:
    if not isinstance(moment, datetime):
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

"""Dead letters: one queue for all that was put aside, by us or by RabbitMQ itself.

Reading takes messages without acknowledging them and hands them back, so it needs the queue for
itself. RabbitMQ does not keep other consumers off a quorum queue, so readers look whether they are
alone, and whoever is not tries again a little later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire
from aiormq.exceptions import ChannelNotFoundEntity

from amends.broker.port import DeadLetter
from amends.broker.rabbitmq.connection import LOST, REQUEST_TIMEOUT_S, Connection, describe
from amends.broker.rabbitmq.letters import NO_QUEUE, read_letter, revived
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.publisher import Publisher
from amends.broker.rabbitmq.topology import COMMAND_DELIVERIES_MAX, Queue, exists
from amends.broker.rabbitmq.wire import Post
from amends.domain.backoff import back_off
from amends.domain.clock import Clock
from amends.errors import BrokerUnavailable, UsageError
from amends.telemetry import Log

#: After so many deliveries, RabbitMQ puts a command aside.
DELIVERIES_MAX: Final = COMMAND_DELIVERIES_MAX + 1
#: The oldest letters, which are all that one reader sees. RabbitMQ has to be told: it would give a
#: reader 2,000 and no more.
READ_MAX: Final = 10_000
#: A letter that a server does not deliver for so long is in other hands.
QUIET_S: Final = 2.0
#: What an earlier reader has handed back may not be counted yet.
RETURNING_S: Final = 0.1
#: How often a reader tries while another one reads.
TRIES_MAX: Final = 8

T = TypeVar("T")

log = Log("amends.broker")


class _Read(NamedTuple):
    letter: DeadLetter
    raw: DeliveredMessage


class DeadLetters:
    """Reads and moves the dead letters of a deployment."""

    def __init__(self, connection: Connection, publisher: Publisher, names: Names) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = names

    async def read(self, *, queue: str | None, limit: int) -> list[DeadLetter]:
        """The letters of a queue, or of all, oldest first."""

        async def take(_: Wire, found: list[_Read]) -> list[DeadLetter]:
            return [read.letter for read in found if queue in (None, read.letter.message.queue)]

        return sorted(await self._reading(take), key=lambda letter: letter.died_at)[:limit]

    async def redrive(self, ids: Collection[UUID]) -> int:
        """Publish letters into their queues, and only then take them away."""

        async def revive(wire: Wire, found: list[_Read]) -> int:
            chosen = [read for read in found if read.letter.message.id in ids]
            for read in chosen:
                self._check_way_back(read.letter)
            return await self._revive(wire, chosen)

        return await self._reading(revive)

    async def bring_back(self, clock: Clock) -> None:
        """Publish again what was due while its queue was not there, and is now. Tries until it has
        looked.

        RabbitMQ puts such messages aside also while it starts, when what was delayed is there
        before the way to its queue is. Sagas wait for them, and no person has anything to decide.
        """
        failures = 0
        while True:
            try:
                if count := await self._bring_back():
                    log.warning("brought_back", dead_letters=count)
                return
            except (BrokerUnavailable, UsageError) as error:
                failures += 1
                log.warning("not_brought_back", error=str(error))
                await back_off(clock, failures)

    async def _bring_back(self) -> int:
        async def revive(wire: Wire, found: list[_Read]) -> int:
            stranded = [read for read in found if read.letter.reason == NO_QUEUE]
            there = {
                queue: await self._is_there(queue)
                for queue in {read.letter.message.queue for read in stranded}
            }
            return await self._revive(wire, [r for r in stranded if there[r.letter.message.queue]])

        return await self._reading(revive)

    async def _is_there(self, queue: str) -> bool:
        try:
            physical = self._names.queue(queue)
        except UsageError:
            return False
        return await exists(self._connection, Queue(physical, {}))

    async def _revive(self, wire: Wire, chosen: Sequence[_Read]) -> int:
        for read in chosen:
            queue = read.letter.message.queue
            mail = Post(read.raw.body, revived(read.raw.header.properties))
            await self._publisher.send(self._names.exchange, queue, mail, queue=queue)
            await _take_away(wire, read)
        return len(chosen)

    async def discard(self, ids: Collection[UUID]) -> int:
        """Take letters away for good."""

        async def take_away(wire: Wire, found: list[_Read]) -> int:
            chosen = [read for read in found if read.letter.message.id in ids]
            for read in chosen:
                await _take_away(wire, read)
            return len(chosen)

        return await self._reading(take_away)

    def _check_way_back(self, letter: DeadLetter) -> None:
        try:
            self._names.queue(letter.message.queue)
        except UsageError:
            raise UsageError(
                f"nobody knows where the dead letter {letter.message.id} came from "
                f"({letter.message.queue!r} is no queue of ours). Nothing was redriven. "
                "Leave it out, or discard it"
            ) from None

    # --- reading

    async def _reading(self, work: Callable[[Wire, list[_Read]], Awaitable[T]]) -> T:
        """Work on everything that is there, while it is in nobody else's hands."""

        async def read(wire: Wire) -> T | None:
            raws = await self._read_alone(wire)
            if raws is None:
                return None
            letters = (read_letter(raw, self._names, deliveries_max=DELIVERIES_MAX) for raw in raws)
            return await work(wire, [_Read(*pair) for pair in zip(letters, raws, strict=True)])

        for _ in range(TRIES_MAX):
            # Whatever is left when the channel is closed goes back, in its order.
            outcome = await self._connection.requesting(read)
            if outcome is not None:
                return outcome
            await asyncio.sleep(random.uniform(0.1, 1.0))
        raise BrokerUnavailable("others are reading the dead letters all the time: try again")

    async def _read_alone(self, wire: Wire) -> list[DeliveredMessage] | None:
        """Everything that is there; None when somebody else is reading."""
        dead = self._names.dead
        raws: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        try:
            await wire.basic_qos(prefetch_count=READ_MAX, timeout=REQUEST_TIMEOUT_S)
            declared = await wire.queue_declare(dead, passive=True, timeout=REQUEST_TIMEOUT_S)
            await wire.basic_consume(dead, raws.put, timeout=REQUEST_TIMEOUT_S)
            readers = await wire.queue_declare(dead, passive=True, timeout=REQUEST_TIMEOUT_S)
        except ChannelNotFoundEntity as error:
            raise BrokerUnavailable(
                f"there is no queue {dead}: {describe(error)}. Run `amends broker setup`"
            ) from error
        except LOST as error:
            raise BrokerUnavailable(f"dead letters cannot be read: {describe(error)}") from error
        if readers.consumer_count != 1:
            return None
        found = await _all_of(raws, min(declared.message_count or 0, READ_MAX))
        if wire.is_closed:
            raise BrokerUnavailable("the connection was lost while dead letters were read")
        return found


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

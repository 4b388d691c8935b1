"""Publishing: every message is confirmed by the server, or somebody is told that it was not.

What is unknown (the connection was lost before the confirmation) is published again under the same
id. What comes back because its queue is gone is published again when the queue is there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final

from aiormq.channel import Channel as Wire
from aiormq.exceptions import (
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    PublishError,
)

from amends.broker.port import Message
from amends.broker.rabbitmq.connection import (
    LOST,
    REQUEST_TIMEOUT_S,
    Connection,
    describe,
    library_words,
    wire_of,
)
from amends.broker.rabbitmq.delays import route
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.parcels import Parcels
from amends.broker.rabbitmq.wire import (
    Post,
    message_id_of,
    parcel,
    post,
)
from amends.broker.topology import INBOX_PREFIX
from amends.domain.backoff import back_off
from amends.domain.clock import Clock
from amends.domain.deadlines import Deadline, Deadlines
from amends.errors import BrokerRefused, BrokerUnavailable, PayloadTooLarge
from amends.telemetry import Log

log = Log("amends.broker")

#: Messages whose confirmation is waited for at a time.
IN_FLIGHT_MAX: Final = 128
#: A message that is not confirmed for so long, though the server takes messages, is published again.
CONFIRM_S: Final = 10.0
#: A channel of this age over which messages are refused, or not confirmed, is not used any more.
TRUST_S: Final = 1.0
#: How long closing waits for confirmations.
CLOSING_S: Final = 5.0
#: RabbitMQ 4 takes 16 MiB by default, and nothing that the engine sends comes near.
BODY_BYTES_MAX: Final = 8 * 1024 * 1024


class Publisher:
    """Publishes over one channel of a connection of its own.

    `repair` declares again, or raises UsageError for, the queue with the logical name that it is
    given. `carrier` names the inbox through which messages to an inbox go. `timeout_s` bounds how
    long one message is tried, over all reconnects.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        clock: Clock,
        *,
        timeout_s: float,
        repair: Callable[[str], Awaitable[None]],
        carrier: Callable[[str], str] = lambda inbox: inbox,
    ) -> None:
        self._connection = connection
        self._names = names
        self._clock = clock
        self._timeout_s = timeout_s
        self._repair = repair
        self._carrier = carrier
        self._wire: Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_held = False
        self._opened_at = 0.0
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._deadlines = Deadlines()
        self._parcels = Parcels(self._send_parcel, self._spawn)
        self._sending: set[asyncio.Task[None]] = set()
        self._numbers = count()
        self.published = 0
        """AMQP messages that were confirmed."""

    async def publish(self, messages: Sequence[Message], *, earlier: int = 0) -> None:
        """Publish in order; every message is confirmed when this returns. `earlier` is how often
        they were delivered before.

        Raises BrokerUnavailable (some may have been published), UsageError (a queue that is not
        there and was never declared), PayloadTooLarge.
        """
        for message in messages:
            check_size(message)
        under_way = [self._begin(message, earlier) for message in messages]
        outcomes = await asyncio.gather(*under_way, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, asyncio.CancelledError):
                # Not the caller's: `close` gave it up.
                raise BrokerUnavailable(
                    "the broker was closed before a message was confirmed. It may have been "
                    "published; publishing it again under its id is safe"
                )
            if isinstance(outcome, BaseException):
                raise outcome

    async def send(
        self, exchange: str, key: str, mail: Post, *, queue: str = "", mandatory: bool = True
    ) -> None:
        """Publish one AMQP message and wait until it is confirmed. `queue` is the logical name of
        the queue that it is to reach, if that may have to be declared again; what is not
        `mandatory` need reach none.
        """
        await self._send(_Sending(lambda: (exchange, key), mail, queue, mandatory))

    async def is_blocked(self) -> bool:
        """Whether the server takes nothing, because of an alarm."""
        return await self._connection.is_blocked()

    async def close(self) -> None:
        """Finish what is under way, or give it up: then whoever published it is told."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=CLOSING_S)
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    # --- on the way

    def _begin(self, message: Message, earlier: int) -> asyncio.Future[None]:
        now = self._clock.now()
        is_due = message.due is None or message.due <= now
        if is_due and message.queue.startswith(INBOX_PREFIX) and not earlier:
            return self._parcels.put(message, self._carrier(message.queue))
        mail = post(message, at=now, earlier=earlier)
        return self._spawn(self._send(_Sending(partial(self._way, message), mail, message.queue)))

    def _way(self, message: Message) -> tuple[str, str]:
        """The exchange and the routing key for a message, if it is published now."""
        delay = None
        if message.due is not None:
            delay = route(message.due, self._clock.now(), message.queue)
        if delay is None:
            return self._names.exchange, message.queue
        return self._names.delay(delay.level), delay.routing_key

    async def _send_parcel(self, queue: str, messages: Sequence[Message]) -> None:
        mail = parcel(messages, at=self._clock.now(), through=queue)
        await self.send(self._names.exchange, queue, mail, queue=queue)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    # --- one AMQP message

    async def _send(self, sending: _Sending) -> None:
        deadline = self._deadlines.within(self._timeout_s)
        try:
            with deadline:
                async with self._slots:
                    await self._until_confirmed(sending, deadline)
        except TimeoutError:
            self._is_held = await self.is_blocked()
            why = (
                "it takes none, because of a memory or disk alarm" if self._is_held else sending.why
            )
            raise BrokerUnavailable(
                f"RabbitMQ did not confirm a message to {sending.queue or sending.way()[0]!r} within "
                f"{self._timeout_s:g} s{why and f': {why}'}. It may have been published; publishing "
                "it again under its id is safe"
            ) from None
        self.published += 1

    async def _until_confirmed(self, sending: _Sending, deadline: Deadline) -> None:
        mail = sending.mail
        id = message_id_of(mail.properties)
        failures = 0
        wire: Wire | None = None
        while True:
            if deadline.expired:
                raise TimeoutError  # of which the client library made another error
            exchange, key = sending.way()
            try:
                wire = await self._ready()
                # Copies in flight must differ, or the client library confuses their confirmations.
                mail.properties.message_id = f"{id}#{next(self._numbers)}"
                with library_words(), self._deadlines.within(CONFIRM_S):
                    await wire.basic_publish(
                        mail.body,
                        exchange=exchange,
                        routing_key=key,
                        properties=mail.properties,
                        mandatory=sending.mandatory,
                        wait=False,
                    )
            except (PublishError, ChannelNotFoundEntity) as error:
                # Unroutable, or the exchange is gone.
                sending.failed("published_in_vain", key, describe(error))
                await self._mend(sending, key)
            except DeliveryError as error:
                sending.failed("publish_refused", key, describe(error))
                self._distrust(wire)
            except BrokerUnavailable as error:
                sending.failed("publish_retried", key, str(error))
            except TimeoutError:
                await self._unconfirmed(sending, key, wire)
            except LOST as error:
                sending.failed("publish_retried", key, describe(error))
            else:
                return
            failures += 1
            if failures > 1:
                await back_off(self._clock, failures - 1)

    async def _mend(self, sending: _Sending, key: str) -> None:
        try:
            await self._repair(sending.queue)
        except BrokerRefused:
            raise
        except BrokerUnavailable as error:
            sending.failed("not_repaired", key, str(error))

    async def _ready(self) -> Wire:
        if self._is_held:
            # What was published since the alarm began fills this process's memory already.
            await self._connection.unblocked()
            self._is_held = False
        while (wire := self._wire) is None or wire.is_closed:
            # One for all, who then go on in the order in which they came.
            opening = self._opening
            if opening is None or opening.done():
                opening = self._opening = asyncio.create_task(self._open())
                opening.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait([opening])
            opening.result()
        return wire

    async def _open(self) -> None:
        self._wire = await wire_of(await self._connection.channel(confirms=True))
        self._opened_at = asyncio.get_running_loop().time()

    async def _unconfirmed(self, sending: _Sending, key: str, wire: Wire | None) -> None:
        """A message was not confirmed in time, and is to be published again."""
        self._is_held = await self.is_blocked()
        if not self._is_held:
            sending.failed("publish_unconfirmed", key, f"not confirmed within {CONFIRM_S:g} s")
            self._distrust(wire)

    def _distrust(self, wire: Wire | None) -> None:
        """Use another channel from now on. When a queue loses its leader, RabbitMQ may refuse, or
        forget, all that a channel sends there, for as long as the channel lives: seen on 3.10, and
        see its pull requests 13095 and 14589, of 2025.
        """
        age_s = asyncio.get_running_loop().time() - self._opened_at
        if wire is not None and wire is self._wire and age_s >= TRUST_S:
            self._wire = None
            self._spawn(_close(wire))


async def _close(wire: Wire) -> None:
    with suppress(*LOST), library_words():
        # An error of ours: otherwise those who wait for other confirmations would be cancelled.
        await wire.close(ChannelInvalidStateError("it confirmed nothing"), REQUEST_TIMEOUT_S)


@dataclass
class _Sending:
    """An AMQP message that is to reach a queue. `way` says by which exchange and routing key, when
    it is asked: the longer a delayed message was tried, the less is left of its delay.
    """

    way: Callable[[], tuple[str, str]]
    mail: Post
    queue: str
    mandatory: bool = True
    why: str = ""
    """What went wrong last."""

    def failed(self, event: str, key: str, why: str) -> None:
        """It was not confirmed."""
        if why != self.why:
            log.warning(event, key=key, error=why)
        self.why = why


def check_size(message: Message) -> None:
    """Raise PayloadTooLarge for what no server need take."""
    if len(message.body) > BODY_BYTES_MAX:
        raise PayloadTooLarge(
            f"a {message.type} message of {len(message.body)} bytes is over the limit, which is "
            f"{BODY_BYTES_MAX}; nothing was published. Store the bulk elsewhere"
        )

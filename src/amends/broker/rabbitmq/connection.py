"""A connection to RabbitMQ that is made again when it is lost.

Nothing here replays anything: whoever published or consumed over a lost connection is told, and
knows what to do. So aio-pika's plain connections are used, not its robust ones, which would keep
consuming with callbacks whose messages are gone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from ssl import SSLContext
from typing import Any, Final, TypeVar, cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError
from aiormq.abc import AbstractConnection as WireConnection
from aiormq.channel import Channel as Wire
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelInvalidStateError,
    ConnectionNotAllowed,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from amends.broker.rabbitmq.address import BrokerAddress, Node
from amends.broker.rabbitmq.unreadable import read_anything
from amends.domain.backoff import backoff_s
from amends.domain.clock import Clock
from amends.errors import BrokerClosed, BrokerRefused, BrokerUnavailable, InvalidSettings
from amends.telemetry import Log

T = TypeVar("T")

log = Log("amends.broker")

read_anything()

#: What goes wrong when a connection or a channel is lost, or cannot be made.
LOST: Final = (AMQPError, ChannelInvalidStateError, OSError, RuntimeError, TimeoutError)

#: A request to the server (opening a channel, declaring a queue) that takes longer has failed.
REQUEST_TIMEOUT_S: Final = 20.0
#: How long saying goodbye to the server may take.
CLOSING_S: Final = 5.0
#: Who waits for an answer on a closed channel hears of its end within milliseconds, or never.
CANCELLED_S: Final = 0.25
#: Nobody begins to write to a connection that was closed so long ago.
SINK_S: Final = 1.0

_CLOSED: Final = "the broker is closed; nothing was published or acknowledged"
#: The last one is what the client library makes of a virtual host that is not there.
_REFUSED: Final = (
    AuthenticationError,
    ProbableAuthenticationError,
    ConnectionNotAllowed,
    ChannelAccessRefused,
    InvalidFrameError,
)


class LibraryConnection(aio_pika.Connection):
    """Nobody closes it but us. When it is forgotten, as after an attempt that failed, the library
    would close it in whatever thread collects the garbage, where there is no event loop.
    """

    def __del__(self) -> None:
        pass


class Connection:
    """One connection, made when it is first needed. `what` tells it from others of the process.

    A server that refuses who connects will go on refusing: that is BrokerRefused. All else passes,
    and is BrokerUnavailable.
    """

    def __init__(self, address: BrokerAddress, what: str, clock: Clock) -> None:
        self._address = address
        self._what = what
        self._clock = clock
        self._made: AbstractConnection | None = None
        self._making: asyncio.Task[AbstractConnection] | None = None
        self._doing: set[asyncio.Task[Any]] = set()
        self._sinks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._closed = False
        self.reconnects = -1

    async def made(self) -> None:
        """Wait until there is a connection. Whoever waits for a channel must not be cancelled: it
        may cost the whole connection. Raises what `channel` raises.
        """
        await self._up()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A new channel. `confirms` is for publishing: the server then confirms each message, and
        an unroutable one raises. Raises BrokerUnavailable, BrokerRefused, BrokerClosed.
        """
        made = await self._up()
        try:
            with library_words():
                channel = made.channel(publisher_confirms=confirms, on_return_raises=confirms)
                assert made.transport is not None
                opening = channel.initialize(timeout=REQUEST_TIMEOUT_S)
                await while_open(made.transport.connection, opening)
        except LOST as error:
            raise self._unavailable(error) from error
        return channel

    async def requesting(self, requests: Callable[[Wire], Awaitable[T]]) -> T:
        """A few requests on a channel of their own. What the server refuses passes through.

        They are made to their end also when the caller is cancelled: of a request that is cut short
        the client library makes such a mess that it may cost the whole connection.
        """
        await self.made()
        doing = asyncio.create_task(self._on_a_channel(requests))
        self._doing.add(doing)
        doing.add_done_callback(self._doing.discard)
        doing.add_done_callback(_heard)
        await asyncio.wait([doing])
        return doing.result()

    async def _on_a_channel(self, requests: Callable[[Wire], Awaitable[T]]) -> T:
        channel = await self.channel()
        wire = await wire_of(channel)
        try:
            with library_words():
                return await while_open(wire, requests(wire))
        except ConnectionError as error:
            raise self._unavailable(error) from error
        finally:
            with suppress(*LOST), library_words():
                await while_open(wire, channel.close())

    async def is_blocked(self) -> bool:
        """Whether the server takes nothing that is published over it, because of an alarm."""
        made = self._made
        if made is None or made.transport is None or _is_closed(made):
            return False
        # The library tells nobody, but this waits for as long as the server blocks.
        ready = asyncio.ensure_future(made.transport.connection.ready())
        for _ in range(3):
            await asyncio.sleep(0)
        if ready.done():
            return False
        ready.cancel()
        return True

    async def unblocked(self) -> None:
        """Wait until an alarm is over, or the connection is lost."""
        made = self._made
        if made is None or made.transport is None or _is_closed(made):
            return
        wire = made.transport.connection
        waiting = [asyncio.ensure_future(wire.ready()), wire.closing]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    async def close(self) -> None:
        """Close it for good. Idempotent."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        await self._drop()
        if self._doing:
            await asyncio.wait(self._doing)
        for sink in self._sinks:
            sink.cancel()
        await asyncio.gather(*self._sinks, return_exceptions=True)

    async def _up(self) -> AbstractConnection:
        made, making = self._made, self._making
        if made is not None and not _is_closed(made) and not self._closed:
            return made
        if making is None or making.done():
            if self._closed:
                raise BrokerClosed(_CLOSED)
            # One attempt for all who wait: each hears how it went, and need not try for itself.
            making = self._making = asyncio.create_task(self._make())
            making.add_done_callback(_heard)
        await asyncio.wait([making])
        if making.cancelled():  # by `close`
            raise BrokerClosed(_CLOSED)
        return making.result()

    async def _make(self) -> AbstractConnection:
        await self._drop()
        if self._failures:
            await self._pause()
        try:
            self._made = made = await self._connect()
        except BaseException:
            self._failures += 1
            raise
        self._failures = 0
        self.reconnects += 1
        assert made.transport is not None
        wires = made.transport.connection
        wires.closing.add_done_callback(lambda _: self._begin_sink(wires))
        log.info("connected", what=self._what, broker=self._address.redacted())
        return made

    def _begin_sink(self, closed: WireConnection) -> None:
        sink = asyncio.create_task(take_frames(closed))
        self._sinks.add(sink)
        sink.add_done_callback(self._sinks.discard)

    async def _pause(self) -> None:
        """Longer each time, and not in step with all the others who lost the same server."""
        delay_s = backoff_s(self._failures) * random.uniform(0.5, 1.5)
        await self._clock.sleep_until(self._clock.now() + timedelta(seconds=delay_s))

    async def _connect(self) -> AbstractConnection:
        """To a node of the cluster that lives; raises what the last one said if there is none."""
        *others, last = self._address.nodes
        tls = self._tls()
        for node in others:
            try:
                return await self._connect_to(node, tls)
            except BrokerRefused:
                raise  # so would all of them
            except BrokerUnavailable as error:
                log.warning("node_unavailable", node=f"{node.host}:{node.port}", error=str(error))
        return await self._connect_to(last, tls)

    async def _connect_to(self, node: Node, tls: SSLContext | None) -> AbstractConnection:
        address = self._address
        host, port = node
        try:
            return await aio_pika.connect(
                host=host,
                port=port,
                login=address.user,
                password=address.password,
                virtualhost=address.vhost,
                ssl=address.tls,
                ssl_context=tls,
                timeout=address.connection_timeout_s,
                heartbeat=address.heartbeat_s,
                client_properties={"connection_name": f"amends {self._what}"},
                connection_class=LibraryConnection,
            )
        except _REFUSED as error:
            raise BrokerRefused(
                f"{self._address.redacted()} refuses us: {error}. Nothing was published. Look at "
                "the user, the password, the virtual host and the user's permissions"
            ) from error
        except (*LOST, IncompatibleProtocolError) as error:
            raise self._unavailable(error) from error

    def _tls(self) -> SSLContext | None:
        try:
            return self._address.ssl_context()
        except InvalidSettings as error:
            if self.reconnects < 0:
                raise
            # It was right before: somebody is renewing the files.
            raise BrokerUnavailable(str(error)) from error

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"RabbitMQ at {self._address.redacted()} cannot be used now: {describe(error)}"
        )

    async def _drop(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            # In a task, whose own cancellation by the library is not that of this one.
            closing = asyncio.ensure_future(made.close())
            await asyncio.wait([closing], timeout=CLOSING_S)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)


def _is_closed(made: AbstractConnection) -> bool:
    transport = made.transport
    return made.is_closed or transport is None or transport.connection.is_closed


@contextmanager
def library_words() -> Iterator[None]:
    """Around calls of the client library, so that all it raises for a lost connection is in LOST.

    When it closes a connection itself, for a missed heartbeat say, whoever waits gets a bare
    CancelledError: here that is a ConnectionError, unless this task was really cancelled.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise ConnectionError("the connection was closed") from error


def _heard(future: asyncio.Future[Any]) -> None:
    """Whoever waited may be gone."""
    if not future.cancelled():
        future.exception()


async def take_frames(closed: WireConnection) -> None:
    """Take what is still written to a connection that is closed.

    Frames wait in a queue for ten, and the library leaves whoever wants to put one more into that
    waiting for ever: a publisher, say, and all who wait behind it.
    """
    with suppress(TimeoutError):
        while True:
            await asyncio.wait_for(closed.write_queue.get(), timeout=SINK_S)


async def while_open(within: Wire | WireConnection, work: Awaitable[T]) -> T:
    """What comes of requests to the server, as long as their channel or connection is open.

    The library cancels what waits when these are closed. But a cancellation that comes at the very
    moment at which `asyncio.wait_for` is about to return is lost (before Python 3.12), and the next
    answer would be waited for until the request's timeout. Raises ConnectionError then.
    """
    closing, working = within.closing, asyncio.ensure_future(work)
    working.add_done_callback(_heard)
    try:
        await asyncio.wait([working, closing], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await asyncio.wait([working], timeout=CANCELLED_S)
        if working.done():
            return working.result()
        raise ConnectionError("the connection was closed")
    finally:
        closing.cancel()  # our view of it
        working.cancel()


async def wire_of(channel: AbstractChannel) -> Wire:
    """The protocol layer of a channel, which deals in AMQP messages as they are: aio-pika's own
    wrappers cost as much again for each message.
    """
    return cast(Wire, await channel.get_underlay_channel())


def describe(error: BaseException) -> str:
    """An error of the client library as a person reads it."""
    text = str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}" if type(error).__name__ not in text else text


def on_close(channel: AbstractChannel, call: Callable[[BaseException | None], None]) -> None:
    """Call somebody once when a channel is closed, by whomever."""

    def closed(_: object, error: BaseException | None) -> None:
        call(error)

    channel.close_callbacks.add(closed)

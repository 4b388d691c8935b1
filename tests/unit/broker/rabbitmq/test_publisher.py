"""A message is tried until it is confirmed or its time is over, and each attempt is a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic

from amends.broker.rabbitmq import publisher as publishing
from amends.broker.rabbitmq.connection import Connection
from amends.broker.rabbitmq.delays import route
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.publisher import IN_FLIGHT_MAX, Publisher
from amends.broker.rabbitmq.wire import Properties
from amends.errors import BrokerRefused, BrokerUnavailable, UsageError
from amends.testing.clock import VirtualClock
from amends.testing.contracts.data import new_message, new_messages

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
COMMANDS = "commands.ledger"
TIMEOUT_S = 30.0


class Server:
    """A connection with one channel, whose answers a test decides about."""

    def __init__(self) -> None:
        self.answer: Callable[[], Awaitable[None]] = self._confirm
        self.published: list[tuple[str, str, str]] = []
        self.in_flight = self.in_flight_max = 0
        self.opened = 0
        self.blocked = False
        self.unblocking = asyncio.Event()
        self.is_closed = False

    async def _confirm(self) -> None:
        await asyncio.sleep(0.001)

    # --- what a publisher needs of a connection

    async def channel(self, *, confirms: bool) -> Server:
        assert confirms
        self.opened += 1
        self.is_closed = False
        return self

    async def get_underlay_channel(self) -> Server:
        return self

    async def is_blocked(self) -> bool:
        return self.blocked

    async def unblocked(self) -> None:
        await self.unblocking.wait()

    # --- and of a channel

    async def close(self, error: Exception, timeout: float) -> None:
        self.is_closed = True

    async def basic_publish(
        self, body: bytes, *, exchange: str, routing_key: str, properties: Properties,
        mandatory: bool, wait: bool,
    ) -> None:  # fmt: skip
        assert mandatory
        self.published.append((exchange, routing_key, str(properties.message_id)))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await self.answer()
        finally:
            self.in_flight -= 1


@pytest.fixture
async def server() -> Server:
    return Server()


def publisher_of(
    server: Server, clock: VirtualClock, repair: Callable[[str], Awaitable[None]] | None = None
) -> Publisher:
    async def nothing(queue: str) -> None:
        pass

    return Publisher(
        cast(Connection, cast(Any, server)), NAMES, clock, timeout_s=TIMEOUT_S,
        repair=repair or nothing,
    )  # fmt: skip


def failing(times: int, error: BaseException) -> Callable[[], Awaitable[None]]:
    """An answer that is an error so many times."""
    left = iter(range(times))

    async def answer() -> None:
        if next(left, None) is not None:
            raise error

    return answer


async def test_what_is_unknown_is_published_again_under_its_id(
    server: Server, clock: VirtualClock
) -> None:
    """But never under the same one on the wire: copies in flight are told apart by that."""
    server.answer = failing(3, ConnectionError("lost"))
    publisher = publisher_of(server, clock)
    message = new_message(COMMANDS)
    await publisher.publish([message])
    ids = [id for _, _, id in server.published]
    assert len(set(ids)) == len(ids) == 4
    assert {id.partition("#")[0] for id in ids} == {str(message.id)}
    assert publisher.published == 1


async def test_it_is_tried_for_so_long_and_no_longer(server: Server, clock: VirtualClock) -> None:
    server.answer = failing(10_000, ConnectionError("the cable was cut"))
    began = clock.now()
    with pytest.raises(
        BrokerUnavailable, match=r"'commands\.ledger' within 30 s: .*the cable was cut\. It may"
    ):
        await publisher_of(server, clock).publish([new_message(COMMANDS)])
    assert (clock.now() - began).total_seconds() == pytest.approx(TIMEOUT_S, abs=0.1)
    assert 8 < len(server.published) < 20  # ever more slowly


async def test_many_that_wait_are_given_up_together(server: Server, clock: VirtualClock) -> None:
    """Also those that never had a turn."""
    never = asyncio.Event()
    server.answer = lambda: cast(Awaitable[None], never.wait())
    began = clock.now()
    with pytest.raises(BrokerUnavailable, match="within 30 s: not confirmed within 10 s"):
        await publisher_of(server, clock).publish(new_messages(COMMANDS, 500))
    assert (clock.now() - began).total_seconds() == pytest.approx(TIMEOUT_S, abs=0.1)
    assert server.in_flight_max == IN_FLIGHT_MAX == 128


async def test_a_cancellation_that_the_library_makes_an_error_of_is_the_end_too(
    server: Server, clock: VirtualClock
) -> None:
    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    server.answer = swallow
    began = clock.now()
    with pytest.raises(BrokerUnavailable, match="within 30 s"):
        await publisher_of(server, clock).publish([new_message(COMMANDS)])
    assert (clock.now() - began).total_seconds() == pytest.approx(TIMEOUT_S, abs=0.5)
    assert len(server.published) == 3


async def test_a_delay_is_counted_from_the_attempt(server: Server, clock: VirtualClock) -> None:
    """What was tried for ten seconds is not ten seconds late; nor is what waited for its turn."""
    due = clock.now() + timedelta(seconds=12)
    message = new_message(COMMANDS, due=due)

    async def answer() -> None:
        await asyncio.sleep(5)
        if len(server.published) < 4:
            raise ConnectionError("lost")

    server.answer = answer
    await publisher_of(server, clock).publish([message])
    moments = [clock.now() - timedelta(seconds=s) for s in (20.3, 15.3, 10.2, 5)]
    expected = []
    for moment in moments:
        way = route(due, moment, COMMANDS)
        expected.append(("test", COMMANDS) if way is None else (NAMES.delay(way.level), ...))
    exchanges = [exchange for exchange, _, _ in server.published]
    assert exchanges == [exchange for exchange, _ in expected]
    assert len(set(exchanges)) == 4


async def test_what_is_refused_is_tried_again(server: Server, clock: VirtualClock) -> None:
    server.answer = failing(2, DeliveryError(None, Basic.Nack(delivery_tag=1)))
    await publisher_of(server, clock).publish([new_message(COMMANDS)])
    assert len(server.published) == 3


async def test_a_queue_that_is_gone_is_made_again_also_at_the_second_try(
    server: Server, clock: VirtualClock
) -> None:
    repaired: list[str] = []

    async def repair(queue: str) -> None:
        repaired.append(queue)
        if len(repaired) == 1:
            raise BrokerUnavailable("the connection was lost just now")

    server.answer = failing(2, not_found())
    await publisher_of(server, clock, repair).publish([new_message(COMMANDS)])
    assert repaired == [COMMANDS, COMMANDS]


@pytest.mark.parametrize("error", [UsageError("never declared"), BrokerRefused("otherwise")])
async def test_a_queue_that_cannot_be_made_again_is_an_error(
    server: Server, clock: VirtualClock, error: Exception
) -> None:
    async def repair(queue: str) -> None:
        raise error

    server.answer = failing(10, not_found())
    with pytest.raises(type(error)):
        await publisher_of(server, clock, repair).publish([new_message(COMMANDS)])
    assert len(server.published) == 1


async def test_during_an_alarm_nothing_more_is_written(server: Server, clock: VirtualClock) -> None:
    """What the server does not read would fill the memory of this process, again each time."""
    never = asyncio.Event()
    server.answer = lambda: cast(Awaitable[None], never.wait())
    server.blocked = True
    publisher = publisher_of(server, clock)
    message = new_message(COMMANDS)
    for _ in range(5):
        with pytest.raises(BrokerUnavailable, match="because of a memory or disk alarm"):
            await publisher.publish([message])
    assert len(server.published) == 1
    server.answer = failing(0, RuntimeError())
    publish = asyncio.ensure_future(publisher.publish([message]))
    await asyncio.sleep(1)
    server.blocked = False
    server.unblocking.set()
    await publish
    assert len(server.published) == 2


async def test_closing_waits_a_moment_and_tells_the_rest(
    server: Server, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()
    server.answer = lambda: cast(Awaitable[None], never.wait())
    publisher = publisher_of(server, clock)
    publish = [
        asyncio.ensure_future(publisher.publish([new_message(queue)]))
        for queue in (COMMANDS, "inbox.0")
    ]
    await asyncio.sleep(1)
    began = clock.now()
    await publisher.close()
    assert (clock.now() - began).total_seconds() == pytest.approx(publishing.CLOSING_S)
    for outcome in await asyncio.gather(*publish, return_exceptions=True):
        assert isinstance(outcome, BrokerUnavailable)


def not_found() -> Exception:
    from aiormq.exceptions import ChannelNotFoundEntity  # noqa: PLC0415

    return ChannelNotFoundEntity("NOT_FOUND - no exchange")

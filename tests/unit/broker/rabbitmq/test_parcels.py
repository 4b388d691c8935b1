"""How messages to inboxes are packed: what goes together, and what waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from amends.broker.port import Message
from amends.broker.rabbitmq.parcels import IN_FLIGHT_MAX, PAUSE_MAX_S, PAUSE_S, Parcels
from amends.broker.rabbitmq.wire import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX
from amends.errors import BrokerUnavailable
from amends.testing.contracts.data import new_message, new_messages

pytestmark = pytest.mark.virtual_time

INBOX, OTHER, THIRD = "inbox.0", "inbox.1", "inbox.2"


class Carrier:
    """Carries parcels, each until it is told that it has arrived."""

    def __init__(self) -> None:
        self.parcels = Parcels(self._send, self._spawn)
        self.sending: list[asyncio.Task[None]] = []
        self.sent: list[list[Message]] = []
        self.through: list[str] = []
        self._arriving: list[asyncio.Future[None]] = []

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.sending.append(asyncio.create_task(work))
        return self.sending[-1]

    async def _send(self, queue: str, messages: Sequence[Message]) -> None:
        self.through.append(queue)
        self.sent.append(list(messages))
        arriving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arriving.append(arriving)
        await arriving

    def put(self, *messages: Message, through: str | None = None) -> list[asyncio.Future[None]]:
        return [self.parcels.put(message, through or message.queue) for message in messages]

    async def passes(self) -> None:
        """Let a few passes of the event loop go by, which take no time."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def arrives(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self._arriving[number].set_result(None)
        else:
            self._arriving[number].set_exception(error)
        await self.passes()


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


async def test_what_comes_in_one_pass_goes_together_and_at_once(carrier: Carrier) -> None:
    messages = new_messages(INBOX, 3)
    arrived = carrier.put(*messages)
    await carrier.passes()
    assert carrier.sent == [messages]
    assert not any(future.done() for future in arrived)
    await carrier.arrives(0)
    assert all(future.done() for future in arrived)


async def test_who_sends_little_waits_for_nothing(carrier: Carrier) -> None:
    messages = new_messages(INBOX, IN_FLIGHT_MAX)
    for message in messages:
        carrier.put(message)
        await carrier.passes()
        await asyncio.sleep(PAUSE_S)
    assert carrier.sent == [[message] for message in messages]


async def test_what_comes_after_a_parcel_waits_for_others(carrier: Carrier) -> None:
    first, *later = new_messages(INBOX, 5)
    carrier.put(first)
    await carrier.passes()
    for message in later:
        carrier.put(message)
        await carrier.passes()
    assert carrier.sent == [[first]]
    await asyncio.sleep(PAUSE_S * 1.01)
    assert carrier.sent == [[first], later]


async def test_after_many_messages_others_wait_longer_and_never_for_long(carrier: Carrier) -> None:
    many = new_messages(INBOX, 50)
    carrier.put(*many)
    await carrier.passes()
    later = new_messages(INBOX, 2)
    carrier.put(later[0])
    await asyncio.sleep(PAUSE_MAX_S * 0.9)
    carrier.put(later[1])
    assert carrier.sent == [many]
    await asyncio.sleep(PAUSE_MAX_S * 0.11)
    assert carrier.sent == [many, later]


async def test_messages_to_several_inboxes_share_the_parcel_of_their_carrier(
    carrier: Carrier,
) -> None:
    messages = [new_message(INBOX), new_message(OTHER), new_message(THIRD)]
    carrier.put(*messages[:2], through=INBOX)
    carrier.put(messages[2], through=THIRD)
    await carrier.passes()
    assert carrier.sent == [messages[:2], messages[2:]]
    assert carrier.through == [INBOX, THIRD]


async def test_an_inbox_that_takes_nothing_holds_up_no_other(carrier: Carrier) -> None:
    for _ in range(IN_FLIGHT_MAX):
        carrier.put(new_message(INBOX))
        await asyncio.sleep(PAUSE_S)
    stuck = new_messages(INBOX, 2)
    others = [new_message(OTHER), new_message(THIRD), new_message(OTHER)]
    carrier.put(*stuck, *others)
    await carrier.passes()
    assert carrier.sent[IN_FLIGHT_MAX:] == [[others[0], others[2]], [others[1]]]
    # What is for the inbox itself waits for it.
    await asyncio.sleep(60)
    assert len(carrier.sent) == IN_FLIGHT_MAX + 2
    await carrier.arrives(0)
    assert carrier.sent[-1] == stuck


async def test_a_parcel_is_bounded(carrier: Carrier) -> None:
    messages = new_messages(INBOX, PARCEL_MESSAGES_MAX * 2)
    carrier.put(*messages)
    await carrier.passes()
    assert carrier.sent == [messages[:PARCEL_MESSAGES_MAX], messages[PARCEL_MESSAGES_MAX:]]


async def test_a_parcel_is_bounded_in_bytes_too(carrier: Carrier) -> None:
    half = b'"%s"' % (b"x" * (PARCEL_BYTES_MAX // 2))
    large = [new_message(INBOX)._replace(body=half) for _ in range(2)]
    over = new_message(OTHER)._replace(body=half * 3)
    carrier.put(*large, over)
    await carrier.passes()
    assert [len(parcel) for parcel in carrier.sent] == [1, 1, 1]
    assert carrier.sent == [[large[0]], [large[1]], [over]]


async def test_all_of_a_parcel_hear_what_went_wrong(carrier: Carrier) -> None:
    arrived = carrier.put(*new_messages(INBOX, 2))
    await carrier.passes()
    await carrier.arrives(0, BrokerUnavailable("gone"))
    for future in arrived:
        with pytest.raises(BrokerUnavailable, match="gone"):
            await future
    (again,) = carrier.put(new_message(INBOX))
    await asyncio.sleep(PAUSE_MAX_S)
    await carrier.arrives(1)
    assert again.done()


async def test_nobody_need_wait_for_what_was_put(carrier: Carrier) -> None:
    given_up, waited_for = carrier.put(*new_messages(INBOX, 2))
    given_up.cancel()
    await carrier.passes()
    await carrier.arrives(0)
    assert waited_for.done()
    assert not waited_for.cancelled()


@pytest.mark.parametrize("begun", [True, False])
async def test_whoever_waits_for_what_is_given_up_hears_of_it(
    carrier: Carrier, begun: bool
) -> None:
    """Also if it was given up before it began."""
    (arrived,) = carrier.put(new_message(INBOX))
    await asyncio.sleep(0)
    if begun:
        await carrier.passes()
    carrier.sending[0].cancel()
    await carrier.passes()
    assert bool(carrier.sent) is begun
    assert arrived.cancelled()
    (again,) = carrier.put(new_message(INBOX))
    await asyncio.sleep(PAUSE_MAX_S)
    await carrier.arrives(-1)
    assert again.done()

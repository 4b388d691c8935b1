"""How messages to inboxes are packed: what goes together, and what waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from amends.broker.port import Message
from amends.broker.rabbitmq.parcels import PATIENCE_S, Parcels
from amends.broker.rabbitmq.wire import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX
from amends.errors import BrokerUnavailable
from amends.testing.contracts.data import new_message, new_messages

pytestmark = pytest.mark.virtual_time

INBOX, OTHER, THIRD = "inbox.0", "inbox.1", "inbox.2"


class Carrier:
    """Carries parcels, each until it is told that it has arrived."""

    def __init__(self) -> None:
        self.parcels = Parcels(self._send, asyncio.create_task)
        self.sent: list[list[Message]] = []
        self._arriving: list[asyncio.Future[None]] = []

    async def _send(self, queue: str, messages: Sequence[Message]) -> None:
        assert {message.queue for message in messages} == {queue}
        self.sent.append(list(messages))
        arriving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arriving.append(arriving)
        await arriving

    def put(self, *messages: Message) -> list[asyncio.Future[None]]:
        return [self.parcels.put(message) for message in messages]

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


async def test_what_comes_while_few_are_under_way_goes_at_once(carrier: Carrier) -> None:
    first, second = new_messages(INBOX, 2)
    carrier.put(first)
    await carrier.passes()
    carrier.put(second)
    await carrier.passes()
    assert carrier.sent == [[first], [second]]


async def test_what_comes_while_many_are_under_way_goes_together_when_one_arrives(
    carrier: Carrier,
) -> None:
    first, second, *later = new_messages(INBOX, 6)
    for message in (first, second, *later):
        carrier.put(message)
        await carrier.passes()
    assert len(carrier.sent) == 2
    await carrier.arrives(1)
    assert carrier.sent == [[first], [second], later]


async def test_an_inbox_that_takes_nothing_holds_up_others_for_a_moment_only(
    carrier: Carrier,
) -> None:
    carrier.put(new_message(INBOX))
    await carrier.passes()
    carrier.put(new_message(INBOX))
    await carrier.passes()
    stuck = new_messages(INBOX, 2)
    others = [new_message(OTHER), new_message(THIRD), new_message(OTHER)]
    carrier.put(*stuck, *others)
    await carrier.passes()
    assert len(carrier.sent) == 2
    await asyncio.sleep(PATIENCE_S * 1.01)
    assert carrier.sent[2:] == [[others[0], others[2]], [others[1]]]
    # What is for the inbox itself waits for it.
    await asyncio.sleep(60)
    assert len(carrier.sent) == 4
    await carrier.arrives(0)
    assert carrier.sent[4] == stuck


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
    assert [len(parcel) for parcel in carrier.sent] == [1, 1]
    await carrier.arrives(0)
    assert carrier.sent[2] == [over]


async def test_all_of_a_parcel_hear_what_went_wrong(carrier: Carrier) -> None:
    arrived = carrier.put(*new_messages(INBOX, 2))
    await carrier.passes()
    await carrier.arrives(0, BrokerUnavailable("gone"))
    for future in arrived:
        with pytest.raises(BrokerUnavailable, match="gone"):
            await future
    (again,) = carrier.put(new_message(INBOX))
    await carrier.passes()
    await carrier.arrives(1)
    assert again.done()


async def test_nobody_need_wait_for_what_was_put(carrier: Carrier) -> None:
    given_up, waited_for = carrier.put(*new_messages(INBOX, 2))
    given_up.cancel()
    await carrier.passes()
    await carrier.arrives(0)
    assert waited_for.done()
    assert not waited_for.cancelled()

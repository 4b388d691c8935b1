"""What nobody can handle is put aside as it came, with a reason, and finds its way back."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiormq.channel import Channel as Wire

from amends.broker.port import Delivery
from amends.broker.rabbitmq import RabbitBroker, dead, topology
from amends.domain.clock import SystemClock
from amends.errors import BrokerUnavailable, UsageError
from amends.testing.contracts.data import new_message, new_messages, soon
from tests.integration.rabbitmq.site import Plain, Site, eventually, receive, take

INBOX, OTHER = "inbox.0", "inbox.1"
COMMANDS = "commands.ledger"

#: Whatever others put into headers. What it comes back as, where the client library cannot send
#: what it reads, stands beside it.
HEADERS: dict[str, tuple[Any, Any]] = {
    "text": ("ä", "ä"),
    "number": (-(2**63), -(2**63)),
    "truth": (True, True),
    "nothing": (None, None),
    "bytes": (bytearray(b"\xff\x00"), bytearray(b"\xff\x00")),
    "time": (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    "list": ([1, "a", [None]], [1, "a", [None]]),
    "table": ({"a": {"b": 1}}, {"a": {"b": 1}}),
    "amends-dead-reason": (17, None),
    "x-delivery-count": (-1, None),
    "CC": ([], []),
}


async def put_aside(broker: RabbitBroker, queue: str, count: int = 1) -> list[Delivery]:
    consumer = broker.consume(queue, limit=count)
    deliveries = await receive(consumer, count)
    for delivery in deliveries:
        await broker.dead_letter(delivery, reason="unreadable", detail="why not")
    await consumer.close()
    return deliveries


async def test_somebody_elses_message_comes_back_as_it_was(site: Site, plain: Plain) -> None:
    broker = await site.open(INBOX)
    theirs = {
        "content_type": "text/xml",
        "content_encoding": "gzip",
        "correlation_id": "c",
        "reply_to": "them",
        "message_type": "OrderPlaced",
        "message_id": "order-17",
        "app_id": "shop",
        "priority": 3,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "user_id": urlsplit(site.url).username,
        "expiration": "300000",
    }
    headers = {name: sent for name, (sent, _) in HEADERS.items()}
    await plain.publish(INBOX, b"<order/>", headers=headers, **theirs)
    [delivery] = await put_aside(broker, INBOX)
    [letter] = await broker.dead_letters()
    assert letter.message == delivery.message
    assert (letter.message.type, letter.message.key) == ("foreign OrderPlaced", "order-17")
    assert (letter.reason, letter.detail, letter.deliveries) == ("unreadable", "why not", 1)
    assert await broker.redrive([letter.message.id]) == 1
    [again] = await put_aside(broker, INBOX)
    assert again.message == delivery.message
    properties = again.token.letter.raw.header.properties
    kept = {name: getattr(properties, name) for name in theirs}
    assert kept.pop("message_id").partition("#")[0] == "order-17"
    assert kept.pop("user_id") is kept.pop("expiration") is None  # for its sender to give
    assert kept == {name: theirs[name] for name in kept}
    assert {name: properties.headers.get(name) for name in HEADERS} == {
        name: back for name, (_, back) in HEADERS.items()
    }


UNREADABLE = {
    "a time in nanoseconds": struct.pack(">HQ", 1 << 6, 1_790_000_000_000_000_000),
    "an id in Latin-1": struct.pack(">H", 1 << 7) + b"\x04caf\xe9",
    "a text in Latin-1": struct.pack(">HI", 1 << 13, 11) + b"\x01aS\x00\x00\x00\x04caf\xe9",
    "a number that is too large": struct.pack(">HI", 1 << 13, 11) + b"\x01ad" + b"\x7f\xe0" + b"\0" * 6,
}  # fmt: skip


@pytest.mark.parametrize("properties", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_what_the_client_library_cannot_read_or_send_is_put_aside_too(
    site: Site, plain: Plain, properties: bytes
) -> None:
    broker = await site.open(COMMANDS)
    await plain.publish_raw(COMMANDS, b"{}", properties)
    behind = new_message(COMMANDS)
    await broker.publish([behind])
    first, _ = await put_aside(broker, COMMANDS, 2)
    assert first.message.type == "foreign"
    letters = await broker.dead_letters()
    assert [letter.message.id for letter in letters] == [first.message.id, behind.id]
    assert await broker.redrive([first.message.id]) == 1
    [again] = await take(broker, COMMANDS, 1)
    assert again.message == first.message


@pytest.mark.parametrize("queue", [INBOX, COMMANDS])
async def test_an_id_that_leaves_no_room_for_a_number_is_cut(
    site: Site, plain: Plain, queue: str
) -> None:
    """Otherwise it could not be put aside, and whoever tried would end."""
    broker = await site.open(queue)
    await plain.publish(queue, b"{}", message_id="é" * 127)
    [first] = await put_aside(broker, queue)
    [letter] = await broker.dead_letters()
    assert letter.message == first.message
    assert letter.message.key == "é" * 100
    assert await broker.redrive([letter.message.id]) == 1
    [again] = await take(broker, queue, 1)
    assert again.message == first.message


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "in a parcel"])
async def test_what_came_through_another_inbox_is_put_aside_for_its_own(
    site: Site, plain: Plain, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await site.open(INBOX, OTHER)
    monkeypatch.setattr(broker._membership, "carrier", lambda _: INBOX)
    messages = new_messages(OTHER, count)
    await broker.publish(messages)
    assert (await plain.count(INBOX), await plain.count(OTHER)) == (1, 0)
    came = await put_aside(broker, INBOX, count)
    assert [delivery.message for delivery in came] == messages
    letters = await broker.dead_letters(queue=OTHER)
    assert [letter.message for letter in letters] == messages
    assert await broker.redrive([message.id for message in messages]) == count
    again = await take(broker, OTHER, count)
    assert [delivery.message for delivery in again] == messages


async def test_headers_that_do_not_fit_are_dropped_and_that_is_said(
    site: Site, plain: Plain
) -> None:
    broker = await site.open(INBOX)
    await plain.publish(INBOX, b"{}", headers={"much": "x" * 100_000, "more": "y" * 25_000})
    await put_aside(broker, INBOX)
    [letter] = await broker.dead_letters()
    assert letter.detail == "its 2 headers did not fit beside this, and were dropped. why not"


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> int:
    """A command may be delivered four times."""
    monkeypatch.setattr(topology, "COMMAND_DELIVERIES_MAX", 3)
    monkeypatch.setattr(dead, "DELIVERIES_MAX", 4)
    return 4


@pytest.mark.parametrize("delay_s", [0, 1.3])
async def test_a_command_that_nobody_lives_to_answer_is_put_aside_by_the_server(
    site: Site, patience: int, delay_s: float
) -> None:
    """Delayed or not: what delayed it is not where it came from."""
    broker = await site.open(COMMANDS)
    clock = SystemClock()
    await broker.publish([new_message(COMMANDS, due=clock.now())])  # which makes the levels
    await take(broker, COMMANDS, 1)
    due = datetime.fromtimestamp(clock.now().timestamp() + delay_s, UTC) if delay_s else None
    message = new_message(COMMANDS, due=due)
    await broker.publish([message])
    for count in range(1, patience + 1):
        consumer = broker.consume(COMMANDS, limit=1)
        [delivery] = await soon(consumer.receive())
        assert (delivery.message, delivery.count) == (message, count)
        await consumer.close()
    [letter] = await eventually(broker.dead_letters)
    assert letter.message == message
    assert (letter.reason, letter.deliveries) == ("delivered too often", patience)
    assert letter.detail == "RabbitMQ put it aside by itself: delivery_limit"
    assert (datetime.now(UTC) - letter.died_at).total_seconds() < 20
    assert (await broker.dead_letters())[0].deliveries == patience, "reading is no delivery"
    assert await broker.redrive([message.id]) == 1
    [again] = await take(broker, COMMANDS, 1)
    assert (again.message, again.count) == (message, 2), "it was delivered before"


async def test_what_becomes_due_when_its_queue_is_gone_is_put_aside(
    site: Site, plain: Plain
) -> None:
    """And holds nobody up: the others of its level are delivered."""
    broker = await site.open(COMMANDS, "commands.mail")
    clock = SystemClock()
    warm_up = [new_message(queue, due=clock.now()) for queue in (COMMANDS, "commands.mail")]
    await broker.publish(warm_up)  # which makes the levels
    await take(broker, COMMANDS, 1)
    due = datetime.fromtimestamp(clock.now().timestamp() + 1.5, UTC)
    lost = [new_message(COMMANDS, due=due) for _ in range(40)]
    kept = new_message("commands.mail", due=due)
    await broker.publish([*lost, kept])
    await plain.delete(COMMANDS)
    mail = await take(broker, "commands.mail", 2)
    assert mail[1].message == kept
    await eventually(lambda: plain.count("dead"))
    letters = await eventually(lambda: _as_many(broker, 40))
    assert {letter.message for letter in letters} == set(lost)
    assert {(letter.reason, letter.deliveries) for letter in letters} == {("no such queue", 0)}
    other = await site.open()
    with pytest.raises(UsageError, match=r"commands\.ledger.*never declared"):
        await other.redrive([lost[0].id])
    await broker.declare([COMMANDS])
    assert await other.redrive([message.id for message in lost]) == 40
    again = await take(other, COMMANDS, 40)
    assert {delivery.message for delivery in again} == set(lost)


async def _as_many(broker: RabbitBroker, count: int) -> Any:
    letters = await broker.dead_letters()
    return letters if len(letters) == count else None


async def test_garbage_among_the_dead_letters_hides_none_of_them(site: Site, plain: Plain) -> None:
    broker = await site.open(INBOX)
    message = new_message(INBOX)
    await broker.publish([message])
    await put_aside(broker, INBOX)
    partly: list[dict[str, Any]] = [
        {},
        {"amends-dead-reason": "r"},
        {"amends-dead-reason": 1, "amends-dead-queue": [], "amends-dead-at": "yesterday"},
        {"x-death": 1},
        {"x-death": [1]},
        {"x-death": [{"queue": f"{site.prefix}.delay.03", "reason": None, "time": "t"}]},
    ]
    for number, headers in enumerate(partly):
        await plain.publish("dead", b"%d" % number, headers=headers)
    letters = await broker.dead_letters()
    assert len(letters) == 1 + len(partly)
    assert letters[-1].message == message
    strange = [letter.message.id for letter in letters[:-1]]
    with pytest.raises(UsageError, match=r"nobody knows where .* Nothing was redriven"):
        await broker.redrive([message.id, strange[0]])
    assert len(await broker.dead_letters()) == 1 + len(partly)
    assert await broker.discard(strange) == len(partly)
    assert await broker.redrive([message.id]) == 1
    assert await broker.dead_letters() == []


async def test_a_parcel_in_the_dead_queue_says_that_it_is_several(site: Site, plain: Plain) -> None:
    broker = await site.open(INBOX)
    messages = new_messages(INBOX, 3)
    await broker.publish(messages)
    consumer = broker.consume(INBOX, limit=3)
    [first, *_] = await receive(consumer, 3)
    raw = first.token.letter.raw
    await plain.wire.basic_publish(
        raw.body, routing_key=f"{site.prefix}.dead", properties=raw.header.properties
    )
    [letter] = await broker.dead_letters()
    assert "a parcel, with 2 more" in letter.detail
    await consumer.close()


async def test_more_are_read_than_the_server_gives_by_itself(site: Site, plain: Plain) -> None:
    """A quorum queue's consumer has 2,000 in hand at most, unless it says how many it wants."""
    broker = await site.open(INBOX)
    await asyncio.gather(*(plain.publish("dead", b"%d" % n) for n in range(2_100)))
    letters = await broker.dead_letters(limit=10_000)
    assert {letter.message.body for letter in letters} == {b"%d" % n for n in range(2_100)}
    assert await broker.discard([letter.message.id for letter in letters]) == 2_100
    assert await plain.count("dead") == 0


async def test_of_too_many_the_oldest_are_read(
    site: Site, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "READ_MAX", 5)
    broker = await site.open(INBOX)
    for n in range(8):
        await plain.publish("dead", b"%d" % n)
    letters = await broker.dead_letters()
    assert await broker.dead_letters() == letters
    assert [letter.message.body for letter in letters] == [b"%d" % n for n in range(5)]
    assert await broker.discard([letter.message.id for letter in letters]) == 5
    assert len(await broker.dead_letters()) == 3


async def test_readers_at_once_see_all_of_it_each(site: Site) -> None:
    one, other = await site.open(INBOX), await site.open()
    messages = new_messages(INBOX, 20)
    await one.publish(messages)
    await put_aside(one, INBOX, 20)
    reading = [broker.dead_letters() for broker in (one, other, one)]
    for letters in await asyncio.gather(*reading):
        assert [letter.message for letter in letters] == messages
    ids = [message.id for message in messages]
    counts = await asyncio.gather(one.discard(ids), other.discard(ids))
    assert sorted(counts) == [0, 20]


async def test_who_gives_up_reading_leaves_the_letters_to_others(site: Site) -> None:
    one, other = await site.open(INBOX), await site.open()
    messages = new_messages(INBOX, 3)
    await one.publish(messages)
    await put_aside(one, INBOX, 3)
    reading = asyncio.ensure_future(one.dead_letters())
    await eventually(lambda: _has_consumer(other))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert len(await other.dead_letters()) == 3


async def _has_consumer(broker: RabbitBroker) -> bool:
    async def look(wire: Wire) -> bool:
        told = await wire.queue_declare(broker._names.dead, passive=True)
        return bool(told.consumer_count)

    return await broker._consuming.requesting(look)


async def test_whoever_reads_for_ever_is_named(
    site: Site, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "TRIES_MAX", 2)
    broker = await site.open(INBOX)

    async def ignore(_: object) -> None:
        pass

    await plain.wire.basic_consume(f"{site.prefix}.dead", ignore)
    with pytest.raises(BrokerUnavailable, match="others are reading"):
        await broker.dead_letters()


async def test_without_the_queue_it_is_said_what_to_do(site: Site, plain: Plain) -> None:
    broker = await site.open(INBOX)
    await plain.delete("dead")
    with pytest.raises(BrokerUnavailable, match="amends broker setup"):
        await broker.dead_letters()

"""What a publisher was told is published, whatever happens to the server meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from amends.broker.port import Broker, Delivery, Message
from amends.broker.rabbitmq.publisher import BODY_BYTES_MAX
from amends.broker.rabbitmq.wire import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX
from amends.errors import BrokerUnavailable, PayloadTooLarge, UsageError
from amends.testing.contracts.data import new_message, new_messages, soon
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Plain, Site, eventually, receive, take

COMMANDS = "commands.ledger"
INBOX = "inbox.0"
QUEUES = [COMMANDS, INBOX, "inbox.1"]


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as told:
        yield told


async def all_of(broker: Broker, queue: str, messages: list[Message]) -> list[Message]:
    """What is in a queue, until each of these came once at least."""
    left = {message.id for message in messages}
    came: list[Message] = []
    consumer = broker.consume(queue, limit=1000)
    while left:
        deliveries = await soon(consumer.receive())
        came += [delivery.message for delivery in deliveries]
        left -= {delivery.message.id for delivery in deliveries}
        await broker.ack(deliveries)
    await consumer.close()
    return came


def with_body(message: Message, size: int) -> Message:
    return message._replace(body=b"x" * size)


# --- as it should be


@pytest.mark.parametrize("queue", [COMMANDS, INBOX])
async def test_the_order_is_kept_over_many_calls(site: Site, queue: str) -> None:
    """Also of the very first ones, which wait for the connection."""
    await site.open(queue)
    broker = site.make()
    messages = new_messages(queue, 400)
    await broker.publish(messages[:200])
    await asyncio.gather(
        *(broker.publish(messages[first : first + 5]) for first in range(200, 400, 5))
    )
    assert [delivery.message for delivery in await take(broker, queue, 400)] == messages


async def test_parcels_are_bounded_in_number_and_bytes(site: Site) -> None:
    broker = await site.open(INBOX)
    small = new_messages(INBOX, 400)
    large = [with_body(message, 100_000) for message in new_messages(INBOX, 9)]
    one = with_body(new_message(INBOX), PARCEL_BYTES_MAX * 2)
    await broker.publish([*small, *large, one])
    consumer = broker.consume(INBOX, limit=1000)
    deliveries = await receive(consumer, 410)
    assert [delivery.message for delivery in deliveries] == [*small, *large, one]
    letters = {id(d.token.letter): d.token.letter for d in deliveries}.values()
    sizes = [letter.size for letter in letters]
    assert max(sizes) == PARCEL_MESSAGES_MAX
    assert len(sizes) < 20
    for letter in letters:
        assert letter.size == 1 or len(letter.raw.body) < PARCEL_BYTES_MAX + 64 * 500
    await consumer.close()


async def test_of_what_is_too_large_nothing_is_published(site: Site, plain: Plain) -> None:
    broker = await site.open(COMMANDS, INBOX)
    for queue in (COMMANDS, INBOX):
        with pytest.raises(PayloadTooLarge, match="nothing was published"):
            await broker.publish(
                [new_message(queue), with_body(new_message(queue), BODY_BYTES_MAX + 1)]
            )
        await broker.publish([with_body(new_message(queue), 1_000_000)])
        assert await plain.count(queue) == 1


# --- what is not there


async def test_a_queue_that_was_deleted_is_there_again(site: Site, plain: Plain) -> None:
    broker = await site.open(*QUEUES)
    for queue in QUEUES[:2]:
        await plain.delete(queue)
    messages = [new_message(queue) for queue in QUEUES for _ in range(20)]
    await soon(broker.publish(messages))
    for queue in QUEUES:
        mine = [message for message in messages if message.queue == queue]
        assert set(await all_of(broker, queue, mine)) == set(mine)


async def test_whoever_publishes_while_queues_are_made_again_is_served_too(
    site: Site, plain: Plain
) -> None:
    """And is not told that they were never declared."""
    broker = await site.open(*QUEUES)
    for queue in QUEUES:
        await plain.delete(queue)
    first = asyncio.ensure_future(broker.publish([new_message(COMMANDS)]))
    publishing = [first]
    while not first.done():
        publishing += [asyncio.ensure_future(broker.publish([new_message(q)])) for q in QUEUES]
        await asyncio.sleep(0.01)
    await soon(asyncio.gather(*publishing))


@pytest.mark.parametrize("exchange", ["", ".delay.04"])
async def test_an_exchange_that_was_deleted_is_there_again(
    site: Site, plain: Plain, exchange: str
) -> None:
    """While many are in flight, each of which comes back or is unknown."""
    broker = await site.open(*QUEUES)
    now = broker._clock.now()
    await broker.publish([new_message(COMMANDS, due=now)])  # which makes the levels
    await take(broker, COMMANDS, 1)
    messages = [new_message(queue) for queue in QUEUES for _ in range(100)]
    delayed = [new_message(COMMANDS, due=now + timedelta(seconds=2.3))]
    publishing = [asyncio.ensure_future(broker.publish([m])) for m in messages[::2]]
    await plain.wire.exchange_delete(f"{site.prefix}{exchange}")
    publishing += [asyncio.ensure_future(broker.publish([m])) for m in [*messages[1::2], *delayed]]
    await soon(asyncio.gather(*publishing))
    for queue in QUEUES:
        mine = [message for message in [*messages, *delayed] if message.queue == queue]
        assert set(await all_of(broker, queue, mine)) == set(mine)


async def test_what_is_put_aside_finds_its_way_when_that_is_gone(site: Site, plain: Plain) -> None:
    broker = await site.open(INBOX)
    await plain.wire.exchange_delete(f"{site.prefix}.dead")
    await broker.publish([new_message(INBOX)])
    consumer = broker.consume(INBOX, limit=1)
    [delivery] = await receive(consumer, 1)
    await soon(broker.dead_letter(delivery, reason="r", detail="d"))
    assert [letter.message for letter in await broker.dead_letters()] == [delivery.message]
    await consumer.close()


async def test_who_never_declared_a_queue_that_is_gone_is_told_so(site: Site, plain: Plain) -> None:
    await site.open(COMMANDS)
    client = await site.open_undeclared()
    await client.publish([new_message(COMMANDS)])
    await plain.delete(COMMANDS)
    with pytest.raises(UsageError, match=r"never declared.*`amends broker setup"):
        await soon(client.publish([new_message(COMMANDS)]))


async def test_who_never_declared_publishes_again_when_others_have(
    site: Site, plain: Plain
) -> None:
    engine = await site.open(COMMANDS)
    client = await site.open_undeclared()
    await client.publish([new_message(COMMANDS)])
    await plain.delete(COMMANDS)
    publishing = asyncio.ensure_future(client.publish([message := new_message(COMMANDS)]))
    await engine.declare([COMMANDS])
    await soon(publishing)
    [delivery] = await take(engine, COMMANDS, 1)
    assert delivery.message == message


async def test_who_may_not_write_is_told_that(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    """Not only that it took too long."""
    await harsh.open(COMMANDS)
    auth = "rabbit_auth_backend_internal"
    private_rabbitmq.eval(f'{auth}:add_user(<<"reader">>, <<"r34d">>, <<"test">>)')
    private_rabbitmq.eval(
        f'{auth}:set_permissions(<<"reader">>, <<"/">>, <<"^$">>, <<"^$">>, <<".*">>, <<"test">>)'
    )
    split = urlsplit(harsh.url)
    url = f"amqp://reader:r34d@{split.hostname}:{split.port}/"
    reader = await harsh.open_undeclared(url=url, publish_timeout_s=0.5)
    with pytest.raises(BrokerUnavailable, match=r"refused.* for user 'reader'.* is safe") as told:
        await reader.publish([new_message(COMMANDS)])
    assert "r34d" not in str(told.value)
    private_rabbitmq.eval(f'{auth}:delete_user(<<"reader">>, <<"test">>)')


# --- losses


async def test_what_was_under_way_when_the_connection_was_lost_is_published_again(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(*QUEUES)
    messages = [new_message(queue) for queue in QUEUES for _ in range(400)]
    publishing = [
        asyncio.ensure_future(broker.publish(messages[first : first + 10]))
        for first in range(0, len(messages), 10)
    ]
    await asyncio.sleep(0.01)
    for _ in range(3):
        await asyncio.to_thread(private_rabbitmq.close_all_connections)
    await soon(asyncio.gather(*publishing))
    for queue in QUEUES:
        mine = [message for message in messages if message.queue == queue]
        came = Counter(message.id for message in await all_of(broker, queue, mine))
        assert came.keys() == {message.id for message in mine}
        assert max(came.values()) <= 4
    [own] = [broker._report("here")]
    assert own.reconnects >= 1


async def test_a_server_that_does_not_answer_is_given_so_long(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(COMMANDS, publish_timeout_s=0.5)
    message = new_message(COMMANDS)
    private_rabbitmq.pause()
    with pytest.raises(BrokerUnavailable, match=r"within 0\.5 s.*under its id is safe"):
        await broker.publish([message])
    private_rabbitmq.resume()
    await broker.publish([message])
    came = await all_of(broker, COMMANDS, [message])
    assert {each.id for each in came} == {message.id}


async def test_a_server_that_is_away_is_named(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(COMMANDS, publish_timeout_s=1)
    await asyncio.to_thread(private_rabbitmq.kill)
    with pytest.raises(BrokerUnavailable, match=r"within 1 s: .*Errno 111"):
        await broker.publish([new_message(COMMANDS)])


async def test_an_alarm_blocks_and_loses_nothing(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ, logs: list[Any]
) -> None:
    """Whoever publishes is told why it is not confirmed; what was consumed goes on."""
    broker = await harsh.open(COMMANDS, INBOX, publish_timeout_s=0.5)
    consumer = broker.consume(COMMANDS, limit=100)
    receiving: asyncio.Future[list[Delivery]] = asyncio.ensure_future(consumer.receive())
    await broker.publish([new_message(COMMANDS)])
    [before] = await soon(receiving)
    await asyncio.to_thread(private_rabbitmq.set_memory_alarm)
    messages = [with_body(new_message(INBOX), 10_000) for _ in range(150)]
    outcomes = await asyncio.gather(
        *(broker.publish([message]) for message in messages), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}
    assert "because of a memory or disk alarm" in str(outcomes[-1])
    await broker.ack([before])
    await eventually(lambda: "broker_blocks" in [line["event"] for line in logs])
    [process] = await broker.processes()
    assert process.blocked_since is not None
    asking = await (await harsh.open_undeclared(publish_timeout_s=0.5)).processes()
    assert [told.blocked_since is not None for told in asking] == [True]
    publishing = [asyncio.ensure_future(broker.publish([message])) for message in messages]
    await asyncio.to_thread(private_rabbitmq.clear_memory_alarm)
    await asyncio.gather(*publishing, return_exceptions=True)
    for message in messages:
        await broker.publish([message])
    came = Counter(message.id for message in await all_of(broker, INBOX, messages))
    assert came.keys() == {message.id for message in messages}
    await eventually(lambda: "broker_blocks_no_more" in [line["event"] for line in logs])
    [process] = await broker.processes()
    assert process.blocked_since is None
    await consumer.close()

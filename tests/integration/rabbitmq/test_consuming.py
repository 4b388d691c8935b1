"""What a consumer has in hand is bounded, and whatever happens to it, nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from amends.broker.port import Delivery, Message
from amends.broker.rabbitmq import RabbitBroker, delays
from amends.broker.rabbitmq import consumer as consuming
from amends.broker.rabbitmq.consumer import INBOX_PREFETCH_MAX, RabbitConsumer
from amends.broker.rabbitmq.wire import post
from amends.broker.subscription import Subscription
from amends.domain.clock import SystemClock
from amends.errors import BrokerUnavailable
from amends.testing.contracts.data import new_message, new_messages, soon
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Plain, Site, eventually, receive, take

COMMANDS = "commands.ledger"
INBOX = "inbox.0"


def rabbit(broker: RabbitBroker, queue: str, limit: int) -> RabbitConsumer:
    consumer = broker.consume(queue, limit=limit)
    assert isinstance(consumer, RabbitConsumer)
    return consumer


# --- bounds


async def test_the_server_sends_ahead_no_more_commands_than_may_be_in_hand(
    site: Site, plain: Plain
) -> None:
    broker = await site.open(COMMANDS)
    await broker.publish(new_messages(COMMANDS, 50))
    consumer = broker.consume(COMMANDS, limit=5)
    deliveries = await receive(consumer, 5)
    assert await plain.count(COMMANDS) == 45
    await broker.ack(deliveries[:2])
    await receive(consumer, 2)
    assert await plain.count(COMMANDS) == 43


async def test_of_an_inbox_so_many_parcels_are_sent_ahead_and_no_more(
    site: Site, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "INBOX_PREFETCH_MAX", 3)
    broker = await site.open(INBOX)
    for _ in range(10):
        await broker.publish(new_messages(INBOX, 2))
    assert await plain.count(INBOX) == 10
    consumer = rabbit(broker, INBOX, 4)
    deliveries = await receive(consumer, 4)
    await eventually(lambda: consumer.held == 6)
    assert await plain.count(INBOX) == 7
    await broker.ack(deliveries)
    assert len(await receive(consumer, 4)) == 4
    assert INBOX_PREFETCH_MAX == 200


# --- acknowledging


async def test_a_parcel_that_is_partly_done_comes_whole_again(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(INBOX)
    messages = new_messages(INBOX, 4)
    await broker.publish(messages)
    consumer = broker.consume(INBOX, limit=10)
    deliveries = await receive(consumer, 4)
    await broker.ack([deliveries[0], deliveries[2]])
    await broker.ack([deliveries[2]])
    await asyncio.to_thread(private_rabbitmq.close_all_connections)
    with pytest.raises(BrokerUnavailable, match="comes again"):
        await soon(consumer.receive())
    await broker.ack(deliveries)  # of a channel that is gone: no error, and no other's message
    await consumer.close()
    again = await take(broker, INBOX, 4)
    assert [(delivery.message, delivery.count) for delivery in again] == [(m, 2) for m in messages]
    await consumer_sees_nothing(broker, INBOX)


async def test_what_is_released_is_counted_alone_in_a_parcel_too(site: Site) -> None:
    broker = await site.open(INBOX)
    messages = new_messages(INBOX, 3)
    await broker.publish(messages)
    consumer = broker.consume(INBOX, limit=10)
    deliveries = await receive(consumer, 3)
    for count in (2, 3):
        await broker.release([next(d for d in deliveries if d.message == messages[1])])
        [again] = await receive(consumer, 1)
        assert (again.message, again.count) == (messages[1], count)
        deliveries = [deliveries[0], again, deliveries[2]]
    await broker.ack(deliveries)
    await consumer.close()
    await consumer_sees_nothing(broker, INBOX)


async def test_settled_in_any_order_by_many_at_once(site: Site) -> None:
    """No delivery tag is settled twice, which would cost the channel, and none of another's."""
    broker = await site.open(COMMANDS)
    messages = new_messages(COMMANDS, 600)
    await broker.publish(messages)
    consumer = rabbit(broker, COMMANDS, 60)
    random = Random(4)
    done: Counter[UUID] = Counter()
    seen: dict[UUID, int] = {}
    working: set[asyncio.Task[None]] = set()

    async def work(delivery: Delivery) -> None:
        id = delivery.message.id
        assert delivery.count == seen.get(id, 0) + 1
        seen[id] = delivery.count
        for _ in range(random.randrange(40)):
            await asyncio.sleep(0)
        if random.random() < 0.3:
            await broker.release([delivery])
        else:
            done[id] += 1
            await broker.ack([delivery])
            await broker.ack([delivery])

    while len(done) < len(messages):
        for delivery in await soon(consumer.receive()):
            working.add(asyncio.create_task(work(delivery)))
        finished = {task for task in working if task.done()}
        working -= finished
        for task in finished:
            task.result()
        if len(done) + len(working) >= len(messages):
            await asyncio.gather(*working)
            if len(done) == len(messages):
                break
    assert not consumer.is_lost
    assert set(done.values()) == {1}
    await consumer.close()
    await consumer_sees_nothing(broker, COMMANDS)


# --- ends


async def test_stopping_hands_back_whole_what_was_not_received(site: Site, plain: Plain) -> None:
    """Parcels too; what was received may be finished, however long that takes."""
    broker = await site.open(INBOX)
    messages = [new_messages(INBOX, 3) for _ in range(4)]
    for parcel in messages:
        await broker.publish(parcel)
    consumer = rabbit(broker, INBOX, 4)
    deliveries = await receive(consumer, 4)
    await eventually(lambda: consumer.held == 12)
    await consumer.stop()
    # Of the second parcel, one was received: the other two were published again.
    assert await eventually(lambda: _counts(plain, INBOX, 4))
    await broker.ack(deliveries)
    await consumer.close()
    again = await take(broker, INBOX, 8)
    assert {d.message for d in again} == {m for p in messages for m in p} - {
        d.message for d in deliveries
    }
    assert {delivery.count for delivery in again} == {2}
    await consumer_sees_nothing(broker, INBOX)


async def _counts(plain: Plain, queue: str, count: int) -> bool:
    return await plain.count(queue) == count


@pytest.mark.parametrize("end", ["stop", "close", "cancel"])
@pytest.mark.parametrize("limit", [1, 7])
async def test_an_end_while_messages_come_loses_none(site: Site, end: str, limit: int) -> None:
    """At every moment: before, while and after the subscription is made."""
    broker = await site.open(COMMANDS, INBOX)
    for queue in (COMMANDS, INBOX):
        messages = new_messages(queue, 40)
        await broker.publish(messages)
        got: Counter[UUID] = Counter()
        for steps in [*range(0, 30, 3), 60, 120, 240]:
            consumer = broker.consume(queue, limit=limit)
            receiving = asyncio.ensure_future(consumer.receive())
            for _ in range(steps):
                await asyncio.sleep(0)
            if end == "cancel":
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
            else:
                await (consumer.stop() if end == "stop" else consumer.close())
                for delivery in await soon(receiving):
                    got[delivery.message.id] += 1
                    await broker.ack([delivery])
            await soon(consumer.close())
        left = 40 - (len(got) if end == "stop" else 0)
        rest = await take(broker, queue, left)
        assert {d.message.id for d in rest} | set(got) == {m.id for m in messages}


async def test_a_consumer_ends_at_once_while_the_server_is_away(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(COMMANDS)
    await asyncio.to_thread(private_rabbitmq.kill)
    consumers = [broker.consume(COMMANDS, limit=1) for _ in range(10)]
    receiving = [asyncio.ensure_future(consumer.receive()) for consumer in consumers]
    with pytest.raises(BrokerUnavailable):
        await soon(broker.depths())  # though nobody could join
    began = asyncio.get_running_loop().time()
    await soon(asyncio.gather(*(consumer.stop() for consumer in consumers)))
    await soon(broker.close())
    assert asyncio.get_running_loop().time() - began < 3
    for outcome in await asyncio.gather(*receiving, return_exceptions=True):
        assert outcome == [] or isinstance(outcome, BrokerUnavailable)


# --- losses


async def test_a_connection_that_is_closed_by_force_is_made_again(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(COMMANDS)
    messages = new_messages(COMMANDS, 30)
    await broker.publish(messages)
    subscription = Subscription(lambda: broker.consume(COMMANDS, limit=4), clock=SystemClock())
    done: set[UUID] = set()
    rounds = 0
    while len(done) < 30:
        deliveries = await soon(subscription.receive())
        rounds += 1
        if rounds in (2, 4):
            await asyncio.to_thread(private_rabbitmq.close_all_connections)
        await broker.ack(deliveries)
        done |= {delivery.message.id for delivery in deliveries}
    await subscription.close()
    assert done == {message.id for message in messages}
    [process] = await broker.processes()
    assert process.reconnects >= 2


class Busy:
    """Processes that consume one queue; what they have `received`, and acknowledged."""

    def __init__(self, *brokers: RabbitBroker) -> None:
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self._running = [asyncio.create_task(self._run(broker)) for broker in brokers]

    async def _run(self, broker: RabbitBroker) -> None:
        clock = SystemClock()
        subscription = Subscription(lambda: broker.consume(COMMANDS, limit=1), clock=clock)
        try:
            while deliveries := await subscription.receive():
                await broker.ack(deliveries)
                for delivery in deliveries:
                    self.received.put_nowait(delivery.message)
        finally:
            await subscription.close()

    async def until_received(self, messages: Sequence[Message]) -> None:
        """All of these, and of nothing else but copies."""
        left = {message.id for message in messages}
        while left:
            left.discard((await soon(self.received.get())).id)

    async def __aenter__(self) -> Busy:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def test_a_queue_that_is_deleted_under_its_consumers_is_there_again(
    site: Site, plain: Plain
) -> None:
    """RabbitMQ 3.10 takes consumers of the old queue for ones of the new, if that comes at once."""
    broker, other = await site.open(COMMANDS), await site.open(COMMANDS)
    async with Busy(broker, other) as busy:
        for number in range(4):
            before = new_message(COMMANDS, f"before/{number}")
            await broker.publish([before])
            await busy.until_received([before])
            await plain.delete(COMMANDS)
            messages = new_messages(COMMANDS, 4)
            await broker.publish(messages)
            await busy.until_received(messages)


@pytest.mark.parametrize("who", ["one of them", "somebody else"])
async def test_a_queue_that_is_made_anew_too_early_is_subscribed_to_again(
    site: Site, plain: Plain, who: str
) -> None:
    """It was missing for whoever made it, who could not know that it was deleted just before."""
    broker, other = await site.open(COMMANDS), await site.open(COMMANDS)
    async with Busy(broker) as busy:
        await broker.publish([before := new_message(COMMANDS)])
        await busy.until_received([before])
        await plain.delete(COMMANDS)
        maker = broker if who == "one of them" else other
        await maker._declarations.restore([COMMANDS], [COMMANDS])
        messages = new_messages(COMMANDS, 4)
        await broker.publish(messages)
        await busy.until_received(messages)


# --- what is not due


async def test_what_is_due_later_than_the_delays_reach_is_parked_again(
    site: Site, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here they reach for one second only; its deliveries meanwhile do not count."""
    monkeypatch.setattr(delays, "DELAY_MAX", timedelta(seconds=1))
    broker = await site.open(COMMANDS)
    clock = SystemClock()
    early = new_message(COMMANDS, due=clock.now() + timedelta(seconds=4))
    await broker.publish([early])
    consumer = rabbit(broker, COMMANDS, 1)
    receiving = asyncio.ensure_future(consumer.receive())
    [delivery] = await soon(receiving)
    late_s = (clock.now() - early.due).total_seconds() if early.due else 0
    assert -delays.EARLY_MAX.total_seconds() <= late_s < 1
    assert (delivery.message, delivery.count) == (early, 1)
    assert broker._counters.delivered >= 2
    await broker.ack([delivery])
    await consumer.close()
    await consumer_sees_nothing(broker, COMMANDS)


async def test_who_parks_a_message_again_makes_the_levels_if_need_be(
    site: Site, plain: Plain
) -> None:
    broker = await site.open(COMMANDS)
    early = new_message(COMMANDS, due=SystemClock().now() + timedelta(hours=1))
    mail = post(early, at=SystemClock().now())
    await plain.wire.basic_publish(
        mail.body, routing_key=f"{site.prefix}.{COMMANDS}", properties=mail.properties
    )
    consumer = rabbit(broker, COMMANDS, 1)
    receiving = asyncio.ensure_future(consumer.receive())
    await eventually(lambda: broker._declarations.has_delays)
    await eventually(lambda: _counts(plain, "delay.14", 1))
    await eventually(lambda: not consumer._letters)
    await consumer.close()
    assert await soon(receiving) == []


async def consumer_sees_nothing(broker: RabbitBroker, queue: str) -> None:
    """Whatever is left in a queue comes before what is published now."""
    last = new_message(queue, "the last one")
    await broker.publish([last])
    [delivery] = await take(broker, queue, 1)
    assert delivery.message == last


async def test_whoever_is_cancelled_costs_nobody_the_connection(site: Site) -> None:
    """The client library does not bear that a request is cut short."""
    broker = await site.open(COMMANDS, INBOX)
    consumer = rabbit(broker, COMMANDS, 1)
    receiving = asyncio.ensure_future(consumer.receive())
    await eventually(lambda: consumer._tag)
    random = Random(1)
    for _ in range(40):
        asking: list[Coroutine[Any, Any, Any]] = [
            broker.declare([INBOX]), broker.depths(), broker.dead_letters(),
        ]  # fmt: skip
        tasks = [asyncio.ensure_future(each) for each in asking]
        for _ in range(random.randrange(40)):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [depth.queue for depth in await broker.depths()] == [COMMANDS, INBOX]
    assert not receiving.done()
    message = new_message(COMMANDS)
    await broker.publish([message])
    [delivery] = await soon(receiving)
    assert delivery.message == message

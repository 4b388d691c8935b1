"""The broker contract: publishing, receiving, acknowledging, handing back."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from amends.broker.port import Broker, Consumer, Delivery
from amends.errors import UsageError
from amends.testing.contracts.broker_base import (
    OTHER_QUEUE,
    BrokerContractBase,
    consuming,
    drain,
    messages_of,
    receive,
    settle,
)
from amends.testing.contracts.data import new_message, new_messages, soon


class DeliveryContract(BrokerContractBase):
    """At least once, in order, to whoever consumes."""

    async def test_a_message_arrives_as_it_was_published(self, broker: Broker, queue: str) -> None:
        full = new_message(queue, "převod/№ 🦊 'q\"")._replace(
            body='{"text":"žluť\\u0000 🦊"}'.encode(), trace_parent="00-abc-def-01"
        )
        large = new_message(queue)._replace(body=b'"%s"' % (b"x" * 1_000_000))
        await broker.publish([full, large])
        async with consuming(broker, queue) as consumer:
            first, second = await receive(consumer, 2)
        assert isinstance(first, Delivery)
        assert first.message == full
        assert first.count == 1
        # Not compared as a whole: the explanation of a difference would take minutes.
        assert bool(second.message == large)

    async def test_messages_come_in_the_order_of_publishing(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 60)
        await broker.publish(messages[:20])
        async with consuming(broker, queue, limit=7) as consumer:
            received: list[Delivery] = []
            for message in messages[20:]:
                await broker.publish([message])
            while len(received) < 60:
                portion = await soon(consumer.receive())
                received += portion
                await broker.ack(portion)
        assert messages_of(received) == messages

    async def test_publishing_wakes_a_consumer(self, broker: Broker, queue: str) -> None:
        async with consuming(broker, queue) as consumer:
            for message in new_messages(queue, 3):
                waiting = asyncio.ensure_future(receive(consumer, 1))
                await settle(broker)
                assert not waiting.done()
                await broker.publish([message])
                assert messages_of(await waiting) == [message]

    async def test_queues_are_apart(self, broker: Broker, queue: str, other_queue: str) -> None:
        here, there = new_messages(queue, 2), new_messages(other_queue, 2)
        await broker.publish([here[0], there[0], here[1], there[1]])
        assert messages_of(await drain(broker, queue)) == here
        assert messages_of(await drain(broker, other_queue)) == there

    async def test_publishing_nothing_is_nothing(self, broker: Broker, queue: str) -> None:
        await broker.publish([])
        assert await drain(broker, queue) == []

    async def test_a_queue_must_be_declared(self, broker: Broker, queue: str) -> None:
        with pytest.raises(UsageError):
            await broker.publish([new_message(queue), new_message("nowhere")])
        assert await drain(broker, queue) == []
        with pytest.raises(UsageError):
            await soon(broker.consume("nowhere", limit=1).receive())

    async def test_declaring_again_changes_nothing(self, broker: Broker, queue: str) -> None:
        messages = new_messages(queue, 2)
        await broker.publish(messages)
        await broker.declare([queue, OTHER_QUEUE])
        await broker.declare([])
        assert messages_of(await drain(broker, queue)) == messages

    async def test_what_is_acknowledged_is_gone_and_the_rest_comes_again(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 6)
        await broker.publish(messages)
        async with consuming(broker, queue) as consumer:
            received = await receive(consumer, 6)
            await broker.ack([received[0], received[3]])
            await broker.ack([])
        async with consuming(broker, queue) as consumer:
            again = await receive(consumer, 4)
            assert {delivery.message.id for delivery in again} == {
                messages[n].id for n in (1, 2, 4, 5)
            }
            assert {delivery.count for delivery in again} == {2}

    async def test_acknowledging_twice_is_harmless(self, broker: Broker, queue: str) -> None:
        messages = new_messages(queue, 3)
        await broker.publish(messages)
        async with consuming(broker, queue) as consumer:
            first, second, third = await receive(consumer, 3)
            await broker.ack([first, first])
            await broker.ack([first, second])
        # Handed back with the consumer's end, so this one may be done with or come again.
        await broker.ack([third])
        left = {delivery.message.id for delivery in await drain(broker, queue)}
        assert left <= {third.message.id}

    async def test_what_is_released_comes_again_and_is_counted(
        self, broker: Broker, queue: str
    ) -> None:
        await broker.publish(new_messages(queue, 2))
        async with consuming(broker, queue) as consumer, consuming(broker, queue) as other:
            held, released = await receive(consumer, 2)
            await consumer.stop()
            for count in (2, 3, 4):
                await broker.release([released])
                (again,) = await receive(other, 1)
                assert again.message == released.message
                assert again.count == count
                released = again
            await broker.ack([held, released])
        assert await drain(broker, queue) == []

    async def test_a_message_published_twice_comes_at_least_once(
        self, broker: Broker, queue: str
    ) -> None:
        twice, once = new_messages(queue, 2)
        await broker.publish([twice, once, twice])
        await broker.publish([twice])
        received = messages_of(await drain(broker, queue))
        assert set(received) == {twice, once}
        assert received[0] == twice
        assert received.count(once) == 1

    async def test_a_message_published_again_after_its_end_comes_again(
        self, broker: Broker, queue: str
    ) -> None:
        # The way in which a lost command is driven again from the journal.
        message = new_message(queue)
        for _ in range(2):
            await broker.publish([message])
            assert messages_of(await drain(broker, queue)) == [message]

    async def test_a_copy_of_what_is_in_hand_takes_nothing_away(
        self, broker: Broker, queue: str
    ) -> None:
        message = new_message(queue)
        await broker.publish([message])
        async with consuming(broker, queue) as consumer:
            await receive(consumer, 1)
            await broker.publish([message])
        assert set(messages_of(await drain(broker, queue))) == {message}

    async def test_one_id_in_two_queues_is_two_messages(
        self, broker: Broker, queue: str, other_queue: str
    ) -> None:
        here = new_message(queue)
        there = here._replace(queue=other_queue)
        await broker.publish([here, there])
        assert messages_of(await drain(broker, queue)) == [here]
        assert messages_of(await drain(broker, other_queue)) == [there]


class ConsumerContract(BrokerContractBase):
    """Limits, competition, and the three ways in which a consumer ends."""

    async def test_the_limit_bounds_what_is_in_hand(self, broker: Broker, queue: str) -> None:
        messages = new_messages(queue, 10)
        await broker.publish(messages)
        async with consuming(broker, queue, limit=3) as consumer:
            held = await receive(consumer, 3)
            waiting = asyncio.ensure_future(consumer.receive())
            await settle(broker)
            assert not waiting.done()
            await broker.ack(held[:1])
            assert messages_of(await soon(waiting)) == messages[3:4]
            waiting = asyncio.ensure_future(consumer.receive())
            await settle(broker)
            assert not waiting.done()
            await broker.release(held[1:2])
            assert len(await soon(waiting)) == 1

    async def test_a_backlog_passes_through_a_small_window(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 3000)
        for start in range(0, 3000, 500):
            await broker.publish(messages[start : start + 500])
        received: list[Delivery] = []
        async with consuming(broker, queue, limit=10) as consumer:
            while len(received) < 3000:
                portion = await soon(consumer.receive())
                assert 1 <= len(portion) <= 10
                received += portion
                await broker.ack(portion)
        assert messages_of(received) == messages

    async def test_consumers_share_a_queue_without_doubles(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 300)

        done: list[Delivery] = []
        is_done = asyncio.Event()

        async def work(consumer: Consumer) -> None:
            while portion := await consumer.receive():
                await asyncio.sleep(0)
                await broker.ack(portion)
                done.extend(portion)
                if len(done) >= len(messages):
                    is_done.set()

        consumers = [broker.consume(queue, limit=limit) for limit in (1, 5, 10, 20)]
        workers = [asyncio.ensure_future(work(consumer)) for consumer in consumers]
        for start in range(0, 300, 30):
            await broker.publish(messages[start : start + 30])
            await asyncio.sleep(0)
        await soon(is_done.wait())
        for consumer in consumers:
            await consumer.stop()
        await soon(asyncio.gather(*workers))
        assert await drain(broker, queue) == []
        assert Counter(messages_of(done)) == Counter(messages)
        for consumer in consumers:
            await consumer.close()

    async def test_a_full_consumer_leaves_the_rest_to_others(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 8)
        await broker.publish(messages)
        async with consuming(broker, queue, limit=5) as full, consuming(broker, queue) as other:
            await receive(full, 5)
            assert messages_of(await receive(other, 3)) == messages[5:]

    async def test_a_limit_below_one_is_refused(self, broker: Broker, queue: str) -> None:
        with pytest.raises(UsageError):
            await soon(broker.consume(queue, limit=0).receive())

    async def test_a_stopped_consumer_keeps_what_it_has_and_takes_no_more(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 4)
        await broker.publish(messages[:2])
        async with consuming(broker, queue) as stopped, consuming(broker, queue) as other:
            acknowledged, kept = await receive(stopped, 2)
            await stopped.stop()
            await stopped.stop()
            await broker.publish(messages[2:])
            assert await soon(stopped.receive()) == []
            assert messages_of(await receive(other, 2)) == messages[2:]
            await broker.ack([acknowledged])
            waiting = asyncio.ensure_future(other.receive())
            await settle(broker)
            assert not waiting.done()
            await stopped.close()
            (again,) = await soon(waiting)
            assert again.message == kept.message
            assert again.count == 2

    @pytest.mark.parametrize("end", ["stop", "close"])
    async def test_the_end_of_a_consumer_ends_its_wait(
        self, broker: Broker, queue: str, end: str
    ) -> None:
        consumer = broker.consume(queue, limit=1)
        waiting = asyncio.ensure_future(consumer.receive())
        await settle(broker)
        await (consumer.stop() if end == "stop" else consumer.close())
        assert await soon(waiting) == []
        assert await soon(consumer.receive()) == []
        await consumer.close()
        await consumer.close()
        await consumer.stop()
        # And what comes afterwards was not given to the dead.
        message = new_message(queue)
        await broker.publish([message])
        assert messages_of(await drain(broker, queue)) == [message]

    async def test_a_closed_consumer_hands_over_to_one_that_waits(
        self, broker: Broker, queue: str
    ) -> None:
        messages = new_messages(queue, 3)
        await broker.publish(messages)
        async with consuming(broker, queue) as heir:
            async with consuming(broker, queue) as closed:
                await receive(closed, 3)
                waiting = asyncio.ensure_future(receive(heir, 3))
                await settle(broker)
                assert not waiting.done()
            inherited = await soon(waiting)
            assert {delivery.message for delivery in inherited} == set(messages)
            assert {delivery.count for delivery in inherited} == {2}

    async def test_a_cancelled_wait_loses_nothing(self, broker: Broker, queue: str) -> None:
        messages = new_messages(queue, 30)
        for patience, message in enumerate(messages):
            async with consuming(broker, queue) as consumer:
                waiting = asyncio.ensure_future(consumer.receive())
                publishing = asyncio.ensure_future(broker.publish([message]))
                for _ in range(patience % 6):
                    await asyncio.sleep(0)
                waiting.cancel()
                await soon(asyncio.wait([waiting, publishing]))
        received = messages_of(await drain(broker, queue))
        assert set(received) == set(messages)

    @pytest.mark.parametrize("end", ["stop", "close"])
    async def test_an_end_at_any_moment_loses_nothing(
        self, broker: Broker, queue: str, end: str
    ) -> None:
        for pauses in range(12):
            message = new_message(queue)
            consumer = broker.consume(queue, limit=1)
            receiving = asyncio.ensure_future(consumer.receive())
            publishing = asyncio.ensure_future(broker.publish([message]))
            for _ in range(pauses):
                await asyncio.sleep(0)
            await (consumer.stop() if end == "stop" else consumer.close())
            received = messages_of(await soon(receiving))
            await soon(publishing)
            if end == "close":
                # Received or not, it is in nobody's hands now.
                received = []
            assert received + messages_of(await drain(broker, queue)) == [message]
            await consumer.close()
            await drain(broker, queue)

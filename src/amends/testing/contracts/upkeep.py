"""The broker contract: delays, dead letters, depths, closing and opening again."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from amends.broker.port import Broker, DeadLetter, Message, QueueDepth
from amends.errors import BrokerClosed, UsageError
from amends.testing.clock import EPOCH, ManualClock
from amends.testing.contracts.broker_base import (
    OTHER_QUEUE,
    QUEUE,
    BrokerContractBase,
    Reopen,
    after,
    consuming,
    depth_of,
    drain,
    messages_of,
    receive,
    settle,
)
from amends.testing.contracts.data import new_message, new_messages, soon

YEAR_S = 365 * 86400.0


class DelayContract(BrokerContractBase):
    """Messages that may not be delivered yet."""

    @pytest.mark.parametrize("due_s", [-YEAR_S, -1.0, 0.0])
    async def test_what_is_due_already_comes_at_once(
        self, broker: Broker, queue: str, clock: ManualClock, due_s: float
    ) -> None:
        messages = [new_message(queue), new_message(queue, due=after(clock, due_s))]
        await broker.publish(messages)
        assert messages_of(await drain(broker, queue)) == messages

    @pytest.mark.parametrize("due_s", [0.001, 1.0, 86400.0, 50 * YEAR_S])
    async def test_what_is_not_due_waits_until_it_is(
        self, broker: Broker, queue: str, clock: ManualClock, due_s: float
    ) -> None:
        self.needs_clock()
        message = new_message(queue, due=after(clock, due_s))
        await broker.publish([message])
        assert await drain(broker, queue) == []
        async with consuming(broker, queue) as consumer:
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await clock.advance(due_s * 0.9)
            await settle(broker)
            assert not waiting.done()
            await clock.advance(due_s * 0.1 + 0.001)
            (delivery,) = await waiting
            assert delivery.message == message
            assert delivery.count == 1

    async def test_what_became_due_while_nobody_waited_is_there(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        message = new_message(queue, due=after(clock, 60))
        await broker.publish([message])
        await clock.advance(61)
        async with consuming(broker, queue) as consumer:
            assert messages_of(await receive(consumer, 1)) == [message]

    async def test_an_earlier_due_time_wakes_earlier(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        late, early = (new_message(queue, due=after(clock, due_s)) for due_s in (100, 10))
        await broker.publish([late])
        async with consuming(broker, queue) as consumer:
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await settle(broker)
            await broker.publish([early])
            await settle(broker)
            await clock.advance(10)
            assert messages_of(await waiting) == [early]
            await clock.advance(90)
            assert messages_of(await receive(consumer, 1)) == [late]

    async def test_whoever_waits_for_a_delay_sees_what_comes_meanwhile(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        await broker.publish([new_message(queue, due=after(clock, YEAR_S))])
        for pauses in range(12):
            async with consuming(broker, queue) as consumer:
                waiting = asyncio.ensure_future(receive(consumer, 1))
                for _ in range(pauses):
                    await asyncio.sleep(0)
                message = new_message(queue)
                await broker.publish([message])
                received = await waiting
                assert messages_of(received) == [message]
                await broker.ack(received)

    async def test_due_messages_come_earliest_first(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        delays_s = (30, 10, 50, 20, 40)
        messages = {s: new_message(queue, due=after(clock, s)) for s in delays_s}
        await broker.publish(list(messages.values()))
        await clock.advance(60)
        async with consuming(broker, queue, limit=2) as consumer:
            received: list[Message] = []
            while len(received) < 5:
                portion = await soon(consumer.receive())
                received += messages_of(portion)
                await broker.ack(portion)
        assert received == [messages[s] for s in sorted(delays_s)]

    async def test_delays_of_one_queue_do_not_hold_up_another(
        self, broker: Broker, queue: str, other_queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        here, there = new_message(queue, due=after(clock, 5)), new_message(other_queue)
        await broker.publish([here, there])
        async with consuming(broker, queue) as ours, consuming(broker, other_queue) as theirs:
            waiting = asyncio.ensure_future(receive(ours, 1))
            assert messages_of(await receive(theirs, 1)) == [there]
            await clock.advance(5)
            assert messages_of(await waiting) == [here]

    async def test_a_delayed_copy_takes_nothing_away(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        message = new_message(queue, due=after(clock, 5))
        await broker.publish([message])
        await broker.publish([message, message])
        await clock.advance(5)
        async with consuming(broker, queue) as consumer:
            received = await soon(consumer.receive())
            await broker.ack(received)
        assert set(messages_of(received + await drain(broker, queue))) == {message}

    async def test_a_delayed_message_survives(
        self, broker: Broker, queue: str, clock: ManualClock, reopen: Reopen
    ) -> None:
        self.needs_clock()
        self.needs_reopen()
        message = new_message(queue, due=after(clock, 5))
        await broker.publish([message])
        again = await reopen()
        await again.declare([queue])
        async with consuming(again, queue) as consumer:
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await settle(again)
            assert not waiting.done()
            await clock.advance(5)
            assert messages_of(await waiting) == [message]


class DeadLetterContract(BrokerContractBase):
    """Messages that nobody could handle."""

    async def bury(self, broker: Broker, clock: ManualClock, messages: list[Message]) -> None:
        """Make dead letters of messages, a minute apart."""
        for n, message in enumerate(messages):
            await broker.publish([message])
            async with consuming(broker, message.queue) as consumer:
                (delivery,) = await receive(consumer, 1)
                await broker.dead_letter(delivery, reason=f"reason {n}", detail=f"detail\n{n}")
            await clock.advance(60)

    async def test_a_dead_letter_is_kept_with_its_reason_and_not_delivered(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        message = new_message(queue)
        await broker.publish([message])
        async with consuming(broker, queue) as consumer:
            (first,) = await receive(consumer, 1)
            await broker.release([first])
            (second,) = await receive(consumer, 1)
            await broker.dead_letter(second, reason="cannot be read", detail="Traceback …\n  x")
        assert await drain(broker, queue) == []
        (letter,) = await broker.dead_letters()
        assert isinstance(letter, DeadLetter)
        assert letter.message == message
        assert (letter.reason, letter.detail) == ("cannot be read", "Traceback …\n  x")
        assert letter.deliveries == 2
        assert letter.died_at == EPOCH or not self.features.sets_clock

    async def test_a_dead_letter_makes_room(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        messages = new_messages(queue, 2)
        await broker.publish(messages)
        async with consuming(broker, queue, limit=1) as consumer:
            (first,) = await receive(consumer, 1)
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await settle(broker)
            await broker.dead_letter(first, reason="r", detail="d")
            assert messages_of(await waiting) == messages[1:]

    async def test_dead_letters_are_listed_oldest_first(
        self, broker: Broker, queue: str, other_queue: str, clock: ManualClock
    ) -> None:
        messages = [new_message(name) for name in (queue, other_queue, queue, queue)]
        await self.bury(broker, clock, messages)
        letters = await broker.dead_letters()
        assert [letter.message for letter in letters] == messages
        assert [letter.reason for letter in letters] == [f"reason {n}" for n in range(4)]
        here = [messages[0], messages[2], messages[3]]
        assert [letter.message for letter in await broker.dead_letters(queue=queue)] == here
        few = await broker.dead_letters(queue=queue, limit=2)
        assert [letter.message for letter in few] == here[:2]
        assert len(await broker.dead_letters(limit=3)) == 3
        assert await broker.dead_letters(queue="nowhere") == []

    async def test_a_redriven_letter_is_delivered_again(
        self, broker: Broker, queue: str, other_queue: str, clock: ManualClock
    ) -> None:
        first, second, third = messages = [new_message(n) for n in (queue, other_queue, queue)]
        await self.bury(broker, clock, messages)
        unknown = new_message(queue)
        async with consuming(broker, queue) as consumer:
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await settle(broker)
            assert await broker.redrive([first.id, second.id, unknown.id]) == 2
            redriven = await waiting
            assert messages_of(redriven) == [first]
            await broker.ack(redriven)
        assert messages_of(await drain(broker, other_queue)) == [second]
        assert [letter.message for letter in await broker.dead_letters()] == [third]
        assert await broker.redrive([first.id, second.id]) == 0

    async def test_a_discarded_letter_is_gone(
        self, broker: Broker, queue: str, clock: ManualClock
    ) -> None:
        messages = new_messages(queue, 3)
        await self.bury(broker, clock, messages)
        assert await broker.discard([messages[0].id, messages[2].id]) == 2
        assert [letter.message for letter in await broker.dead_letters()] == messages[1:2]
        assert await broker.discard([messages[0].id]) == 0
        assert await broker.redrive([messages[0].id]) == 0
        assert await broker.discard([]) == await broker.redrive([]) == 0
        assert await drain(broker, queue) == []

    async def test_a_dead_letter_survives(
        self, broker: Broker, queue: str, clock: ManualClock, reopen: Reopen
    ) -> None:
        self.needs_reopen()
        messages = new_messages(queue, 2)
        await self.bury(broker, clock, messages)
        letters = await broker.dead_letters()
        again = await reopen()
        await again.declare([queue])
        assert await again.dead_letters() == letters
        assert await again.redrive([messages[0].id]) == 1
        assert messages_of(await drain(again, queue)) == messages[:1]


class DepthContract(BrokerContractBase):
    """How full the queues are."""

    async def test_empty_queues_are_listed_by_name(self, broker: Broker) -> None:
        await broker.declare(["b", "c", "a"])
        nothing = {"ready": 0, "delayed": 0, "dead": 0, "oldest": None}
        listed = [depth for depth in await broker.depths() if len(depth.queue) == 1]
        known = [depth._replace(consumers=None) for depth in listed]
        assert known == [QueueDepth(queue=name, **nothing) for name in "abc"]  # type: ignore[arg-type]

    async def test_a_message_is_counted_once_wherever_it_is(
        self, broker: Broker, queue: str, other_queue: str, clock: ManualClock
    ) -> None:
        self.needs_clock()
        await broker.publish([new_message(queue, due=after(clock, 30)), new_message(other_queue)])
        published = after(clock, 0)
        await broker.publish(new_messages(queue, 2))
        await clock.advance(10)
        await broker.publish(new_messages(queue, 2))
        assert await depth_of(broker, queue) == QueueDepth(queue, 4, 1, 0, published)
        async with consuming(broker, queue) as consumer:
            first, second, third, fourth = await receive(consumer, 4)
            assert await depth_of(broker, queue) == QueueDepth(queue, 4, 1, 0, published)
            await broker.ack([first])
            await broker.dead_letter(second, reason="r", detail="d")
            later = after(clock, 0)
            assert await depth_of(broker, queue) == QueueDepth(queue, 2, 1, 1, later)
            await broker.ack([third, fourth])
            assert await depth_of(broker, queue) == QueueDepth(queue, 0, 1, 1, None)
        await clock.advance(50)
        became_due = after(clock, -30)
        assert await depth_of(broker, queue) == QueueDepth(queue, 1, 0, 1, became_due)
        assert await depth_of(broker, other_queue) == QueueDepth(other_queue, 1, 0, 0, published)

    async def test_depths_make_no_queue(self, broker: Broker, queue: str) -> None:
        for _ in range(2):
            names = [depth.queue for depth in await broker.depths([queue, "nowhere"])]
            assert queue in names
            assert "nowhere" not in names
        with pytest.raises(UsageError):
            await broker.publish([new_message("nowhere")])


class BrokerLifecycleContract(BrokerContractBase):
    """What `close` ends, and what it leaves."""

    async def test_a_closed_broker_refuses_everything(self, broker: Broker, queue: str) -> None:
        messages = new_messages(queue, 2)
        await broker.publish(messages)
        consumer = broker.consume(queue, limit=1)
        (delivery,) = await receive(consumer, 1)
        await broker.close()
        await broker.close()
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: broker.declare([queue]),
            lambda: broker.publish(messages),
            lambda: broker.consume(queue, limit=1).receive(),
            lambda: broker.ack([delivery]),
            lambda: broker.reply(delivery, messages[1]),
            lambda: broker.release([delivery]),
            lambda: broker.dead_letter(delivery, reason="r", detail="d"),
            broker.dead_letters,
            lambda: broker.redrive([messages[0].id]),
            lambda: broker.discard([messages[0].id]),
            broker.depths,
        ]
        for refuse in refused:
            with pytest.raises(BrokerClosed):
                await soon(refuse())
        await consumer.stop()
        await consumer.close()

    async def test_closing_ends_the_wait_of_a_consumer(self, broker: Broker, queue: str) -> None:
        consumer = broker.consume(queue, limit=1)
        waiting = asyncio.ensure_future(consumer.receive())
        await settle(broker)
        await broker.close()
        # Stopped, or told why: the port leaves it open.
        outcome = (await soon(asyncio.gather(waiting, return_exceptions=True)))[0]
        assert outcome == [] or isinstance(outcome, BrokerClosed)

    async def test_messages_survive(
        self, broker: Broker, queue: str, other_queue: str, reopen: Reopen
    ) -> None:
        self.needs_reopen()
        messages = new_messages(queue, 4)
        await broker.publish(messages)
        received = await receive(broker.consume(queue, limit=2), 2)
        await broker.ack(received[:1])
        again = await reopen()
        await again.declare([QUEUE, OTHER_QUEUE])
        left = await drain(again, queue)
        assert messages_of(left) == messages[1:]
        # A lower bound: a crash may hide a delivery.
        assert all(delivery.count >= 1 for delivery in left)
        assert await drain(again, other_queue) == []

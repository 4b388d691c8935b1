"""The broker contract: replying."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import pytest

from amends.broker.port import Broker
from amends.errors import UsageError
from amends.testing.contracts.broker_base import (
    OTHER_QUEUE,
    QUEUE,
    BrokerContractBase,
    Reopen,
    consuming,
    drain,
    messages_of,
    receive,
)
from amends.testing.contracts.data import new_message


class ReplyContract(BrokerContractBase):
    """Acknowledging by publishing what it led to."""

    async def test_a_reply_is_published_and_its_cause_is_done(
        self, broker: Broker, queue: str, other_queue: str
    ) -> None:
        cause, effect = new_message(queue), new_message(other_queue)
        await broker.publish([cause])
        async with consuming(broker, queue) as consumer:
            (delivery,) = await receive(consumer, 1)
            await broker.reply(delivery, effect)
            async with consuming(broker, other_queue) as replies:
                received = await receive(replies, 1)
                assert messages_of(received) == [effect]
                await broker.ack(received)
        assert await drain(broker, other_queue) == []
        assert await drain(broker, queue) == []

    async def test_a_crash_after_a_reply_leaves_it_or_its_cause(
        self, broker: Broker, queue: str, other_queue: str, reopen: Reopen
    ) -> None:
        self.needs_reopen()
        cause, effect = new_message(queue), new_message(other_queue)
        await broker.publish([cause])
        (delivery,) = await receive(broker.consume(queue, limit=1), 1)
        await broker.reply(delivery, effect)
        again = await reopen()
        await again.declare([QUEUE, OTHER_QUEUE])
        left = messages_of(await drain(again, queue) + await drain(again, other_queue))
        assert left
        assert set(left) <= {cause, effect}

    async def test_a_crash_with_the_reply_in_hand_leaves_it_or_its_cause(
        self, broker: Broker, queue: str, other_queue: str, reopen: Reopen
    ) -> None:
        self.needs_reopen()
        cause, effect = new_message(queue), new_message(other_queue)
        await broker.publish([cause])
        (delivery,) = await receive(broker.consume(queue, limit=1), 1)
        await broker.reply(delivery, effect)
        await receive(broker.consume(other_queue, limit=1), 1)
        again = await reopen()
        await again.declare([QUEUE, OTHER_QUEUE])
        left = messages_of(await drain(again, queue) + await drain(again, other_queue))
        assert left
        assert set(left) <= {cause, effect}

    async def test_a_reply_that_cannot_be_published_acknowledges_nothing(
        self, broker: Broker, queue: str
    ) -> None:
        message = new_message(queue)
        await broker.publish([message])
        async with consuming(broker, queue) as consumer:
            (delivery,) = await receive(consumer, 1)
            with pytest.raises(UsageError):
                await broker.reply(delivery, new_message("nowhere"))
        assert messages_of(await drain(broker, queue)) == [message]

    async def test_a_second_reply_to_a_message_that_came_again(
        self, broker: Broker, queue: str, other_queue: str
    ) -> None:
        cause, effect = new_message(queue), new_message(other_queue)
        await broker.publish([cause])
        async with consuming(broker, queue) as consumer:
            (first,) = await receive(consumer, 1)
            await broker.release([first])
            (second,) = await receive(consumer, 1)
            await broker.reply(second, effect)
            await broker.reply(first, effect)
        assert set(messages_of(await drain(broker, other_queue))) == {effect}
        assert await drain(broker, queue) == []

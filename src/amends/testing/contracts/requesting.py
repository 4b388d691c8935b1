"""The broker contract: requests, whose sender waits for what becomes of them."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import pytest

from amends.broker.port import Broker, Message
from amends.errors import UsageError
from amends.testing.contracts.broker_base import (
    QUEUE,
    BrokerContractBase,
    Reopen,
    consuming,
    depth_of,
    drain,
    messages_of,
    receive,
)
from amends.testing.contracts.data import new_message, new_messages, soon


class RequestContract(BrokerContractBase):
    """Messages that need not survive a crash, and do not get lost otherwise."""

    async def test_a_request_is_delivered_and_done_when_it_is_acknowledged(
        self, broker: Broker, queue: str
    ) -> None:
        request = new_message(queue)
        async with consuming(broker, queue) as consumer:
            await broker.request(request)
            received = await receive(consumer, 1)
            assert messages_of(received) == [request]
            assert [delivery.count for delivery in received] == [1]
            await broker.ack(received)
        assert await drain(broker, queue) == []

    async def test_a_request_that_nobody_takes_yet_waits(self, broker: Broker, queue: str) -> None:
        request = new_message(queue)
        await broker.request(request)
        assert (await depth_of(broker, queue)).ready == 1
        assert messages_of(await drain(broker, queue)) == [request]

    async def test_requests_beyond_what_a_consumer_may_hold_wait_for_room(
        self, broker: Broker, queue: str
    ) -> None:
        requests = new_messages(queue, 5)
        async with consuming(broker, queue, limit=2) as consumer:
            for request in requests:
                await broker.request(request)
            seen: list[Message] = []
            while len(seen) < len(requests):
                received = await soon(consumer.receive())
                seen += messages_of(received)
                await broker.ack(received)
        assert seen == requests

    async def test_a_request_in_hand_at_a_clean_end_comes_again(
        self, broker: Broker, queue: str, reopen: Reopen
    ) -> None:
        self.needs_reopen()
        taken, waiting = new_message(queue), new_message(queue)
        consumer = broker.consume(queue, limit=1)
        await broker.request(taken)
        await receive(consumer, 1)
        await broker.request(waiting)
        await consumer.close()
        await broker.close()
        again = await reopen()
        await again.declare([QUEUE])
        left = await drain(again, queue)
        assert set(messages_of(left)) == {taken, waiting}
        counts = {delivery.message: delivery.count for delivery in left}
        assert counts == {taken: 2, waiting: 1}

    async def test_a_request_can_be_put_aside_and_redriven(
        self, broker: Broker, queue: str
    ) -> None:
        request = new_message(queue)
        async with consuming(broker, queue) as consumer:
            await broker.request(request)
            (delivery,) = await receive(consumer, 1)
            await broker.dead_letter(delivery, reason="no", detail="because")
            (dead,) = await broker.dead_letters()
            assert dead.message == request
            assert await broker.redrive([request.id]) == 1
            received = await receive(consumer, 1)
            assert messages_of(received) == [request]
            await broker.ack(received)
        assert await drain(broker, queue) == []

    async def test_a_released_request_is_delivered_again(self, broker: Broker, queue: str) -> None:
        request = new_message(queue)
        async with consuming(broker, queue) as consumer:
            await broker.request(request)
            await broker.release(await receive(consumer, 1))
            (again,) = await receive(consumer, 1)
            assert (again.message, again.count) == (request, 2)
            await broker.ack([again])
        assert await drain(broker, queue) == []

    async def test_a_request_to_an_undeclared_queue_is_refused(self, broker: Broker) -> None:
        with pytest.raises(UsageError, match="never declared"):
            await broker.request(new_message("nowhere"))

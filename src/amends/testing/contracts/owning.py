"""The broker contract: owning a share of several queues."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio

import pytest

from amends.broker.port import Broker, Delivery, Message
from amends.errors import UsageError
from amends.testing.contracts.broker_base import BrokerContractBase, drain, messages_of, receive
from amends.testing.contracts.data import new_message, new_messages, soon


class OwnershipContract(BrokerContractBase):
    """Several queues as one consumer, of whom there may be several."""

    @pytest.fixture
    async def inboxes(self, broker: Broker) -> list[str]:
        """Two inboxes, empty."""
        names = ["inbox.0", "inbox.1"]
        await broker.declare(names)
        return names

    async def test_an_owner_alone_is_served_from_all_queues(
        self, broker: Broker, inboxes: list[str]
    ) -> None:
        before = [new_message(queue) for queue in inboxes]
        after = [new_message(queue) for queue in inboxes]
        await broker.publish(before)
        owner = broker.own(inboxes, limit=10)
        first = await receive(owner, 2)
        await broker.publish(after)
        second = await receive(owner, 2)
        assert set(messages_of(first)) == set(before)
        assert set(messages_of(second)) == set(after)
        await broker.ack(first + second)
        await owner.close()
        assert [await drain(broker, queue) for queue in inboxes] == [[], []]

    async def test_the_order_of_each_queue_is_kept(
        self, broker: Broker, inboxes: list[str]
    ) -> None:
        messages = {queue: new_messages(queue, 20) for queue in inboxes}
        owner = broker.own(inboxes, limit=7)
        for pair in zip(*messages.values(), strict=True):
            await broker.publish(pair)
        seen: list[Message] = []
        while len(seen) < 40:
            portion = await soon(owner.receive())
            seen += messages_of(portion)
            await broker.ack(portion)
        for queue in inboxes:
            assert [message for message in seen if message.queue == queue] == messages[queue]
        await owner.close()

    async def test_what_an_owner_leaves_another_takes(
        self, broker: Broker, inboxes: list[str]
    ) -> None:
        messages = [new_message(queue) for queue in inboxes for _ in range(10)]
        one, other = (broker.own(inboxes, limit=100) for _ in range(2))
        taken: list[Delivery] = []

        async def take(owner: object) -> None:
            while portion := await owner.receive():  # type: ignore[attr-defined]
                taken.extend(portion)

        taking = asyncio.ensure_future(take(one))
        await broker.publish(messages)
        await asyncio.sleep(0)
        await one.close()
        await soon(taking)
        left: set[Message] = set()
        while left != set(messages):
            left |= set(messages_of(await soon(other.receive())))
        await other.close()

    async def test_the_end_of_an_owner_ends_its_wait(
        self, broker: Broker, inboxes: list[str]
    ) -> None:
        owner = broker.own(inboxes, limit=1)
        waiting = asyncio.ensure_future(owner.receive())
        await asyncio.sleep(0)
        await owner.stop()
        assert await soon(waiting) == []
        assert await soon(owner.receive()) == []
        await owner.close()
        await owner.close()
        message = new_message(inboxes[1])
        await broker.publish([message])
        assert messages_of(await drain(broker, inboxes[1])) == [message]

    async def test_what_was_never_declared_cannot_be_owned(self, broker: Broker) -> None:
        with pytest.raises(UsageError, match="never declared"):
            await soon(broker.own(["inbox.0", "nowhere"], limit=1).receive())

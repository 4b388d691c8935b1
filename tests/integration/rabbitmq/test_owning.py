"""Inboxes spread over who is there, and move when somebody comes, goes or dies."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from amends.broker.port import Broker, Consumer, Delivery, Message
from amends.broker.rabbitmq import RabbitBroker, inboxes, members, ownership
from amends.broker.rabbitmq.consumer import RabbitConsumer
from amends.broker.rabbitmq.delays import delivery_pattern
from amends.testing.contracts.data import new_message, new_messages, soon
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Plain, Site, eventually, receive

INBOXES = [f"inbox.{number}" for number in range(4)]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members speak four times as often, and are missed four times as soon."""
    monkeypatch.setattr(members, "BEAT_S", members.BEAT_S / 4)
    monkeypatch.setattr(ownership, "GONE_AFTER_S", ownership.GONE_AFTER_S / 4)


class Owner:
    """A process that owns its share of the inboxes, and does with messages as it is told."""

    def __init__(self, broker: RabbitBroker, *, limit: int = 10) -> None:
        self.broker = broker
        self.consumer: Consumer = broker.own(INBOXES, limit=limit)
        self.held: list[Delivery] = []
        self.seen: dict[str, list[Message]] = defaultdict(list)
        self.acknowledges = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while deliveries := await self.consumer.receive():
            for delivery in deliveries:
                self.seen[delivery.message.queue].append(delivery.message)
            if self.acknowledges:
                await self.broker.ack(deliveries)
            else:
                self.held += deliveries

    @property
    def owns(self) -> set[str]:
        return set(self.broker._report("here").owns)

    async def close(self) -> None:
        await self.consumer.close()
        await soon(self._task)

    async def die(self) -> None:
        """End as a process does that is killed: nobody says goodbye."""
        broker = self.broker
        assert broker._membership._running is not None
        broker._membership._running.cancel()
        for connection in (broker._publishing, broker._consuming):
            await connection.close()
        self._task.cancel()


@asynccontextmanager
async def owners(site: Site, count: int, *, limit: int = 10) -> AsyncIterator[list[Owner]]:
    there = [Owner(await site.open(*INBOXES), limit=limit) for _ in range(count)]
    try:
        yield there
    finally:
        for owner in there:
            owner._task.cancel()


async def shared(owners: list[Owner], *, within_s: float = 1) -> list[set[str]]:
    """Who owns what, once that is all of it, evenly."""

    def even() -> bool:
        shares = [owner.owns for owner in owners]
        sizes = [len(share) for share in shares]
        return (
            sum(sizes) == len(set().union(*shares)) == len(INBOXES) and max(sizes) - min(sizes) < 2
        )

    await eventually(even, within_s=within_s)
    return [owner.owns for owner in owners]


async def test_inboxes_spread_and_move_when_somebody_goes(site: Site) -> None:
    async with owners(site, 2) as (one, other):
        assert [len(share) for share in await shared([one, other])] == [2, 2]
        await one.close()
        await shared([other])
        messages = [new_message(queue) for queue in INBOXES for _ in range(3)]
        await one.broker.publish(messages)
        await eventually(lambda: sum(map(len, other.seen.values())) == len(messages))
        await other.close()


def has_seen(owner: Owner, count: int) -> bool:
    return sum(map(len, owner.seen.values())) == count


async def test_what_the_same_owner_gets_goes_together(site: Site) -> None:
    async with owners(site, 2) as (one, other):
        worker = await site.open("commands", *INBOXES)
        work = worker.consume("commands", limit=1)
        shares = await shared([one, other])
        await asyncio.wait([asyncio.create_task(work.receive())], timeout=0)
        await eventually(lambda: len(set(map(worker._membership.carrier, INBOXES))) == 2)
        messages = [new_message(queue) for queue in INBOXES for _ in range(3)]
        await worker.publish(messages)
        for owner, share in zip([one, other], shares, strict=True):
            await eventually(partial(has_seen, owner, 6))
            mine = {q: [m for m in messages if m.queue == q] for q in share}
            assert owner.seen == mine
            assert owner.broker._counters.delivered == 1
            await owner.close()


async def test_who_dies_without_a_word_is_missed(site: Site, hurried: None) -> None:
    async with owners(site, 2) as (one, other):
        await shared([one, other])
        await one.die()
        # Four seconds, and the beat after them, if nobody hurries.
        await shared([other], within_s=(ownership.GONE_AFTER_S + members.BEAT_S) + 0.5)
        await other.close()


async def test_who_joins_is_given_a_share_at_once(site: Site) -> None:
    async with owners(site, 1) as [one]:
        await shared([one])
        another = Owner(await site.open(*INBOXES))
        assert sorted(map(len, await shared([one, another]))) == [2, 2]
        await another.close()
        await shared([one])
        await one.close()


async def test_what_is_in_hand_is_finished_before_an_inbox_goes(site: Site) -> None:
    """And the next owner goes on in order."""
    async with owners(site, 1) as [one]:
        await shared([one])
        one.acknowledges = False
        messages = {queue: new_messages(queue, 30) for queue in INBOXES}
        client = await site.open(*INBOXES)  # who knows of no owner
        for message in [message for each in messages.values() for message in each]:
            await client.publish([message])  # no two in one parcel
        await eventually(lambda: len(one.held) == 40)
        another = Owner(await site.open(*INBOXES))
        await eventually(lambda: len(another.broker._membership.share(frozenset(INBOXES))) == 2)
        await asyncio.sleep(0.3)
        assert another.seen == {}, "what is in hand comes first"
        moved = another.broker._membership.share(frozenset(INBOXES))
        one.acknowledges = True
        await one.broker.ack(one.held)
        await eventually(lambda: all(len(another.seen[queue]) == 20 for queue in moved))
        for queue in moved:
            assert one.seen[queue] == messages[queue][:10]
            assert another.seen[queue] == messages[queue][10:]
        kept = set(INBOXES) - moved
        await eventually(lambda: all(one.seen[queue] == messages[queue] for queue in kept))
        await another.close()
        await one.close()


async def test_who_does_not_finish_is_waited_for_no_longer_than_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inboxes, "HANDOVER_S", 0.2)
    async with owners(site, 1) as [one]:
        await shared([one])
        one.acknowledges = False
        messages = [new_message(queue) for queue in INBOXES]
        await (await site.open(*INBOXES)).publish(messages)
        await eventually(lambda: len(one.held) == 4)
        another = Owner(await site.open(*INBOXES))
        await shared([one, another])
        await eventually(lambda: len(another.seen) == 2)
        await one.broker.ack(one.held)  # too late for two of them, and no error
        await another.close()
        await one.close()


def arrived(message: Message, seen: list[list[Message]]) -> bool:
    return any(message in each for each in seen)


async def test_a_share_survives_that_its_connections_are_closed(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    async with owners(harsh, 2) as (one, other):
        await shared([one, other])
        for _ in range(2):
            await asyncio.to_thread(private_rabbitmq.close_all_connections)
            messages = [new_message(queue) for queue in INBOXES for _ in range(5)]
            await soon(one.broker.publish(messages))
            for message in messages:
                seen = [owner.seen[message.queue] for owner in (one, other)]
                await eventually(partial(arrived, message, seen))
        await shared([one, other], within_s=5)
        await other.close()
        await one.close()


async def test_an_inbox_that_is_deleted_is_made_again_and_served(site: Site, plain: Plain) -> None:
    async with owners(site, 1) as [one]:
        await shared([one])
        for queue in INBOXES[:2]:
            await plain.delete(queue)
        messages = [new_message(queue) for queue in INBOXES]
        await soon(one.broker.publish(messages))
        await eventually(lambda: {m for seen in one.seen.values() for m in seen} == set(messages))
        await one.close()


async def test_what_was_due_while_its_queue_was_away_comes_back(site: Site, plain: Plain) -> None:
    """As when RabbitMQ starts, and what was delayed is there before the way to its queue is."""
    client = await site.open(*INBOXES)
    await client.declare(["commands.ledger"])
    names, due = client._names, datetime.now(UTC) + timedelta(seconds=3)
    messages = [
        new_message(queue, due=due) for queue in (*INBOXES, "commands.ledger", "commands.x")
    ]
    await client.declare(["commands.x"])
    for queue in (*INBOXES, "commands.ledger"):
        await plain.wire.queue_unbind(
            names.queue(queue), names.delivery, routing_key=delivery_pattern(queue)
        )
    await client.publish(messages)
    await plain.delete("commands.x")
    await eventually(partial(as_many_letters, client, len(messages)))
    worker = await site.open("commands.ledger")
    async with owners(site, 1) as [one]:
        await shared([one])
        seen = one.seen
        await eventually(lambda: {m for each in seen.values() for m in each} == set(messages[:-2]))
        [command] = await receive(worker.consume("commands.ledger", limit=1), 1)
        assert command.message == messages[-2]
        [left] = await client.dead_letters()
        assert left.message == messages[-1], "its queue is not there"
        await one.close()


async def as_many_letters(broker: RabbitBroker, count: int) -> bool:
    return len(await broker.dead_letters()) == count


async def test_an_inbox_that_somebody_made_otherwise_is_served_when_that_is_mended(
    site: Site, plain: Plain
) -> None:
    """It is said in the log until then; the other inboxes are served meanwhile."""
    async with owners(site, 1) as [one]:
        await shared([one])
        await plain.delete(INBOXES[0])
        await eventually(lambda: one.owns == set(INBOXES[1:]))
        await plain.wire.queue_declare(
            f"{site.prefix}.{INBOXES[0]}", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await asyncio.sleep(1.5)
        assert one.owns == set(INBOXES[1:])
        messages = [new_message(queue) for queue in INBOXES[1:]]
        await soon(one.broker.publish(messages))
        await eventually(lambda: {m for seen in one.seen.values() for m in seen} == set(messages))
        await plain.delete(INBOXES[0])
        await shared([one], within_s=8)
        await one.close()


async def test_a_mistake_of_ours_leaves_no_inbox_unserved_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it leave a process deaf."""

    def failing_once(owner: type, name: str) -> None:
        right = getattr(owner, name)

        async def wrong(*args: object) -> object:
            monkeypatch.setattr(owner, name, right)
            raise LookupError("a mistake")

        monkeypatch.setattr(owner, name, wrong)

    failing_once(members.Membership, "_join")
    failing_once(RabbitConsumer, "subscribe")
    async with owners(site, 1) as [one]:
        await shared([one], within_s=10)
        await one.close()


# --- what is told of it


async def test_everybody_tells_the_same_of_queues_and_processes(site: Site) -> None:
    async with owners(site, 2) as (one, other):
        await shared([one, other])
        for owner in (one, other):
            owner.acknowledges = False
        worker = await site.open("commands.ledger")
        working = worker.consume("commands.ledger", limit=3)
        await worker.publish(new_messages("commands.ledger", 8))
        await receive(working, 3)
        client = await site.open_undeclared()
        await client.publish([new_message(queue) for queue in INBOXES])
        await eventually(lambda: len(one.held) == len(other.held) == 2)
        everybody: list[Broker] = [one.broker, other.broker, worker, client]
        told = await eventually(lambda: same_of_all(everybody))
        by_queue = {depth.queue: depth for depth in told}
        assert by_queue.keys() == {*INBOXES, "commands.ledger"}
        commands = by_queue["commands.ledger"]
        assert (commands.ready, commands.consumers, commands.owner) == (8, 1, None)
        names = {process.name for process in await client.processes()}
        for queue in INBOXES:
            depth = by_queue[queue]
            assert (depth.ready, depth.consumers) == (1, 1)
            assert depth.owner in names
            assert depth.oldest is not None
        held = [(len(p.owns), p.queues, p.held) for p in await client.processes()]
        assert sorted(held)[0] == (0, ("commands.ledger",), 3)
        assert [(owns, n) for owns, _, n in sorted(held)[1:]] == [(2, 2), (2, 2)]
        await one.close()
        await other.close()
        await working.close()


async def same_of_all(brokers: list[Broker]) -> object:
    """What all of them tell; a report may be a second old."""
    told = [await broker.depths() for broker in brokers]
    return told[0] if all(each == told[0] for each in told) else None


async def test_whoever_asks_leaves_nothing_behind(site: Site) -> None:
    async with owners(site, 1) as [one]:
        await shared([one])
        client = await site.open_undeclared()
        for _ in range(3):
            assert len(await client.processes()) == 1
        assert one.broker._membership._reports == {}
        assert len(await one.broker.processes()) == 1
        await one.close()


async def test_where_nobody_is_nobody_is_told_of(site: Site) -> None:
    broker = await site.open(*INBOXES)
    assert await broker.processes() == []
    assert [(d.queue, d.ready, d.consumers, d.owner) for d in await broker.depths()] == [
        (queue, 0, 0, None) for queue in INBOXES
    ]
    assert await (await site.open_undeclared()).depths() == []

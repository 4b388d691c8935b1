"""The embedded broker beyond its contract: bounds, replies in memory, counts over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amends.broker import embedded_queue
from amends.broker.commit import TurnCommit
from amends.broker.embedded import EmbeddedBroker, EmbeddedConsumer
from amends.broker.embedded_rows import DEPTH_QUERIES
from amends.broker.port import Consumer, Delivery, Message
from amends.domain.ids import NO_STREAM, StreamName
from amends.errors import BrokerClosed, BrokerUnavailable, WrongExpectedVersion
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.clock import ManualClock
from amends.testing.contracts.committing import commit
from amends.testing.contracts.data import new_events, new_message, new_messages, soon

COMMANDS, INBOX = "commands.ledger", "inbox.0"
STREAM = StreamName.of("saga.transfer", "1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteDatabase]:
    async with await SqliteDatabase.open(tmp_path / "a.db", clock=clock) as database:
        yield database


@pytest.fixture
async def broker(database: SqliteDatabase) -> AsyncIterator[EmbeddedBroker]:
    broker = EmbeddedBroker(database)
    await broker.declare([COMMANDS, INBOX])
    yield broker
    await broker.close()


async def rows(database: SqliteDatabase, table: str = "messages") -> list[str]:
    """The keys of what is in a table, in the order of `seq`."""
    return [key for (key,) in await database.read(f"SELECT key FROM {table} ORDER BY seq")]


async def crash(database: SqliteDatabase) -> tuple[SqliteDatabase, EmbeddedBroker]:
    """Open again what was never closed properly."""
    await database.close()
    again = await SqliteDatabase.open(database.path, clock=database.clock)
    return again, EmbeddedBroker(again)


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        portion = await soon(consumer.receive())
        assert portion
        deliveries += portion
    assert len(deliveries) == count
    return deliveries


def hands(consumer: Consumer) -> int:
    assert isinstance(consumer, EmbeddedConsumer)
    return len(consumer._hands.buffer) + len(consumer._hands.received)


# --- bounds


async def test_a_backlog_stays_in_the_file(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    total, limit = 200_000, 100
    consumer = broker.consume(COMMANDS, limit=limit)
    slow = await receive_after_publishing(broker, consumer, total)
    queue = broker._queues[COMMANDS]
    assert hands(consumer) == limit
    assert len(queue.held) == limit
    assert not queue.in_memory
    received = [delivery.message.key for delivery in slow]
    for _ in range(5):
        await broker.ack(slow)
        slow = await receive(consumer, limit)
        received += [delivery.message.key for delivery in slow]
        assert len(queue.held) == hands(consumer) == limit
    assert received == [f"transfer/{n}" for n in range(6 * limit)]
    assert [depth.ready for depth in await broker.depths() if depth.queue == COMMANDS] == [
        total - 5 * limit
    ]


async def receive_after_publishing(
    broker: EmbeddedBroker, consumer: Consumer, total: int
) -> list[Delivery]:
    first = asyncio.ensure_future(consumer.receive())
    for start in range(0, total, 20_000):
        messages = [new_message(COMMANDS, f"transfer/{start + n}") for n in range(20_000)]
        await broker.publish(messages)
    slow = await first
    while len(slow) < 100:
        slow += await soon(consumer.receive())
    return slow


async def test_a_million_years_of_delayed_messages_cost_nothing_at_the_start(
    database: SqliteDatabase, broker: EmbeddedBroker, clock: ManualClock
) -> None:
    due = clock.now() + timedelta(days=1)
    await broker.publish([new_message(INBOX, str(n), due=due) for n in range(20_000)])
    again, engine = await crash(database)
    async with again:
        consumer = engine.consume(INBOX, limit=5)
        waiting = asyncio.ensure_future(consumer.receive())
        await engine.publish([new_message(INBOX, "now")])
        assert [delivery.message.key for delivery in await soon(waiting)] == ["now"]
        plan = await again.read("EXPLAIN QUERY PLAN SELECT min(due) FROM delayed")
        assert "SEARCH delayed USING COVERING INDEX delayed_by_due" in plan[0][3]
        await clock.advance(86_400)
        assert len(await receive(consumer, 4)) == 4
        assert hands(consumer) == 5
        await engine.close()


async def test_counting_what_is_delayed_reads_an_index_only(database: SqliteDatabase) -> None:
    plan = await database.read(f"EXPLAIN QUERY PLAN {DEPTH_QUERIES[1]}", [0])
    assert any("USING COVERING INDEX delayed_by_due" in step[3] for step in plan)


# --- copies


async def test_an_id_that_waits_is_not_published_twice(
    database: SqliteDatabase, broker: EmbeddedBroker, clock: ManualClock
) -> None:
    messages = new_messages(INBOX, 3)
    late = new_message(INBOX, "late", due=clock.now() + timedelta(days=30))
    await broker.publish([*messages, late])
    await broker.publish([messages[1], late, new_message(INBOX, "new")])
    await broker.publish([late, late, messages[0], messages[0]])
    assert await rows(database) == ["transfer/0", "transfer/1", "transfer/2", "new"]
    assert await rows(database, "delayed") == ["late"]
    received = await receive(broker.consume(INBOX, limit=10), 4)
    assert [delivery.message for delivery in received[:3]] == messages


async def test_neither_is_one_that_waits_for_now(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    one, two = new_messages(INBOX, 2)
    await broker.publish([one])
    await broker.publish([one])
    await broker.publish([two, two])
    assert await rows(database) == ["transfer/0", "transfer/1"]


async def test_one_id_in_two_queues_is_two_messages(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    message = new_message(INBOX)
    await broker.publish([message, message._replace(queue=COMMANDS)])
    assert len(await rows(database)) == 2


async def test_a_message_that_was_acknowledged_may_come_again(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    consumer = broker.consume(INBOX, limit=10)
    message = new_message(INBOX)
    for _ in range(3):
        await broker.publish([message])
        await broker.ack(await receive(consumer, 1))


async def test_what_is_published_after_others_became_due_stands_behind_them(
    broker: EmbeddedBroker, clock: ManualClock
) -> None:
    due = clock.now() + timedelta(seconds=10)
    consumer = broker.consume(INBOX, limit=10)
    await broker.publish([new_message(INBOX, f"late/{n}", due=due) for n in range(3)])
    await broker.publish([new_message(INBOX, "first")])
    await receive(consumer, 1)
    await clock.advance(11)
    late = await receive(consumer, 3)
    after = new_messages(INBOX, 3)
    await broker.publish(after)
    received = await receive(consumer, 3)
    assert {delivery.message.key for delivery in late} == {"late/0", "late/1", "late/2"}
    assert [delivery.message for delivery in received] == after


async def test_what_a_consumer_leaves_untouched_is_for_the_others(broker: EmbeddedBroker) -> None:
    one, other = (broker.consume(INBOX, limit=limit) for limit in (10, 5))
    messages = new_messages(INBOX, 3)
    await broker.publish(messages[:1])
    begun = await receive(one, 1)
    # These are handed over in memory, but never received.
    await broker.publish(messages[1:])
    await one.stop()
    left = await receive(other, 2)
    assert [(d.message, d.count) for d in left] == [(message, 1) for message in messages[1:]]
    await broker.ack([*begun, *left])


# --- replies


class Pair:
    """A consumer of commands, one of the inbox, and a command in hand."""

    def __init__(self, broker: EmbeddedBroker, *, inbox_limit: int = 10) -> None:
        self.broker = broker
        self.commands = broker.consume(COMMANDS, limit=10)
        self.inbox = broker.consume(INBOX, limit=inbox_limit)

    async def command(self, key: str = "command") -> Delivery:
        await self.broker.publish([new_message(COMMANDS, key)])
        return (await receive(self.commands, 1))[0]

    async def reply(self, key: str = "command") -> Delivery:
        await self.broker.reply(await self.command(key), new_message(INBOX, f"reply to {key}"))
        return (await receive(self.inbox, 1))[0]


async def test_a_reply_is_not_written(database: SqliteDatabase, broker: EmbeddedBroker) -> None:
    pair = Pair(broker)
    reply = await pair.reply()
    assert reply.message.key == "reply to command"
    assert await rows(database) == ["command"]
    await broker.ack([reply])
    assert await rows(database) == []
    assert (hands(pair.commands), hands(pair.inbox)) == (0, 0)


async def test_a_turn_acknowledges_a_reply_and_what_it_answers(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    reply = await Pair(broker).reply()
    next_command = new_message(COMMANDS, "next")
    await commit(
        broker, TurnCommit(Append(STREAM, new_events(2), NO_STREAM), [next_command], [reply])
    )
    assert await rows(database) == ["next"]
    assert len(await SqliteStore(database).read(STREAM)) == 2


async def test_a_turn_that_lost_its_race_acknowledges_nothing(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    await SqliteStore(database).append(Append(STREAM, new_events(1), NO_STREAM))
    reply = await Pair(broker).reply()
    turn = TurnCommit(Append(STREAM, new_events(2), NO_STREAM), [new_message(COMMANDS)], [reply])
    with pytest.raises(WrongExpectedVersion):
        await commit(broker, turn)
    assert await rows(database) == ["command"]
    await broker.ack([reply])
    assert await rows(database) == []


async def test_a_request_that_is_acknowledged_while_its_receiver_closes_stays_gone(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    """Otherwise a start would stay behind, for longer perhaps than the instance's journal."""
    pair = Pair(broker)
    receiving = asyncio.ensure_future(pair.inbox.receive())
    await broker.request(new_message(INBOX, "start"))
    turn = TurnCommit(Append(STREAM, new_events(1), NO_STREAM), [], await soon(receiving))
    committing = asyncio.ensure_future(broker.commit([turn]))
    await asyncio.sleep(0)
    await pair.inbox.close()
    assert await committing == [None]
    assert await rows(database) == []


async def test_a_turn_that_cannot_be_planned_fails_alone(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    no_moment: Any = "tomorrow"
    turns = [
        TurnCommit(None, [new_message(COMMANDS, "bad", due=no_moment)], []),
        TurnCommit(None, [new_message(COMMANDS, "good")], []),
    ]
    outcomes = await broker.commit(turns)
    assert [type(outcome) for outcome in outcomes] == [TypeError, type(None)]
    assert await rows(database) == ["good"]


async def test_a_crash_before_the_reply_is_acknowledged_brings_the_command_again(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    await Pair(broker).reply()
    again, engine = await crash(database)
    async with again:
        (delivery,) = await receive(engine.consume(COMMANDS, limit=10), 1)
        assert delivery.message.key == "command"
        assert delivery.count == 2
        await engine.close()


async def test_a_reply_that_is_released_comes_again_alone(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    reply = await pair.reply()
    await broker.release([reply])
    assert await rows(database) == ["reply to command"]
    (again,) = await receive(pair.inbox, 1)
    assert (again.message, again.count) == (reply.message, 2)
    await broker.ack([again])
    assert await rows(database) == []


async def test_a_reply_can_be_put_aside(database: SqliteDatabase, broker: EmbeddedBroker) -> None:
    pair = Pair(broker)
    reply = await pair.reply()
    await broker.dead_letter(reply, reason="r", detail="d")
    assert await rows(database) == []
    (letter,) = await broker.dead_letters()
    assert letter.message == reply.message
    await broker.redrive([letter.message.id])
    assert (await receive(pair.inbox, 1))[0].message == reply.message


@pytest.mark.parametrize("received", [True, False])
async def test_a_reply_outlives_its_receiver(
    database: SqliteDatabase, broker: EmbeddedBroker, received: bool
) -> None:
    pair = Pair(broker)
    if received:
        await pair.reply()
    else:
        await broker.reply(await pair.command(), new_message(INBOX, "reply to command"))
    await pair.inbox.close()
    assert await rows(database) == ["reply to command"]
    (reply,) = await receive(broker.consume(INBOX, limit=10), 1)
    assert (reply.message.key, reply.count) == ("reply to command", 2 if received else 1)


async def test_a_reply_that_finds_no_room_when_its_receiver_closes_brings_the_command_again(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    large = new_message(INBOX)._replace(body=b"x" * 1_000_000)
    await broker.reply(await pair.command(), large)
    await receive(pair.inbox, 1)
    await database.limit_size(1)
    await pair.inbox.close()
    (again,) = await receive(pair.commands, 1)
    assert again.message.key == "command"


async def test_a_reply_that_is_acknowledged_while_its_receiver_closes_stays_gone(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    reply = await pair.reply()
    acknowledging = asyncio.ensure_future(broker.ack([reply]))
    await asyncio.sleep(0)
    await pair.inbox.close()
    await acknowledging
    assert await rows(database) == []


async def test_a_reply_outlives_whoever_gave_it(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    reply = await pair.reply()
    await pair.commands.close()
    assert await rows(database) == ["command"]
    waiting = asyncio.ensure_future(broker.consume(COMMANDS, limit=10).receive())
    await broker.ack([reply])
    assert await rows(database) == []
    assert not waiting.done()
    waiting.cancel()


async def test_a_reply_to_a_reply_keeps_the_command(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    reply = await pair.reply()
    await broker.reply(reply, new_message(INBOX, "answer"))
    (answer,) = await receive(pair.inbox, 1)
    assert await rows(database) == ["command"]
    await broker.ack([answer])
    assert await rows(database) == []


async def test_a_reply_without_a_receiver_here_is_written(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    await pair.inbox.close()
    await broker.reply(await pair.command(), new_message(INBOX, "written"))
    assert await rows(database) == ["written"]


async def test_replies_beyond_the_bound_are_written(
    database: SqliteDatabase, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_queue, "IN_MEMORY_MAX", 3)
    pair = Pair(broker, inbox_limit=2)
    for n in range(10):
        await broker.reply(await pair.command(str(n)), new_message(INBOX, f"reply {n}"))
    queue = broker._queues[INBOX]
    assert len(queue.in_memory) == 3
    assert await rows(database) == ["0", "1", "2", "3", "4", *(f"reply {n}" for n in range(5, 10))]
    got: list[str] = []
    while len(got) < 10:
        replies = await soon(pair.inbox.receive())
        got += [reply.message.key for reply in replies]
        assert hands(pair.inbox) <= 2
        await broker.ack(replies)
    assert sorted(got) == [f"reply {n}" for n in range(10)]
    assert await rows(database) == []


async def test_neither_replies_nor_rows_starve(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker, inbox_limit=1)
    await broker.publish(new_messages(INBOX, 10))
    for n in range(10):
        await broker.reply(await pair.command(str(n)), new_message(INBOX, f"reply {n}"))
    kinds = ""
    for _ in range(20):
        (delivery,) = await receive(pair.inbox, 1)
        kinds += "r" if delivery.message.key.startswith("reply") else "m"
        await broker.ack([delivery])
    assert kinds.count("r") == kinds.count("m") == 10
    assert "rrr" not in kinds
    assert "mmm" not in kinds


async def test_a_reply_after_its_command_was_handed_back_is_published(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    pair = Pair(broker)
    command = await pair.command()
    await broker.release([command])
    await broker.reply(command, new_message(INBOX, "late"))
    assert (await receive(pair.inbox, 1))[0].message.key == "late"
    assert (await receive(pair.commands, 1))[0].message.key == "command"


# --- counts


async def test_a_clean_end_counts_nothing(database: SqliteDatabase, broker: EmbeddedBroker) -> None:
    await broker.publish(new_messages(COMMANDS, 5))
    await broker.ack(await receive(broker.consume(COMMANDS, limit=1), 1))
    await broker.close()
    again, engine = await crash(database)
    async with again:
        received = await receive(engine.consume(COMMANDS, limit=10), 4)
        assert [delivery.count for delivery in received] == [1] * 4
        await engine.close()


async def test_a_crash_counts_what_may_have_been_in_its_hands(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    await broker.publish(new_messages(COMMANDS, 5))
    await receive(broker.consume(COMMANDS, limit=2), 2)
    for expected in (2, 3):
        database, engine = await crash(database)
        consumer = engine.consume(COMMANDS, limit=2)
        received = await receive(consumer, 2)
        assert [delivery.count for delivery in received] == [expected, expected]
        if expected == 3:
            await engine.ack(received)
            assert [delivery.count for delivery in await receive(consumer, 2)] == [1, 1]
            await engine.close()
    await database.close()


async def test_closing_a_consumer_counts_what_it_had_received_only(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    consumer = broker.consume(COMMANDS, limit=10)
    await broker.publish(new_messages(COMMANDS, 2))
    await receive(consumer, 2)
    await broker.publish([new_message(COMMANDS, "not received")])
    await consumer.close()
    received = await receive(broker.consume(COMMANDS, limit=10), 3)
    assert [delivery.count for delivery in received] == [2, 2, 1]


# --- failures


async def test_a_full_file_loses_nothing(database: SqliteDatabase, broker: EmbeddedBroker) -> None:
    consumer = broker.consume(COMMANDS, limit=10)
    await broker.publish(new_messages(COMMANDS, 3))
    received = await receive(consumer, 3)
    await database.limit_size(1)
    big = new_message(COMMANDS)._replace(body=b"x" * 1_000_000)
    with pytest.raises(BrokerUnavailable, match="no room"):
        await broker.publish([big])
    await broker.ack(received[:1])
    await database.limit_size(10**9)
    await broker.publish([big])
    (delivery,) = await receive(consumer, 1)
    assert delivery.message == big
    await consumer.close()
    left = await receive(broker.consume(COMMANDS, limit=10), 3)
    assert [d.message for d in left] == [*(d.message for d in received[1:]), big]


async def test_a_broker_on_a_closed_file_says_so(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    consumer = broker.consume(COMMANDS, limit=10)
    waiting = asyncio.ensure_future(consumer.receive())
    await broker.publish([])
    await broker.depths()
    await database.close()
    with pytest.raises(BrokerClosed):
        await soon(waiting)
    with pytest.raises(BrokerClosed):
        await broker.publish([new_message(COMMANDS)])
    await soon(broker.close())


async def test_a_clock_that_fails_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BadClock(ManualClock):
        async def sleep_until(self, when: Any) -> None:
            raise ValueError("no time")

    clock = BadClock()
    async with await SqliteDatabase.open(tmp_path / "a.db", clock=clock) as database:
        broker = EmbeddedBroker(database)
        await broker.declare([INBOX])
        await broker.publish([new_message(INBOX, due=clock.now() + timedelta(days=1))])
        with pytest.raises(BrokerUnavailable, match="delayed"):
            await soon(broker.consume(INBOX, limit=1).receive())
        await broker.close()


async def test_cancelled_publishers_and_receivers_harm_nobody(
    database: SqliteDatabase, broker: EmbeddedBroker
) -> None:
    consumer = broker.consume(COMMANDS, limit=10)
    published: list[Message] = []
    for n in range(30):
        message = new_message(COMMANDS, str(n))
        publishing = asyncio.ensure_future(broker.publish([message]))
        receiving = asyncio.ensure_future(consumer.receive())
        for _ in range(n % 4):
            await asyncio.sleep(0)
        publishing.cancel()
        receiving.cancel()
        outcome = await asyncio.gather(receiving, return_exceptions=True)
        if isinstance(outcome[0], list):
            await broker.ack(outcome[0])
        published.append(message)
    last = new_message(COMMANDS, "last")
    await broker.publish([last])
    while True:
        deliveries = await soon(consumer.receive())
        await broker.ack(deliveries)
        if any(delivery.message == last for delivery in deliveries):
            break
    assert await rows(database) == []
    assert hands(consumer) == 0

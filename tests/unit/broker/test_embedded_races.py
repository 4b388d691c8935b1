"""What comes due, or is redriven, in the very moment in which something else is published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from amends.broker.embedded import EmbeddedBroker
from amends.broker.port import Consumer
from amends.stores.sqlite import SqliteDatabase
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import new_message, soon

QUEUE = "inbox.0"


class HeldReports:
    """Keeps the writer's reports back, to give them to the event loop in one and the same round,
    which is what a busy loop does to them."""

    def __init__(self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        self._held: list[Callable[[], None]] = []
        monkeypatch.setattr(database.writer, "_tell", self._held.append)

    async def give(self, count: int) -> None:
        while len(self._held) < count:  # noqa: ASYNC110 - a thread adds to it
            await asyncio.sleep(0)
        for report in self._held[:count]:
            asyncio.get_running_loop().call_soon(report)
        del self._held[:count]

    async def give_always(self) -> None:
        while True:
            await self.give(1)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with await SqliteDatabase.open(tmp_path / "a.db", clock=ManualClock()) as database:
        yield database


async def take(consumer: Consumer, broker: EmbeddedBroker, count: int) -> None:
    taken = 0
    while taken < count:
        deliveries = await consumer.receive()
        taken += len(deliveries)
        await broker.ack(deliveries)


async def settled(consumer: Consumer, broker: EmbeddedBroker) -> None:
    """Nothing waits, and the queue knows it."""
    await broker.publish([new_message(QUEUE)])
    await take(consumer, broker, 1)


async def test_due_messages_are_not_passed_over(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = database.clock
    assert isinstance(clock, ManualClock)
    broker = EmbeddedBroker(database)
    await broker.declare([QUEUE])
    consumer = broker.consume(QUEUE, limit=100)
    await settled(consumer, broker)
    await broker.publish([new_message(QUEUE, due=clock.now() + timedelta(seconds=1))])
    with monkeypatch.context() as patch:
        reports = HeldReports(database, patch)
        await clock.advance(1)
        for _ in range(10):  # the clock's waiter gives its task to the writer
            await asyncio.sleep(0)
        publishing = asyncio.ensure_future(broker.publish([new_message(QUEUE)]))
        await reports.give(2)
        giving = asyncio.ensure_future(reports.give_always())
        await soon(take(consumer, broker, 2))
        await publishing
        giving.cancel()
    await consumer.close()
    await broker.close()


async def test_redriven_messages_are_not_passed_over(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = EmbeddedBroker(database)
    await broker.declare([QUEUE])
    consumer = broker.consume(QUEUE, limit=100)
    message = new_message(QUEUE)
    await broker.publish([message])
    [delivery] = await consumer.receive()
    await broker.dead_letter(delivery, reason="test", detail="")
    await settled(consumer, broker)
    with monkeypatch.context() as patch:
        reports = HeldReports(database, patch)
        redriving = asyncio.ensure_future(broker.redrive([message.id]))
        await asyncio.sleep(0)
        publishing = asyncio.ensure_future(broker.publish([new_message(QUEUE)]))
        await reports.give(2)
        giving = asyncio.ensure_future(reports.give_always())
        await soon(take(consumer, broker, 2))
        await asyncio.gather(redriving, publishing)
        giving.cancel()
    await consumer.close()
    await broker.close()

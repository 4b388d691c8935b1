"""Several processes on one file: what others write is noticed, in order, and once."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amends.broker.embedded import EmbeddedBroker
from amends.broker.port import Message
from amends.domain.clock import SystemClock
from amends.domain.ids import NO_STREAM, START, ExpectedVersion, StreamName
from amends.errors import WrongExpectedVersion
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.contracts.data import closing, new_event, new_events, new_message, soon

QUEUE = "inbox.0"
PROCESSES = 3
ROUNDS = 60

CLIENT = """
import asyncio, sys
from amends.broker.embedded import EmbeddedBroker
from amends.domain.ids import ExpectedVersion, StreamName
from amends.errors import WrongExpectedVersion
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.contracts.data import new_event, new_message

async def main(path, name, rounds):
    shared, own = StreamName.of("shared", "1"), StreamName.of("client", name)
    async with await SqliteDatabase.open(path, busy_timeout_s=60.0) as database:
        store, broker = SqliteStore(database), EmbeddedBroker(database)
        for n in range(rounds):
            await store.append(Append(own, [new_event(), new_event()], ExpectedVersion(2 * n - 1)))
            await broker.publish([new_message("inbox.0", f"{name}/{n}") ])
            while True:
                tail = await store.read_backwards(shared, limit=1)
                version = ExpectedVersion(tail[0].version if tail else -1)
                try:
                    await store.append(Append(shared, [new_event(name)], version))
                    break
                except WrongExpectedVersion:
                    pass

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start_client(path: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CLIENT, str(path), name, str(ROUNDS)])


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with await SqliteDatabase.open(
        tmp_path / "a.db", clock=SystemClock(), busy_timeout_s=60.0
    ) as database:
        yield database


@pytest.fixture
async def other(database: SqliteDatabase) -> AsyncIterator[SqliteDatabase]:
    """Another process's view: it shares nothing but the file."""
    async with await SqliteDatabase.open(database.path) as other:
        yield other


async def test_what_another_process_appends_reaches_a_subscription(
    database: SqliteDatabase, other: SqliteDatabase
) -> None:
    store = SqliteStore(database)
    async with closing(store.subscribe()) as subscription:
        for n in range(20):
            coming = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0)
            (event,) = new_events(1)
            await SqliteStore(other).append(
                Append(StreamName.of("a", "1"), [event], ExpectedVersion(n - 1))
            )
            assert (await soon(coming)).id == event.id


async def test_what_another_process_publishes_reaches_a_consumer(
    database: SqliteDatabase, other: SqliteDatabase
) -> None:
    engine, client = EmbeddedBroker(database), EmbeddedBroker(other)
    await engine.declare([QUEUE])
    consumer = engine.consume(QUEUE, limit=10)
    for _ in range(20):
        coming = asyncio.ensure_future(consumer.receive())
        await asyncio.sleep(0)
        message = new_message(QUEUE)
        await client.publish([message])
        (delivery,) = await soon(coming)
        assert delivery.message == message
        await engine.ack([delivery])
    await engine.close()


async def test_a_queue_that_another_process_declared_is_known(
    database: SqliteDatabase, other: SqliteDatabase
) -> None:
    await EmbeddedBroker(database).declare([QUEUE])
    await EmbeddedBroker(other).publish([new_message(QUEUE)])


async def test_messages_of_several_processes_keep_their_order(
    database: SqliteDatabase, other: SqliteDatabase
) -> None:
    """Ours are handed over in memory, but never in front of theirs that were there before."""
    engine, client = EmbeddedBroker(database), EmbeddedBroker(other)
    await engine.declare([QUEUE])
    consumer = engine.consume(QUEUE, limit=1000)
    published = [new_message(QUEUE, str(n)) for n in range(200)]
    for n, message in enumerate(published):
        await (client if n % 3 == 0 else engine).publish([message])
    received: list[Message] = []
    while len(received) < 200:
        received += [delivery.message for delivery in await soon(consumer.receive())]
    assert received == published
    await engine.close()


async def test_processes_share_a_file(database: SqliteDatabase) -> None:
    store, broker = SqliteStore(database), EmbeddedBroker(database)
    await broker.declare([QUEUE])
    consumer = broker.consume(QUEUE, limit=7)
    clients = [start_client(database.path, f"c{n}") for n in range(PROCESSES)]
    own, shared = StreamName.of("client", "engine"), StreamName.of("shared", "1")

    async def consume() -> list[str]:
        keys: list[str] = []
        while len(keys) < PROCESSES * ROUNDS:
            deliveries = await consumer.receive()
            keys += [delivery.message.key for delivery in deliveries]
            await broker.ack(deliveries)
        return keys

    async def follow() -> list[int]:
        positions: list[int] = []
        async with closing(store.subscribe(START)) as subscription:
            async for event in subscription:
                positions.append(event.position)
                if event.type == "Last":
                    break
        return positions

    async def append() -> None:
        for n in range(ROUNDS):
            await store.append(Append(own, new_events(2), ExpectedVersion(2 * n - 1)))
            while True:
                tail = await store.read_backwards(shared, limit=1)
                version = ExpectedVersion(tail[0].version) if tail else NO_STREAM
                try:
                    await store.append(Append(shared, [new_event("engine")], version))
                    break
                except WrongExpectedVersion:
                    continue

    following = asyncio.ensure_future(follow())
    keys, _ = await asyncio.gather(consume(), append())
    for client in clients:
        assert await asyncio.to_thread(client.wait, 60) == 0
    await store.append(Append(StreamName.of("last", "1"), [new_event("Last")], NO_STREAM))

    expected = (PROCESSES + 1) * ROUNDS * 3 + 1
    assert await soon(following) == list(range(expected))
    assert len(await store.read(shared)) == (PROCESSES + 1) * ROUNDS
    for n in range(PROCESSES):
        name = f"c{n}"
        assert len(await store.read(StreamName.of("client", name))) == 2 * ROUNDS
        assert [key for key in keys if key.startswith(name)] == [
            f"{name}/{number}" for number in range(ROUNDS)
        ]
    assert [depth.ready for depth in await broker.depths()] == [0]
    await broker.close()
    with sqlite3.connect(database.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()

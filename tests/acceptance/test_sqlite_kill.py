"""Processes killed at any moment: what was acknowledged is there, whole, and never comes back.

The child works as fast as it can on appends, messages, turns and replies, and says on its
standard output what it was told is done, after it was told. The parent kills it after a seeded
number of lines, and compares what it said with what the file has; then the next one goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import pytest

from amends.broker.commit import TurnCommit
from amends.broker.embedded import EmbeddedBroker
from amends.broker.port import Delivery, Message
from amends.domain.envelope import NewEvent
from amends.domain.ids import ANY, NO_STREAM, StreamName
from amends.errors import EngineAlreadyRunning
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore

KILLS = 4
EVENTS = 5  # in each append
PLAIN, COMMANDS, INBOX = "plain", "commands.ledger", "inbox.0"
QUEUES = (PLAIN, COMMANDS, INBOX)


def say(*words: object) -> None:
    """One line in one system call: a killed process says the whole line, or nothing of it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def events_of(name: str) -> list[NewEvent]:
    return [
        NewEvent(uuid5(NAMESPACE_OID, f"{name}/{n}"), "Happened", b'{"n":%d}' % n, b"{}")
        for n in range(EVENTS)
    ]


def message_of(queue: str, key: str) -> Message:
    id = uuid5(NAMESPACE_OID, f"{queue}/{key}")
    return Message(id, queue, "RunStep", key, b"{}", "correlation", "causation")


# --- the child


async def append(store: SqliteStore, run: str) -> None:
    for n in range(10**9):
        name = f"{run}x{n}"
        expected = ANY if n % 5 == 0 else NO_STREAM
        await store.append(Append(StreamName.of("appended", name), events_of(name), expected))
        say("appended", name)


async def publish(broker: EmbeddedBroker, run: str) -> None:
    for n in range(10**9):
        messages = [message_of(PLAIN, f"{run}x{n}x{part}") for part in range(3)]
        await broker.publish(messages)
        say("published", *(message.key for message in messages))
        # Commands, each of which leads to a reply and the reply to a turn.
        await broker.publish([message_of(COMMANDS, f"{run}x{n}")])
        say("commanded", f"{run}x{n}")


async def consume(broker: EmbeddedBroker) -> None:
    consumer = broker.consume(PLAIN, limit=20)
    while deliveries := await consumer.receive():
        # Every third stays where it is.
        done = [one for one in deliveries if not one.message.key.endswith("x2")]
        say("received", *(one.message.key for one in done))
        await broker.ack(done)
        say("acknowledged", *(one.message.key for one in done))
        await broker.release([one for one in deliveries if one not in done][:1])


async def run_commands(broker: EmbeddedBroker) -> None:
    consumer = broker.consume(COMMANDS, limit=20)
    while deliveries := await consumer.receive():
        for one in deliveries:
            await broker.reply(one, message_of(INBOX, one.message.key))


async def take_turns(broker: EmbeddedBroker) -> None:
    consumer = broker.consume(INBOX, limit=20)

    async def turn(delivery: Delivery) -> None:
        name = delivery.message.key
        append = Append(StreamName.of("turn", name), events_of(name), NO_STREAM)
        await broker.commit([TurnCommit(append, [message_of(PLAIN, f"from{name}x2")], [delivery])])
        say("turn", name)

    while deliveries := await consumer.receive():
        await asyncio.gather(*(turn(delivery) for delivery in deliveries))


async def child(path: str, run: str) -> None:
    async with await SqliteDatabase.open(path) as database:
        database.acquire_engine_lock()
        store, broker = SqliteStore(database), EmbeddedBroker(database)
        await broker.declare(QUEUES)
        await asyncio.gather(
            append(store, f"{run}a"),
            append(store, f"{run}b"),
            publish(broker, run),
            consume(broker),
            run_commands(broker),
            take_turns(broker),
        )


# --- the parent


class Said:
    """What the children were told was done."""

    def __init__(self) -> None:
        self.words: dict[str, set[str]] = defaultdict(set)

    def note(self, line: bytes) -> None:
        verb, *names = line.decode().split()
        self.words[verb].update(names)


def start(path: Path, run: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, str(path), run], stdout=subprocess.PIPE, bufsize=0
    )


def run_and_kill(path: Path, run: str, lines: int, said: Said) -> None:
    child = start(path, run)
    assert child.stdout is not None
    with child.stdout as output:
        buffer = b""
        seen = 0
        while chunk := output.read(65_536):
            buffer += chunk
            *complete, buffer = buffer.split(b"\n")
            for line in complete:
                said.note(line)
            seen += len(complete)
            if seen >= lines and child.returncode is None:
                child.send_signal(signal.SIGKILL)
                child.wait()
    assert child.wait() == -signal.SIGKILL


async def left_in(database: SqliteDatabase, queue: str) -> set[str]:
    rows = await database.read(
        "SELECT key FROM messages JOIN queues q ON q.id = seq >> 44 WHERE name = ?", [queue]
    )
    keys = [key for (key,) in rows]
    assert len(keys) == len(set(keys))
    return set(keys)


async def streams_of(database: SqliteDatabase, category: str) -> set[str]:
    rows = await database.read("SELECT name FROM streams WHERE name LIKE ?", [f"{category}-%"])
    return {name.removeprefix(f"{category}-") for (name,) in rows}


async def compare(path: Path, said: Said) -> None:
    words = said.words
    async with await SqliteDatabase.open(path) as database:
        # The kernel released the dead one's lock.
        database.acquire_engine_lock()
        store = SqliteStore(database)
        for category, verb in (("appended", "appended"), ("turn", "turn")):
            names = await streams_of(database, category)
            assert words[verb] <= names, "an acknowledged append is missing"
            for name in names:
                events = await store.read(StreamName.of(category, name))
                found = [event.id for event in events]
                assert found == [event.id for event in events_of(name)], "an append is not whole"

        plain, commands = await left_in(database, PLAIN), await left_in(database, COMMANDS)
        assert not words["acknowledged"] & plain, "an acknowledged message is back"
        missing = words["published"] - plain - words["received"]
        assert not missing, "a published message is missing"

        # A turn is its events, its messages, and the end of what drove it; or nothing of these.
        turns = await streams_of(database, "turn")
        assert not turns & commands, "a turn was recorded, but not its acknowledgement"
        assert words["commanded"] <= turns | commands, "a command is missing"
        assert {f"from{name}x2" for name in turns} <= plain, "a turn's message is missing"
        assert await left_in(database, INBOX) == set(), "a reply was written"
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    said = Said()
    for n in range(KILLS):
        lines = rng.choice([1, rng.randrange(2, 50), rng.randrange(50, 2000)])
        await asyncio.to_thread(run_and_kill, tmp_path / "a.db", f"s{seed}k{n}", lines, said)
        await compare(tmp_path / "a.db", said)


async def test_a_killed_engine_is_followed_by_another(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    child = start(path, "first")
    assert child.stdout is not None
    with child.stdout as output:
        assert await asyncio.to_thread(output.read, 1)
        async with await SqliteDatabase.open(path) as database:
            with pytest.raises(EngineAlreadyRunning, match=f"process {child.pid}, running since"):
                database.acquire_engine_lock()
            child.kill()
            await asyncio.to_thread(child.wait)
            database.acquire_engine_lock()


if __name__ == "__main__":
    asyncio.run(child(sys.argv[1], sys.argv[2]))

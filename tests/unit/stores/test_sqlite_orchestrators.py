"""Several processes write one file at expected versions, follow its log, remove from it and die."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import NO_STREAM, START, ExpectedVersion, StreamName
from amends.stores.port import Append, Removal
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.contracts.data import closing, new_event

PROCESSES = 3
ROUNDS = 40
#: Most of what a test may take: processes begin slowly under load.
WAIT_S = 90.0
#: Streams that all of them write; each is full after so many events, and may then be removed.
STREAMS, FULL = 8, 30

#: Acts as an orchestrator does: many appends at once, each at the version it knows, and read again
#: when somebody else was first. Says on stdout, line by line, what happened and what it saw.
WRITER = """
import asyncio, json, random, sys
from amends.domain.ids import START, ExpectedVersion, StreamName
from amends.errors import WrongExpectedVersion
from amends.stores.port import Append, Removal
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.contracts.data import new_event

async def main(path, name, rounds, streams, full):
    rng = random.Random(name)
    say = lambda *what: print(json.dumps(what), flush=True)
    async with await SqliteDatabase.open(path, busy_timeout_s=60.0) as database:
        store = SqliteStore(database)

        async def follow():
            async for event in store.subscribe(START):
                say("saw", event.position, event.stream, event.version, str(event.id))
                if event.type == "Last":
                    return

        async def take_turns(stream):
            tail = await store.read_backwards(stream, limit=1)
            version = tail[0].version if tail else -1
            for _ in range(rounds):
                if version >= full:
                    for gone in await store.remove([Removal(stream, version)]):
                        say("removed", gone, version)
                        version = -1
                events = [new_event(name) for _ in range(rng.choice([1, 1, 3]))]
                try:
                    appended = await store.append(Append(stream, events, ExpectedVersion(version)))
                    say("appended", stream, appended.version, [str(event.id) for event in events])
                    version = appended.version
                except WrongExpectedVersion as lost:
                    version = lost.actual

        following = asyncio.ensure_future(follow())
        await asyncio.gather(*(take_turns(StreamName.of("saga.x", str(n))) for n in range(streams)))
        say("done")
        await following

asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
"""


class Writer:
    """A process that writes, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[list[Any]] = []

    @classmethod
    async def start(cls, path: Path, name: str, *, full: int = FULL) -> Writer:
        arguments = (str(path), name, str(ROUNDS), str(STREAMS), str(full))
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", WRITER, *arguments, stdout=asyncio.subprocess.PIPE
            )
        )

    async def until(self, what: str, times: int = 1) -> None:
        """Hear it until it has said something so many times, or has ended."""
        assert self.process.stdout is not None
        while times and (line := await self.process.stdout.readline()):
            self.said.append(json.loads(line))
            times -= self.said[-1][0] == what

    def all(self, what: str) -> list[list[Any]]:
        return [said[1:] for said in self.said if said[0] == what]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteDatabase.open(tmp_path / "a.db", busy_timeout_s=60.0) as database:
        yield SqliteStore(database)


def check_sight(seen: list[list[Any]], left: list[RecordedEvent]) -> None:
    """A subscription misses nothing that is left, and has no double, whatever went meanwhile."""
    positions = [position for position, *_ in seen]
    assert positions == sorted(set(positions))
    ids = {id for *_, id in seen}
    assert [event for event in left if str(event.id) not in ids] == []


async def test_processes_that_all_write_agree_on_one_log(
    tmp_path: Path, store: SqliteStore
) -> None:
    writers = [await Writer.start(tmp_path / "a.db", f"p{n}") for n in range(PROCESSES)]
    # It removes nothing: what it did last, it could not say.
    doomed = await Writer.start(tmp_path / "a.db", "doomed", full=10**6)

    async def doom() -> None:
        await doomed.until("appended", random.Random(1).randrange(40, 120))
        doomed.process.kill()
        await doomed.until("nothing")

    async with closing(store.subscribe(START)) as subscription, asyncio.timeout(WAIT_S):
        following = asyncio.ensure_future(follow(subscription))
        await asyncio.gather(doom(), *(writer.until("done") for writer in writers))
        last = Append(StreamName.of("last", "1"), [new_event("Last")], NO_STREAM)
        await store.append(last)
        await asyncio.gather(*(writer.until("nothing") for writer in writers))
        seen = await following
    for writer in writers:
        assert await writer.process.wait() == 0

    left = await store.read_all(limit=10**6)
    for sight in (seen, *(writer.all("saw") for writer in writers)):
        check_sight(sight, left)
    check_streams(left)
    check_appends([*writers, doomed], left)
    assert_intact(tmp_path / "a.db")


async def follow(subscription: AsyncIterator[RecordedEvent]) -> list[list[Any]]:
    seen: list[list[Any]] = []
    async for event in subscription:
        seen.append([event.position, event.stream, event.version, str(event.id)])
        if event.type == "Last":
            break
    return seen


def check_streams(left: list[RecordedEvent]) -> None:
    """The versions of each stream are 0, 1, 2 … in the order of the log."""
    streams: dict[StreamName, list[int]] = {}
    for event in left:
        streams.setdefault(event.stream, []).append(event.version)
    assert all(versions == list(range(len(versions))) for versions in streams.values())


def check_appends(writers: list[Writer], left: list[RecordedEvent]) -> None:
    """Each append that was confirmed is there once, or was removed with its stream."""
    there = {event.id for event in left}
    assert len(there) == len(left)
    removed = [(stream, version) for writer in writers for stream, version in writer.all("removed")]
    # Positions have no gaps but those of removed streams.
    assert left[-1].position + 1 - len(left) == sum(version + 1 for _, version in removed)
    confirmed = {
        UUID(id): stream
        for writer in writers
        for stream, _, ids in writer.all("appended")
        for id in ids
    }
    missing = {stream for id, stream in confirmed.items() if id not in there}
    assert missing <= {stream for stream, _ in removed} != set()


def assert_intact(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_stream_that_another_process_removed_begins_anew(
    tmp_path: Path, store: SqliteStore
) -> None:
    """What this process remembers of a stream is worth nothing once others write."""
    stream = StreamName.of("saga.x", "1")
    async with await SqliteDatabase.open(tmp_path / "a.db") as other_database:
        other = SqliteStore(other_database)
        for _ in range(20):
            await store.append(Append(stream, [new_event(), new_event()], NO_STREAM))
            assert await other.remove([Removal(stream, 1)]) == [stream]
            assert await store.read(stream) == []
            await other.append(Append(stream, [new_event()], NO_STREAM))
            await store.append(Append(stream, [new_event()], ExpectedVersion(0)))
            assert await store.remove([Removal(stream, 1)]) == [stream]

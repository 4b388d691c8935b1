"""What removing streams does to the file, and to what the writer remembers of it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from amends.domain.ids import NO_STREAM, START, ExpectedVersion, Position, StreamName
from amends.errors import StoreFull, WrongExpectedVersion
from amends.stores.port import Append, EventFilter, Removal
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.stores.sqlite.commit import Transaction
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import closing, new_event, new_events, take

FAR = 1_000_000_000


def stream(n: int) -> StreamName:
    return StreamName.of("saga.transfer", str(n))


async def open_file(path: Path) -> SqliteDatabase:
    return await SqliteDatabase.open(path / "a.db", clock=ManualClock())


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with await open_file(tmp_path) as database:
        yield database


@pytest.fixture
def store(database: SqliteDatabase) -> SqliteStore:
    return SqliteStore(database)


async def append(store: SqliteStore, *numbers: int, events: int = 4) -> None:
    await asyncio.gather(
        *(store.append(Append(stream(n), new_events(events), NO_STREAM)) for n in numbers)
    )


async def test_a_file_stops_growing(database: SqliteDatabase, store: SqliteStore) -> None:
    """Pages of what was removed are used again, and the write-ahead log is begun anew."""
    data = b'{"x":"%s"}' % (b"x" * 1000)
    wal = database.path.with_name(database.path.name + "-wal")
    sizes = []
    for round in range(40):
        new = [stream(1000 * round + n) for n in range(200)]
        events = [new_event(data=data) for _ in range(5)]
        await asyncio.gather(*(store.append(Append(name, events, NO_STREAM)) for name in new))
        if round >= 2:
            old = [Removal(stream(1000 * (round - 2) + n), 4) for n in range(200)]
            assert len(await store.remove(old)) == 200
        sizes.append((database.path.stat().st_size, wal.stat().st_size))
    # What was written is 40 MB.
    assert max(file for file, _ in sizes[15:]) < 1.05 * sizes[14][0] < 10e6
    assert max(log for _, log in sizes) < 25e6
    assert database.query("SELECT count(*) FROM streams") == [(400,)]


async def test_a_wide_gap_is_crossed_in_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await open_file(tmp_path) as database:
        await append(SqliteStore(database), 1, 2)
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("UPDATE events SET position = position + ? WHERE stream = 2", [FAR])
    connection.commit()
    connection.close()
    looks = 0
    query = SqliteDatabase.query

    def counted(self: SqliteDatabase, *args: Any) -> list[Any]:
        nonlocal looks
        looks += 1
        assert looks < 100
        return query(self, *args)

    monkeypatch.setattr(SqliteDatabase, "query", counted)
    async with await open_file(tmp_path) as database:
        store = SqliteStore(database)
        for filter in (EventFilter(), EventFilter(types=("SomethingHappened",))):
            log = await store.read_all(filter=filter)
            assert [event.version for event in log] == [0, 1, 2, 3] * 2
            assert await store.read_all_backwards(filter=filter) == log[::-1]
            async with closing(store.subscribe(START, filter=filter)) as subscription:
                assert await take(subscription, 8) == log
        assert await store.read_all(filter=EventFilter(types=("Nothing",))) == []
        assert await store.read_all_backwards(filter=EventFilter(types=("Nothing",))) == []
        assert len(await store.read_all(Position(FAR // 2))) == 4


async def test_the_last_position_is_kept_by_one_row(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    for round in range(5):
        await append(store, 1, 2)
        await store.remove([Removal(stream(1), 3)])
        await store.remove([Removal(stream(2), 3)])
        assert await store.end() == 8 * round + 7
        assert database.query("SELECT count(*) FROM events") == [(1,)]
        assert database.query("SELECT count(*) FROM streams") == [(0,)]
        assert await store.read_all() == await store.read_all_backwards() == []


async def test_another_process_removes(database: SqliteDatabase, store: SqliteStore) -> None:
    await append(store, 1, 2)
    async with await SqliteDatabase.open(database.path, clock=ManualClock()) as other:
        assert await SqliteStore(other).remove([Removal(stream(1), 3)]) == [stream(1)]
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append(Append(stream(1), new_events(1), ExpectedVersion(3)))
    assert caught.value.actual == -1
    await store.append(Append(stream(2), new_events(1), ExpectedVersion(3)))
    await append(store, 1)
    assert [event.position for event in await store.read(stream(1))] == [9, 10, 11, 12]


async def test_a_removal_costs_the_others_no_look(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    """The writer goes on knowing every stream but those that were removed."""
    await append(store, 1, 2)
    await store.remove([Removal(stream(1), 3)])
    log: list[str] = []

    def trace(transaction: Transaction) -> None:
        transaction.connection.set_trace_callback(log.append)

    await database.writer.perform(trace)
    log.clear()
    await store.append(Append(stream(2), new_events(1), ExpectedVersion(3)))
    assert {sql.split("(")[0] for sql in log if not sql.startswith("--")} == {
        "INSERT INTO batch VALUES "
    }


async def test_a_removal_that_fails_removes_nothing(
    database: SqliteDatabase, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(store, 1, 2)
    before = await store.read_all()

    def fail(self: Transaction, stream: str) -> None:
        error = sqlite3.OperationalError("on purpose")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    both = [Removal(stream(1), 3), Removal(stream(2), 3)]
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "forget", fail)
        with pytest.raises(StoreFull):
            await store.remove(both)
    assert await store.read_all() == before
    await store.append(Append(stream(1), new_events(1), ExpectedVersion(3)))
    assert await store.remove(both) == [stream(2)]

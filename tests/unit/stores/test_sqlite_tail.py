"""The end of the log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from amends.domain.ids import NO_STREAM, ExpectedVersion, Position, StreamName
from amends.errors import StoreUnavailable, WrongExpectedVersion
from amends.stores.port import EVERYTHING, Append, EventFilter, Removal
from amends.stores.sqlite.batch import Write
from amends.stores.sqlite.commit import BatchCommitter
from amends.stores.sqlite.database import SqliteDatabase
from amends.stores.sqlite.store import SqliteStore
from amends.stores.sqlite.tail import LogTail
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import new_events, soon

FIRST, SECOND = StreamName.of("saga.a", "1"), StreamName.of("saga.b", "1")


@pytest.fixture
async def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(await SqliteDatabase.open(tmp_path / "a.db", clock=ManualClock()))


def tail_of(store: SqliteStore) -> LogTail:
    return store._database.writer.tail


async def test_it_has_what_the_file_has(store: SqliteStore) -> None:
    await store.append(Append(FIRST, new_events(2), NO_STREAM))
    await store.append(Append(SECOND, new_events(3), NO_STREAM))
    await store.append(Append(FIRST, new_events(1), ExpectedVersion(1)))
    in_memory, at = [], Position(1)
    while found := tail_of(store).after(at, EVERYTHING):
        events, at = found
        in_memory += events
    assert in_memory == await store.read_all(Position(1))
    assert at == tail_of(store).end == await store.end()
    await store.close()


async def test_it_filters_and_still_says_how_far_it_looked(store: SqliteStore) -> None:
    await store.append(Append(FIRST, new_events(2), NO_STREAM))
    await store.append(Append(SECOND, new_events(3), NO_STREAM))
    filter = EventFilter(stream_prefixes=("saga.a",))
    assert tail_of(store).after(1, filter) == ([], 4)
    await store.close()


async def test_retries_and_lost_races_add_nothing(store: SqliteStore) -> None:
    append = Append(FIRST, new_events(2), NO_STREAM)
    await store.append(append)
    await store.append(Append(SECOND, new_events(1), NO_STREAM))
    await store.append(append)
    with pytest.raises(WrongExpectedVersion):
        await store.append(Append(SECOND, new_events(1), NO_STREAM))
    assert tail_of(store).end == 2
    assert tail_of(store).after(2, EVERYTHING) is None
    await store.close()


async def test_it_does_not_reach_over_what_another_process_wrote(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store.append(Append(FIRST, new_events(1), NO_STREAM))
    other = SqliteStore(await SqliteDatabase.open(tmp_path / "a.db"))
    await other.append(Append(SECOND, new_events(1), NO_STREAM))
    await store.append(Append(FIRST, new_events(1), ExpectedVersion(0)))
    assert tail_of(store).after(-1 + 0, EVERYTHING) is None
    assert tail_of(store).after(0, EVERYTHING) is None
    found = tail_of(store).after(1, EVERYTHING)
    assert found is not None
    assert found[0] == await store.read_all(Position(1))
    await other.close()
    await store.close()


async def test_what_was_removed_is_forgotten(store: SqliteStore) -> None:
    await store.append(Append(FIRST, new_events(1), NO_STREAM))
    await store.append(Append(SECOND, new_events(1), NO_STREAM))
    await store.remove([Removal(FIRST, ExpectedVersion(0))])
    assert tail_of(store).after(-1, EVERYTHING) is None
    await store.close()


async def test_it_stays_small(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "a.db")
    store = SqliteStore(database)
    database.writer.tail = tail = LogTail(bytes_max=4096)
    for version in range(-1, 99):
        await store.append(Append(FIRST, new_events(1), ExpectedVersion(version)))
    assert tail.after(98, EVERYTHING) is not None
    assert tail.after(0, EVERYTHING) is None
    assert len(tail._after) < 20
    await store.close()


async def test_a_retry_does_not_pass_for_the_end_of_the_log(tmp_path: Path) -> None:
    append = Append(FIRST, new_events(1), NO_STREAM)
    async with await SqliteDatabase.open(tmp_path / "a.db") as database:
        await SqliteStore(database).append(append)
        await SqliteStore(database).append(Append(SECOND, new_events(1), NO_STREAM))
    store = SqliteStore(await SqliteDatabase.open(tmp_path / "a.db"))
    assert (await store.append(append)).position == 0
    assert (await soon(anext(store.subscribe(Position(0))))).position == 1
    await store.close()


async def test_what_may_have_been_committed_is_looked_up(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = BatchCommitter.write

    def unsure(self: BatchCommitter, writes: Sequence[Write]) -> list[Write]:
        done = write(self, writes)
        for each in done:
            each.error = StoreUnavailable("who knows")
        return done

    await store.append(Append(FIRST, new_events(1), NO_STREAM))
    with monkeypatch.context() as patch:
        patch.setattr(BatchCommitter, "write", unsure)
        with pytest.raises(StoreUnavailable):
            await store.append(Append(SECOND, new_events(1), NO_STREAM))
    assert (await soon(anext(store.subscribe(Position(0))))).position == 1
    await store.close()


async def test_what_was_removed_is_forgotten_also_if_nobody_waits_for_the_removal(
    store: SqliteStore,
) -> None:
    await store.append(Append(FIRST, new_events(1), NO_STREAM))
    removing = asyncio.ensure_future(store.remove([Removal(FIRST, ExpectedVersion(0))]))
    await asyncio.sleep(0)
    removing.cancel()
    await store.append(Append(SECOND, new_events(1), NO_STREAM))
    assert tail_of(store).after(-1, EVERYTHING) is None
    await store.close()


@pytest.mark.parametrize("is_behind", [False, True])
async def test_a_file_that_is_busy_for_a_moment_does_not_end_a_subscription(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_behind: bool
) -> None:
    await store.append(Append(FIRST, new_events(2), NO_STREAM))
    query, busy = store._database.query, 2

    def query_busy(sql: str, parameters: object = ()) -> list[object]:
        nonlocal busy
        if busy:
            busy -= 1
            raise StoreUnavailable("the file is busy")
        return query(sql, parameters)

    monkeypatch.setattr(store._database, "query", query_busy)
    tail_of(store).forget()  # only the file tells where the log ends
    subscription = store.subscribe(Position(-1 if is_behind else 1))
    following = asyncio.ensure_future(anext(subscription))
    while busy and not following.done():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    if not is_behind:
        await store.append(Append(SECOND, new_events(1), NO_STREAM))
    assert (await soon(following)).stream == (FIRST if is_behind else SECOND)
    await store.close()

"""Group commit: many callers, one transaction; what fails fails alone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from amends.domain.envelope import NewEvent
from amends.domain.ids import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, StreamName
from amends.errors import (
    StoreClosed,
    StoreError,
    StoreUnavailable,
    UsageError,
    WrongExpectedVersion,
)
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore, batch, writer
from amends.stores.sqlite.commit import BatchCommitter, Transaction
from amends.stores.sqlite.schema import ROWS_MAX, SIZES
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import as_new, new_event, new_events, soon

STREAM = StreamName.of("saga.transfer", "1")


def stream(n: int) -> StreamName:
    return StreamName.of("saga.transfer", str(n))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with await SqliteDatabase.open(tmp_path / "a.db", clock=ManualClock()) as database:
        yield database


@pytest.fixture
def store(database: SqliteDatabase) -> SqliteStore:
    return SqliteStore(database)


class Hold:
    """Keeps the writer thread busy until it is let go."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._go = threading.Event()
        self._entered = threading.Event()
        self._task = asyncio.ensure_future(database.writer.perform(self._wait))

    def _wait(self, transaction: Transaction) -> None:
        self._entered.set()
        assert self._go.wait(20)

    async def begun(self) -> Hold:
        await asyncio.to_thread(self._entered.wait, 20)
        return self

    async def let_go(self) -> None:
        self._go.set()
        await self._task


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many writes each batch had."""
    sizes: list[int] = []
    write = BatchCommitter.write

    def counted(self: BatchCommitter, writes: Sequence[Any]) -> list[Any]:
        sizes.append(len(writes))
        return write(self, writes)

    monkeypatch.setattr(BatchCommitter, "write", counted)
    return sizes


async def statements(database: SqliteDatabase, log: list[str]) -> None:
    """Log every statement of the writer from now on."""

    def note(sql: str) -> None:
        # What the triggers do is traced as their statement again and again.
        if not log or log[-1] != sql:
            log.append(sql)

    def trace(transaction: Transaction) -> None:
        transaction.connection.set_trace_callback(note)

    await database.writer.perform(trace)
    log.clear()


async def test_what_waits_together_is_committed_together(
    database: SqliteDatabase, store: SqliteStore, batches: list[int]
) -> None:
    hold = await Hold(database).begun()
    appends = [
        asyncio.ensure_future(store.append(Append(stream(n), new_events(3), NO_STREAM)))
        for n in range(200)
    ]
    await asyncio.sleep(0)
    await hold.let_go()
    positions = [appended.position for appended in await asyncio.gather(*appends)]
    assert batches == [200]
    assert positions == [3 * n + 2 for n in range(200)]


async def test_the_usual_batch_is_one_statement(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    """Each statement costs the thread the interpreter lock twice; see `schema`."""
    await store.append(Append(stream(0), new_events(2), NO_STREAM))
    log: list[str] = []
    await statements(database, log)
    hold = await Hold(database).begun()
    log.clear()
    appends = [
        asyncio.ensure_future(
            store.append(Append(stream(n), new_events(2), NO_STREAM if n else ExpectedVersion(1)))
        )
        for n in range(50)
    ]
    await asyncio.sleep(0)
    await hold.let_go()
    await asyncio.gather(*appends)
    assert [sql.split("(")[0] for sql in log] == ["COMMIT", "INSERT INTO batch VALUES "]


async def test_a_lost_race_disturbs_nobody_else(
    database: SqliteDatabase, store: SqliteStore, batches: list[int]
) -> None:
    await store.append(Append(STREAM, new_events(1), NO_STREAM))
    batches.clear()
    hold = await Hold(database).begun()
    appends = [
        asyncio.ensure_future(
            store.append(
                Append(STREAM if n % 3 == 0 else stream(100 + n), new_events(2), NO_STREAM)
            )
        )
        for n in range(30)
    ]
    await asyncio.sleep(0)
    await hold.let_go()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert batches == [30]
    for n, outcome in enumerate(outcomes):
        assert isinstance(outcome, WrongExpectedVersion) == (n % 3 == 0)
    assert len(await store.read_all()) == 1 + 20 * 2


async def test_the_first_of_a_batch_to_extend_a_stream_wins(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    hold = await Hold(database).begun()
    given = [new_events(1) for _ in range(5)]
    appends = [
        asyncio.ensure_future(store.append(Append(STREAM, events, ExpectedVersion(n // 2 - 1))))
        for n, events in enumerate(given)
    ]
    await asyncio.sleep(0)
    await hold.let_go()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(outcome, WrongExpectedVersion) for outcome in outcomes] == [
        False, True, False, True, False,
    ]  # fmt: skip
    assert as_new(await store.read(STREAM)) == [given[0][0], given[2][0], given[4][0]]


async def test_what_cannot_be_stored_disturbs_nobody_else(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    hold = await Hold(database).begun()
    appends = [
        asyncio.ensure_future(
            store.append(Append(stream(n), [new_event("\ud800" if n == 3 else "Ok")], NO_STREAM))
        )
        for n in range(10)
    ]
    await asyncio.sleep(0)
    await hold.let_go()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, UsageError)] == [3]
    assert len(await store.read_all()) == 9


async def test_a_failed_commit_fails_every_write_of_the_batch(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    await store.append(Append(STREAM, new_events(1), NO_STREAM))
    await database.limit_size(1)
    hold = await Hold(database).begun()
    big = [new_event(data=b'{"x":"%s"}' % (b"x" * 60_000)) for _ in range(2)]
    appends = [
        asyncio.ensure_future(store.append(Append(stream(10 + n), big, NO_STREAM)))
        for n in range(5)
    ]
    await asyncio.sleep(0)
    await hold.let_go()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert all(isinstance(outcome, StoreError) for outcome in outcomes)
    assert len(await store.read_all()) == 1


async def test_what_is_committed_is_not_said_to_have_failed_with_the_rest(
    database: SqliteDatabase, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of which one write must be looked at carefully, for which the file is then locked."""
    await store.append(Append(STREAM, new_events(1), NO_STREAM))

    def locked(self: BatchCommitter, writes: object) -> list[Any]:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    hold = await Hold(database).begun()
    appends = [
        asyncio.ensure_future(store.append(Append(name, new_events(1), NO_STREAM)))
        for name in (stream(2), STREAM, stream(3))
    ]
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(BatchCommitter, "_careful", locked)
        await hold.let_go()
        outcomes = await soon(asyncio.gather(*appends, return_exceptions=True))
    failed = [isinstance(outcome, StoreUnavailable) for outcome in outcomes]
    assert failed == [False, True, False]
    assert len(await store.read_all()) == 3


@pytest.mark.parametrize("count", [1, 2, ROWS_MAX - 2, ROWS_MAX - 1, ROWS_MAX, 3 * ROWS_MAX + 7])
async def test_any_number_of_events_is_whole(store: SqliteStore, count: int) -> None:
    events = new_events(count)
    assert (await store.append(Append(STREAM, events, NO_STREAM))).version == count - 1
    assert as_new(await store.read(STREAM)) == events
    assert (await store.append(Append(STREAM, events, NO_STREAM))).version == count - 1
    assert len(await store.read_all(limit=10_000)) == count


def test_statements_come_in_few_sizes() -> None:
    assert list(SIZES) == sorted(set(SIZES))
    assert SIZES[0] == 1
    assert SIZES[-1] == ROWS_MAX
    assert all(larger <= 2 * smaller for smaller, larger in pairwise(SIZES))
    assert len(SIZES) < 20  # the connection keeps 128 prepared statements


# --- retries


async def test_a_retry_is_recognised_however_far_back_it_is(store: SqliteStore) -> None:
    open_ended = Append(STREAM, new_events(2), ANY)
    first = await store.append(open_ended)
    for _ in range(3):
        await store.append(Append(STREAM, new_events(400), STREAM_EXISTS))
    assert await store.append(open_ended) == first
    assert await store.append(open_ended._replace(expected=STREAM_EXISTS)) == first
    assert len(await store.read(STREAM)) == 1202


async def test_a_retry_under_another_expectation_is_recognised_near_the_end(
    store: SqliteStore,
) -> None:
    exact = Append(STREAM, new_events(2), NO_STREAM)
    first = await store.append(exact)
    assert await store.append(exact._replace(expected=ANY)) == first


async def test_half_a_retry_is_a_conflict(store: SqliteStore) -> None:
    one, two, three = new_events(3)
    await store.append(Append(STREAM, [one, two], ANY))
    for events in ([two, three], [three, one], [one, three]):
        with pytest.raises(WrongExpectedVersion):
            await store.append(Append(STREAM, events, ANY))
    assert as_new(await store.read(STREAM)) == [one, two]


async def test_copies_in_one_batch_are_one_append(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    for expected in (NO_STREAM, ANY):
        name = StreamName.of("copies", str(int(expected)).replace("-", "m"))
        append = Append(name, new_events(2), expected)
        hold = await Hold(database).begun()
        appends = [asyncio.ensure_future(store.append(append)) for _ in range(10)]
        await asyncio.sleep(0)
        await hold.let_go()
        outcomes = await asyncio.gather(*appends)
        assert len(set(outcomes)) == 1
        assert as_new(await store.read(name)) == append.events


async def test_a_retry_writes_nothing(database: SqliteDatabase, store: SqliteStore) -> None:
    append = Append(STREAM, new_events(2), NO_STREAM)
    await store.append(append)
    before = await database.read("SELECT n FROM head")
    await store.append(append)
    with pytest.raises(WrongExpectedVersion):
        await store.append(append._replace(events=new_events(1)))
    assert await database.read("SELECT n FROM head") == before


async def test_streams_that_were_forgotten_are_looked_up(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "STREAMS_KNOWN_MAX", 10)
    for version in range(-1, 2):
        for n in range(40):
            await store.append(Append(stream(n), new_events(1), ExpectedVersion(version)))
    for n in range(40):
        with pytest.raises(WrongExpectedVersion):
            await store.append(Append(stream(n), new_events(1), NO_STREAM))
        assert len(await store.read(stream(n))) == 3


# --- bounds, cancelling, closing


async def test_submitters_wait_when_too_much_is_pending(
    database: SqliteDatabase, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PENDING_BYTES_MAX", 50_000)
    hold = await Hold(database).begun()
    data = b'{"x":"%s"}' % (b"x" * 10_000)
    appends = [
        asyncio.ensure_future(store.append(Append(stream(n), [new_event(data=data)], NO_STREAM)))
        for n in range(100)
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    pending = database.writer
    assert pending._pending_bytes < 70_000
    assert len(pending._waiting) > 90
    await hold.let_go()
    await soon(asyncio.gather(*appends))
    assert (pending._pending_bytes, len(pending._waiting)) == (0, 0)
    assert len(await store.read_all()) == 100


async def test_nobody_waits_for_a_locked_file_again_and_again(
    database: SqliteDatabase,
    store: SqliteStore,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "BATCH_WORKS_MAX", 5)
    hold = await Hold(database).begun()
    appends = [
        asyncio.ensure_future(store.append(Append(stream(n), new_events(1), NO_STREAM)))
        for n in range(40)
    ]
    await asyncio.sleep(0)
    committer = database.writer._committer
    committer._connection = Locked(committer._connection)  # type: ignore[assignment]
    await hold.let_go()
    outcomes = await soon(asyncio.gather(*appends, return_exceptions=True))
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert batches == [5]  # the others had waited meanwhile
    await store.append(Append(STREAM, new_events(1), NO_STREAM))
    assert len(await store.read_all()) == 1


async def test_cancelling_those_who_wait_harms_nobody_else(
    database: SqliteDatabase, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PENDING_BYTES_MAX", 20_000)
    hold = await Hold(database).begun()
    data = b'{"x":"%s"}' % (b"x" * 5_000)
    appends = [
        asyncio.ensure_future(store.append(Append(stream(n), [new_event(data=data)], NO_STREAM)))
        for n in range(40)
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    for n, append in enumerate(appends):
        if n % 2:
            append.cancel()
    await hold.let_go()
    outcomes = await soon(asyncio.gather(*appends, return_exceptions=True))
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
        bool(n % 2) for n in range(40)
    ]
    for n in range(0, 40, 2):
        assert len(await store.read(stream(n))) == 1
    # Those that were handed over before they were cancelled may be there: whole, and once.
    assert len(await store.read_all()) <= 40
    assert database.writer._pending_bytes == 0


async def test_a_cancelled_append_can_be_repeated(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    append = Append(STREAM, new_events(2), NO_STREAM)
    hold = await Hold(database).begun()
    cancelled = asyncio.ensure_future(store.append(append))
    await asyncio.sleep(0)
    cancelled.cancel()
    await hold.let_go()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert (await store.append(append)).version == 1
    assert as_new(await store.read(STREAM)) == append.events


async def test_those_who_wait_for_room_learn_of_the_end(
    database: SqliteDatabase, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PENDING_BYTES_MAX", 1)
    hold = await Hold(database).begun()
    appends = [
        asyncio.ensure_future(store.append(Append(stream(n), new_events(1), NO_STREAM)))
        for n in range(10)
    ]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    await hold.let_go()
    await soon(closing)
    outcomes = await soon(asyncio.gather(*appends, return_exceptions=True))
    assert all(isinstance(outcome, StoreClosed) for outcome in outcomes)


async def test_a_task_that_fails_leaves_nothing_and_disturbs_nobody(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO queues (name) VALUES ('half')")
        raise ValueError("on purpose")

    failing, appending = await asyncio.gather(
        database.writer.perform(fail),
        store.append(Append(STREAM, new_events(1), NO_STREAM)),
        return_exceptions=True,
    )
    assert isinstance(failing, UsageError)
    assert not isinstance(appending, BaseException)
    assert await database.read("SELECT count(*) FROM queues") == [(0,)]


async def test_a_bug_in_the_writer_is_told_and_survived(
    database: SqliteDatabase, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BatchCommitter, writes: object) -> list[Any]:
        raise AssertionError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(BatchCommitter, "write", broken)
        with pytest.raises(StoreError, match="on purpose"):
            await soon(store.append(Append(STREAM, new_events(1), NO_STREAM)))
    await soon(store.append(Append(STREAM, new_events(1), NO_STREAM)))


# --- what is known without reading


def others(path: Path) -> Callable[[StreamName, list[NewEvent], ExpectedVersion], Any]:
    """Appends through another connection, as another process would."""

    async def append(name: StreamName, events: list[NewEvent], expected: ExpectedVersion) -> None:
        async with await SqliteDatabase.open(path, clock=ManualClock()) as other:
            await SqliteStore(other).append(Append(name, events, expected))

    return append


async def test_what_others_wrote_is_never_overlooked(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    other = others(database.path)
    ours, theirs = new_events(20), new_events(20)
    for n in range(20):
        await store.append(Append(STREAM, [ours[n]], ExpectedVersion(2 * n - 1)))
        await other(STREAM, [theirs[n]], ExpectedVersion(2 * n))
        with pytest.raises(WrongExpectedVersion) as caught:
            await store.append(Append(STREAM, new_events(1), ExpectedVersion(2 * n)))
        assert caught.value.actual == 2 * n + 1
        await other(stream(100 + n), new_events(1), NO_STREAM)
        with pytest.raises(WrongExpectedVersion):
            await store.append(Append(stream(100 + n), new_events(1), NO_STREAM))
    recorded = as_new(await store.read(STREAM))
    assert recorded[::2] == ours
    assert recorded[1::2] == theirs
    log = await store.read_all()
    assert [event.position for event in log] == list(range(60))


class Failing:
    """A connection whose next COMMIT fails as a bad disk makes it fail."""

    SQL = "COMMIT"
    CODE = sqlite3.SQLITE_IOERR_FSYNC

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._fails = True

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith(self.SQL) and self._fails:
            self._fails = False
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            error = sqlite3.OperationalError("on purpose")
            error.sqlite_errorcode = self.CODE
            raise error
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Locked(Failing):
    """A connection that once waits for another process, in vain."""

    SQL = "INSERT INTO batch"
    CODE = sqlite3.SQLITE_BUSY


async def test_what_a_failed_commit_would_have_written_is_not_believed(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    await store.append(Append(STREAM, new_events(1), NO_STREAM))
    hold = await Hold(database).begun()
    committer = database.writer._committer
    # A conflict makes the batch go the careful way, with a COMMIT of its own.
    appends = [
        asyncio.ensure_future(store.append(Append(name, new_events(1), version)))
        for name, version in ((STREAM, STREAM_EXISTS), (STREAM, NO_STREAM))
    ]
    await asyncio.sleep(0)
    committer._connection = Failing(committer._connection)  # type: ignore[assignment]
    await hold.let_go()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert all(isinstance(outcome, StoreError) for outcome in outcomes)
    # Exactly one commit of somebody else: the counter is where the failed one would have put it.
    await others(database.path)(stream(2), new_events(1), NO_STREAM)
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append(Append(STREAM, new_events(1), ExpectedVersion(1)))
    assert caught.value.actual == 0
    await store.append(Append(STREAM, new_events(1), ExpectedVersion(0)))
    assert [event.position for event in await store.read_all()] == [0, 1, 2]

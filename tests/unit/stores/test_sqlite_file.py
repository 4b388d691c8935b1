"""What is opened, what is refused, and what an unusable file means."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amends.domain.ids import ANY, NO_STREAM, START, ExpectedVersion, StreamName
from amends.errors import (
    EngineAlreadyRunning,
    NotAnAmendsStore,
    StoreClosed,
    StoreCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    UsageError,
)
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.stores.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import as_new, new_event, new_events, soon

STREAM = StreamName.of("saga.transfer", "1")
NOBODY = 65534


async def open_file(path: Path, *, busy_timeout_s: float = 5.0) -> SqliteDatabase:
    return await SqliteDatabase.open(path, clock=ManualClock(), busy_timeout_s=busy_timeout_s)


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be somebody whom permissions apply to."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can get to, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


async def test_a_new_file_says_what_it_is(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "new.db"):
        pass
    with sqlite3.connect(tmp_path / "new.db") as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    async with await open_file(tmp_path / "empty.db") as database:
        await SqliteStore(database).append(Append(STREAM, new_events(1), NO_STREAM))


async def test_the_file_itself_refuses_what_must_be_unique(tmp_path: Path) -> None:
    """Whoever writes, and whatever they believe to know."""
    async with await open_file(tmp_path / "a.db") as database:
        await SqliteStore(database).append(Append(STREAM, new_events(1), NO_STREAM))
    connection = sqlite3.connect(tmp_path / "a.db")
    for statement in (
        "INSERT INTO streams (name) SELECT name FROM streams",
        "INSERT INTO events (stream, version, id, type, data, metadata, recorded_at) "
        "SELECT stream, version, zeroblob(16), type, data, metadata, recorded_at FROM events",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute(statement)
    connection.close()


async def test_every_commit_is_synchronised(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "a.db") as database:
        mode = await database.writer.perform(
            lambda transaction: transaction.execute("PRAGMA synchronous").fetchone()
        )
    assert mode == (2,)  # FULL


async def test_a_file_may_be_made_by_several_at_once(tmp_path: Path) -> None:
    for n in range(10):
        opened = await asyncio.gather(*(open_file(tmp_path / f"{n}.db") for _ in range(5)))
        for database in opened:
            await database.close()


@pytest.mark.parametrize("name", ["a b.db", "Žluťoučký.db", "50%25 ?x=1#y.db"])
async def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    for expected in (NO_STREAM, ExpectedVersion(0)):
        async with await open_file(tmp_path / name) as database:
            await SqliteStore(database).append(Append(STREAM, new_events(1), expected))
    assert (tmp_path / name).exists()


async def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with await open_file(Path("here.db")) as database:
        monkeypatch.chdir(tmp_path.parent)
        await SqliteStore(database).append(Append(STREAM, new_events(1), NO_STREAM))
        assert await database.count(("SELECT count(*) FROM events", [])) == [[(1,)]]


@pytest.mark.parametrize("path", [":memory:", "file:x.db?mode=memory"])
async def test_memory_is_no_file(path: str) -> None:
    with pytest.raises(UsageError, match="memory"):
        await SqliteDatabase.open(path)


# --- somebody else's file


@pytest.mark.parametrize("content", [b"x", b"# My diary\n" * 1000, b"\0" * 10_000])
async def test_what_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "diary.txt").write_bytes(content)
    before = fingerprint(tmp_path)
    with pytest.raises(NotAnAmendsStore, match="not an Amends database"):
        await open_file(tmp_path / "diary.txt")
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("application_id", [0, 12345])
async def test_the_database_of_another_application_is_left_alone(
    tmp_path: Path, journal_mode: str, application_id: int
) -> None:
    connection = sqlite3.connect(tmp_path / "theirs.db")
    connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute("CREATE TABLE events (a)")
    connection.commit()
    connection.close()
    before = fingerprint(tmp_path)
    with pytest.raises(NotAnAmendsStore, match="another application"):
        await open_file(tmp_path / "theirs.db")
    assert fingerprint(tmp_path) == before


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "newer.db"):
        pass
    connection = sqlite3.connect(tmp_path / "newer.db", isolation_level=None)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = fingerprint(tmp_path)
    with pytest.raises(NotAnAmendsStore, match=f"schema version {SCHEMA_VERSION + 1}"):
        await open_file(tmp_path / "newer.db")
    assert fingerprint(tmp_path) == before


# --- a file that cannot be used


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="missing is no directory"):
        await open_file(tmp_path / "missing" / "a.db")
    assert fingerprint(tmp_path) == {}


async def test_a_file_that_may_not_be_written(open_folder: Path) -> None:
    path = open_folder / "a.db"
    async with await open_file(path):
        pass
    os.chmod(path, 0o444)
    with unprivileged(), pytest.raises(StoreReadOnly):
        await open_file(path)
    os.chmod(path, 0o666)
    async with await open_file(path):
        pass


async def test_a_folder_that_may_not_be_written(open_folder: Path) -> None:
    path = open_folder / "a.db"
    async with await open_file(path):
        pass
    os.chmod(path, 0o666)
    os.chmod(open_folder, 0o555)
    with unprivileged():
        with pytest.raises(StoreReadOnly):
            await open_file(path)
        with pytest.raises(StoreReadOnly):
            await open_file(open_folder / "new.db")


@pytest.mark.parametrize("first_bad_byte", [100, 4096])
async def test_a_damaged_file_is_found_out(tmp_path: Path, first_bad_byte: int) -> None:
    path = tmp_path / "a.db"
    async with await open_file(path) as database:
        await SqliteStore(database).append(Append(STREAM, new_events(100), NO_STREAM))
    content = bytearray(path.read_bytes())
    content[first_bad_byte:] = b"\xa5" * (len(content) - first_bad_byte)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="restore from a backup"):
        await open_file(path)


async def test_damage_in_the_middle_is_found_when_it_is_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with await open_file(path) as database:
        store = SqliteStore(database)
        await store.append(Append(STREAM, new_events(500), NO_STREAM))
    connection = sqlite3.connect(path)
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'events_by_stream'"
    ).fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    async with await open_file(path) as database:
        store = SqliteStore(database)
        with pytest.raises(StoreCorrupt):
            await store.read(STREAM)
        with pytest.raises(StoreCorrupt):
            await store.append(Append(STREAM, new_events(1), ExpectedVersion(499)))


async def test_a_locked_file_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "a.db", busy_timeout_s=0.05) as database:
        store = SqliteStore(database)
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await soon(store.append(Append(STREAM, new_events(1), NO_STREAM)))
        assert await store.read(STREAM) == []  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        await store.append(Append(STREAM, new_events(1), NO_STREAM))


async def test_a_write_goes_on_when_the_other_lets_go(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "a.db", busy_timeout_s=20.0) as database:
        store = SqliteStore(database)
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(store.append(Append(STREAM, new_events(1), NO_STREAM)))
        await store.read(STREAM)
        assert not waiting.done()
        other.execute("COMMIT")
        other.close()
        await soon(waiting)


async def test_opening_a_locked_new_file_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable):
        await soon(open_file(tmp_path / "a.db", busy_timeout_s=0.05))
    other.close()
    async with await open_file(tmp_path / "a.db"):
        pass


# --- a full disk


async def test_a_full_file_keeps_nothing_by_halves_and_is_usable_again(tmp_path: Path) -> None:
    data = b'{"x":"%s"}' % (b"x" * 2000)
    async with await open_file(tmp_path / "a.db") as database:
        store = SqliteStore(database)
        await database.limit_size(400_000)

        async def fill() -> None:
            for n in range(100):
                events = [new_event(data=data) for _ in range(10)]
                await store.append(Append(STREAM, events, ExpectedVersion(n * 10 - 1)))

        with pytest.raises(StoreFull, match="nothing of this write was kept"):
            await fill()
        written = (await store.end()) + 1
        assert 0 < written < 1000
        assert written % 10 == 0
        assert len(await store.read(STREAM)) == written
        await database.limit_size(4_000_000)
        await store.append(Append(STREAM, new_events(10), ExpectedVersion(written - 1)))
        assert len(await store.read(STREAM)) == written + 10


async def test_an_append_of_many_statements_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    data = b'{"x":"%s"}' % (b"x" * 300)
    events = [new_event(data=data) for _ in range(3000)]
    async with await open_file(tmp_path / "a.db") as database:
        store = SqliteStore(database)
        await database.limit_size(1_000_000)
        with pytest.raises(StoreFull):
            await store.append(Append(STREAM, events, NO_STREAM))
        assert await store.end() == START
        await database.limit_size(10_000_000)
        await store.append(Append(STREAM, events, NO_STREAM))
        assert len(await store.read(STREAM)) == 3000


async def test_what_fits_is_kept_when_something_else_in_the_batch_does_not(tmp_path: Path) -> None:
    huge = [new_event(data=b'{"x":"%s"}' % (b"x" * 500_000))]
    async with await open_file(tmp_path / "a.db") as database:
        store = SqliteStore(database)
        await database.limit_size(400_000)
        streams = [StreamName.of("saga.transfer", str(n)) for n in range(20)]
        outcomes = await asyncio.gather(
            *(
                store.append(Append(stream, huge if n == 7 else new_events(3), NO_STREAM))
                for n, stream in enumerate(streams)
            ),
            return_exceptions=True,
        )
        failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
        assert failed == [7]
        assert isinstance(outcomes[7], StoreFull)
        for n, stream in enumerate(streams):
            assert len(await store.read(stream)) == (0 if n == 7 else 3)


# --- one engine


async def test_two_engines_exclude_each_other(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "a.db") as first:
        first.acquire_engine_lock()
        first.acquire_engine_lock()
        async with await open_file(tmp_path / "a.db") as second:
            with pytest.raises(EngineAlreadyRunning, match=f"process {os.getpid()}, running since"):
                second.acquire_engine_lock()
            # A client needs no lock.
            await SqliteStore(second).append(Append(STREAM, new_events(1), NO_STREAM))
            await first.close()
            second.acquire_engine_lock()


async def test_a_lock_file_without_a_holder_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.db.engine").write_text('{"pid": 1, "started_at": "long ago", "more": "text"}')
    async with await open_file(tmp_path / "a.db") as database:
        database.acquire_engine_lock()


async def test_a_holder_that_has_not_written_its_name_yet(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "a.db") as first:
        first.acquire_engine_lock()
        (tmp_path / "a.db.engine").write_text("")
        async with await open_file(tmp_path / "a.db") as second:
            with pytest.raises(EngineAlreadyRunning, match="another process"):
                second.acquire_engine_lock()


# --- closing


async def test_what_was_accepted_is_committed_before_the_file_is_closed(tmp_path: Path) -> None:
    given = [new_events(3) for _ in range(50)]
    streams = [StreamName.of("saga.transfer", str(n)) for n in range(50)]
    async with await open_file(tmp_path / "a.db") as database:
        store = SqliteStore(database)
        appends = [
            asyncio.ensure_future(store.append(Append(stream, events, NO_STREAM)))
            for stream, events in zip(streams, given, strict=True)
        ]
        await asyncio.sleep(0)
        await database.close()
        assert all(append.done() for append in appends)
    async with await open_file(tmp_path / "a.db") as database:
        for stream, events in zip(streams, given, strict=True):
            assert as_new(await SqliteStore(database).read(stream)) == events
    assert not (tmp_path / "a.db-wal").exists()


async def test_a_closed_database_refuses_everything(tmp_path: Path) -> None:
    database = await open_file(tmp_path / "a.db")
    await database.close()
    await database.close()
    with pytest.raises(StoreClosed):
        await SqliteStore(database).append(Append(STREAM, new_events(1), ANY))
    with pytest.raises(StoreClosed):
        await database.read("SELECT 1")
    with pytest.raises(StoreClosed):
        await database.count(("SELECT 1", []))
    with pytest.raises(StoreClosed):
        await database.limit_size(10**9)

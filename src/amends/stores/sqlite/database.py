"""Opening the file: whose it is, how its connections are set up, and how it is closed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from amends.domain.clock import Clock, SystemClock
from amends.errors import (
    NotAnAmendsStore,
    StoreClosed,
    StoreError,
    StoreReadOnly,
    StoreUnavailable,
    UsageError,
)
from amends.stores.sqlite.commit import BatchCommitter
from amends.stores.sqlite.errors import primary_code, translate
from amends.stores.sqlite.lock import EngineLock
from amends.stores.sqlite.schema import APPLICATION_ID, BATCH, SCHEMA_VERSION, TABLES
from amends.stores.sqlite.writer import Writer

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
#: A busy file is tried again after this, by reads, which must not block the event loop.
_READ_RETRY_S: Final = 0.01
#: The log is copied into the file each time it has grown by so many pages (of 4 KiB).
_CHECKPOINT_PAGES: Final = 4000


class SqliteDatabase:
    """One file, shared by a `SqliteStore` and an `EmbeddedBroker`. Use `open`.

    Several processes may have the file open; each has one writer, and SQLite lets one of them
    write at a time. Belongs to the event loop in which it was opened.
    """

    def __init__(
        self, path: Path, clock: Clock, busy_timeout_s: float, reader: sqlite3.Connection,
        writer: Writer,
    ) -> None:  # fmt: skip
        self.path = path
        self.clock = clock
        self.writer = writer
        self._busy_timeout_s = busy_timeout_s
        self._reader = reader
        self._engine_lock: EngineLock | None = None
        self._closed = False
        #: Called in the event loop when the database is closed.
        self.on_close: list[Callable[[], None]] = []

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        clock: Clock | None = None,
        busy_timeout_s: float = 5.0,
    ) -> SqliteDatabase:
        """Open the file, or make it.

        `busy_timeout_s` bounds how long a write waits for another process that is writing.
        Raises NotAnAmendsStore (the file is something else and was not touched, or was written
        by a newer release), StoreReadOnly, StoreCorrupt, StoreUnavailable, and UsageError for
        `:memory:`, which several connections cannot share.
        """
        if str(path) == ":memory:" or str(path).startswith("file:"):
            raise UsageError(
                f"{str(path)!r} is no path of a file. For tests without a file use the memory "
                "store and broker; otherwise name a file."
            )
        whole, writing, reader = await asyncio.to_thread(_open_both, path, busy_timeout_s)
        writer = Writer(BatchCommitter(writing, str(whole)), writing.close)
        return cls(whole, clock or SystemClock(), busy_timeout_s, reader, writer)

    async def __aenter__(self) -> SqliteDatabase:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def acquire_engine_lock(self) -> None:
        """Claim the file for the engine of this process, until `close` or the process's death.

        Clients do without. Raises EngineAlreadyRunning, which names the other's process id.
        """
        if self._engine_lock is None:
            self._engine_lock = EngineLock(self.path, self.clock.now())

    def now_us(self) -> int:
        """The clock's present moment, in whole microseconds since 1970, UTC."""
        return to_us(self.clock.now())

    def query(self, sql: str, parameters: Any = ()) -> list[Any]:
        """Read a few rows at once, in the event loop; they must be few and cheap to find.

        Not in a thread, which is slower even when nothing else runs, and much slower when
        something does: it would have to win back the interpreter lock for every row. Reading
        never waits for a writer. Raises StoreUnavailable when the file is busy (being recovered
        after a crash, say), see `patiently`, and StoreClosed, StoreCorrupt.
        """
        self.check_open()
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translate(error, str(self.path)) from error

    async def patiently(self, look: Callable[[], T]) -> T:
        """Call a function that uses `query`, again while the file is busy, for a bounded time.

        It is called without an await behind its queries, so what it found is up to date.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._busy_timeout_s
        while True:
            try:
                return look()
            except StoreUnavailable:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_READ_RETRY_S)

    async def read(self, sql: str, parameters: Any = ()) -> list[Any]:
        """`query`, patiently. Lets others run first: whoever reads in a loop must not keep them."""
        await asyncio.sleep(0)
        return await self.patiently(lambda: self.query(sql, parameters))

    async def count(self, *queries: tuple[str, Sequence[Any]]) -> list[list[Any]]:
        """Read what may take long to find: in a thread, on a connection and one snapshot of its own.

        Each query is SQL and its parameters; its answer should have few rows.
        """
        self.check_open()
        return await asyncio.to_thread(self._count, queries)

    def _count(self, queries: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
        try:
            connection = _connect(self.path, self._busy_timeout_s)
            try:
                connection.execute("BEGIN")
                return [connection.execute(*query).fetchall() for query in queries]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise translate(error, str(self.path)) from error

    async def limit_size(self, bytes_max: int) -> None:
        """Let the file grow to this many bytes and no further: then writes raise StoreFull.

        Holds until the database is closed; a limit below the present size stops its growth.
        """

        def limit(transaction: Any) -> None:
            size = transaction.execute("PRAGMA page_size").fetchone()[0]
            transaction.execute(f"PRAGMA max_page_count = {max(1, bytes_max // size)}")

        await self.writer.perform(limit)

    def check_open(self) -> None:
        """Raise StoreClosed if it is closed."""
        if self._closed:
            raise StoreClosed(f"{self.path} is closed; nothing was written. Open it again.")

    async def close(self) -> None:
        """Commit what was accepted, then release everything, the engine lock too. Idempotent."""
        await self.writer.close()
        if not self._closed:
            self._closed = True
            self._reader.close()
            self.writer.changed.ring()
            for listener in list(self.on_close):
                listener()
        if self._engine_lock is not None:
            self._engine_lock.release()


def to_us(moment: datetime) -> int:
    """Whole microseconds since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The moment of `to_us`."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _open_both(
    given: str | Path, busy_timeout_s: float
) -> tuple[Path, sqlite3.Connection, sqlite3.Connection]:
    """The whole path, the connection that writes and the one that reads."""
    path = Path(given).absolute()
    try:
        is_new = _check_identity(path)
        writing = _connect(path, busy_timeout_s)
        try:
            if is_new:
                _create(writing, path)
            _set_up(writing, path)
            reader = _connect(path, 0.0)
            reader.execute("PRAGMA query_only = ON")
            reader.execute("SELECT n FROM head").fetchone()
        except BaseException:
            writing.close()
            raise
    except sqlite3.Error as error:
        raise _opening_error(error, path) from error
    return path, writing, reader


def _opening_error(error: sqlite3.Error, path: Path) -> StoreError:
    if primary_code(error) != sqlite3.SQLITE_CANTOPEN:
        return translate(error, str(path))
    if not path.parent.is_dir():
        return StoreUnavailable(f"{path.parent} is no directory; make it, and open {path} again")
    return StoreReadOnly(
        f"{path} cannot be opened or made: its directory must allow writing, because SQLite puts "
        "its -wal and -shm files there. Nothing was changed."
    )


def _check_identity(path: Path) -> bool:
    """Whether the file is new. Raises NotAnAmendsStore without having touched what it is."""
    try:
        if path.stat().st_size == 0:
            return True
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be used ({error})") from error
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise StoreReadOnly(f"{path} may not be written; nothing was changed")
    # "Immutable" keeps SQLite from looking for, or making, files beside it. Through SQLite and
    # not with open(): closing a plain descriptor drops the locks that other connections of this
    # process have on the file.
    uri = f"file:{quote(str(path))}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=0.0)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise _not_ours(path, "it is no SQLite database") from error
        raise
    if application != APPLICATION_ID:
        raise _not_ours(path, f"it is a SQLite database of another application ({application})")
    return False


def _not_ours(path: Path, reason: str) -> NotAnAmendsStore:
    return NotAnAmendsStore(
        f"{path} is not an Amends database: {reason}. It was not touched. Check the path; a new "
        "database needs a file name that does not exist yet."
    )


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Give a new file its tables, unless another process does so at this moment."""
    # Before there is a page: deleted pages are used again, not shuffled to the end.
    connection.execute("PRAGMA auto_vacuum = NONE")
    connection.execute("BEGIN EXCLUSIVE")
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for statement in TABLES.split(";\n"):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise NotAnAmendsStore(
            f"{path} has schema version {version}, and this release knows {SCHEMA_VERSION}: it "
            "was written by a newer release. It was not touched. Install that release."
        )
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise _not_ours(path, "another program made it at this moment")
    for pragma in (
        "journal_mode = WAL",
        # The log is synchronised at every commit: a commit survives a power cut.
        "synchronous = FULL",
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        # What was deleted is not overwritten with zeros: messages come and go all the time.
        "secure_delete = OFF",
        "temp_store = MEMORY",
        "cache_size = -16000",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(BATCH)

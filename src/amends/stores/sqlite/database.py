"""The open file: its writer, its readers, its clock, its engine lock, and its end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from amends.domain.clock import Clock, SystemClock
from amends.errors import StoreClosed, StoreUnavailable, UsageError
from amends.stores.sqlite.commit import BatchCommitter
from amends.stores.sqlite.errors import translate
from amends.stores.sqlite.lock import EngineLock
from amends.stores.sqlite.moments import to_us
from amends.stores.sqlite.opening import connect, open_file
from amends.stores.sqlite.writer import Writer

T = TypeVar("T")

#: A busy file is tried again after this, by reads, which must not block the event loop.
_READ_RETRY_S: Final = 0.01


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
        whole, writing, reading = await asyncio.to_thread(open_file, path, busy_timeout_s)

        def close() -> None:
            reading.close()
            writing.close()

        writer = Writer(BatchCommitter(writing, str(whole)), close)
        return cls(whole, clock or SystemClock(), busy_timeout_s, reading, writer)

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
            connection = connect(self.path, self._busy_timeout_s)
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
        if not self._closed:
            # From here on nothing reads, so that the thread can close both connections: the last
            # one to be closed copies the log into the file, which is no work for the event loop.
            self._closed = True
            for listener in list(self.on_close):
                listener()
        await self.writer.close()
        self.writer.changed.ring()
        if self._engine_lock is not None:
            self._engine_lock.release()

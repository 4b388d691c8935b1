"""The projections' database: SQLite or PostgreSQL, by SQLAlchemy Core, in one thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, Select, event
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from amends.domain.bell import Bell
from amends.errors import ProjectionError, ProjectionUnavailable, UsageError
from amends.projections.records import lock_schema, metadata
from amends.projections.writing import Statements

T = TypeVar("T")

#: Kilobytes of SQLite's page cache.
_CACHE_KIB: Final = 32 * 1024
#: Of a query that another process keeps from the tables (PostgreSQL), and of a locked file.
BUSY_TIMEOUT_S: Final = 5.0

_SQLITE_TRANSIENT: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
}
#: Connections, resources, operator's intervention, serialisation, deadlock, a lock's timeout.
_POSTGRES_TRANSIENT: Final = ("08", "53", "57", "58", "40001", "40P01", "55P03", "25006")


#: A server that does not answer must not be waited for, for ever.
_POSTGRES_OPTIONS: Final = {"connect_timeout": 10, "tcp_user_timeout": 30_000}


class Database:
    """Where projections are kept. Use `open`, and close it, or `async with`.

    All work is done in one thread, one transaction after another; it belongs to the event loop
    that uses it. What is committed survives the death of the process. A loss of power may cost the
    last commits, rows and checkpoints together, and they are made again from the log.
    """

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self.shown = shown
        """Its address without a password."""
        self.statements = Statements(engine.dialect)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="projections")
        self._prepared = False
        self._closed = False
        self.changed = Bell()
        """Rings when this process has committed something."""

    @classmethod
    def at(cls, address: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """The database of an address: `sqlite:///file.db`, `sqlite://` (in memory, for tests), or
        `postgresql://user:password@host/database`. Nothing is opened yet.

        Raises UsageError for another address, and where the driver is not installed.
        """
        url = _url(address)
        if url.get_backend_name() == "sqlite":
            engine = _sqlite(url, busy_timeout_s)
        else:
            engine = _postgres(url, busy_timeout_s)
        return cls(engine, url.render_as_string(hide_password=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def dialect(self) -> Dialect:
        """What SQL it speaks."""
        return self._engine.dialect

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None of any other."""
        name = self._engine.url.database
        is_file = self._engine.dialect.name == "sqlite" and name not in (None, "", ":memory:")
        return Path(str(name)) if is_file else None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do something in a transaction that writes, in the thread; it is committed on return.

        Raises ProjectionUnavailable, and what `work` raises; then nothing was written.
        """
        result = await self._in_thread(lambda: self._transact(work))
        self.changed.ring()
        return result

    async def look(self, work: Callable[[Connection], T]) -> T:
        """Do something in a transaction that only reads. Raises ProjectionUnavailable."""
        return await self._in_thread(lambda: self._transact(work, writes=False))

    async def query(self, statement: Select[Any]) -> list[dict[str, Any]]:
        """The rows of a SELECT, as they stand in the last commit. Raises ProjectionUnavailable."""
        return await self.look(
            lambda connection: [dict(row) for row in connection.execute(statement).mappings()]
        )

    async def close(self) -> None:
        """Finish what runs and release everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise ProjectionUnavailable("the projections' database is closed; nothing was written")
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # What has begun is finished before anybody goes on.
            await asyncio.gather(future, return_exceptions=True)
            raise

    def _transact(self, work: Callable[[Connection], T], *, writes: bool = True) -> T:
        try:
            if not self._prepared:
                with self._engine.begin() as connection:
                    lock_schema(connection)
                    metadata.create_all(connection)
                self._prepared = True
            with self._engine.connect() as connection:
                connection.execution_options(amends_writes=writes)
                with connection.begin():
                    return work(connection)
        except Exception as error:
            told = f"the projections' database {self.shown} cannot be used: {_text(error)}. "
            if is_transient(error):
                raise ProjectionUnavailable(f"{told}Nothing was written") from error
            if _sqlite_code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise ProjectionError(
                    f"{told}Nothing was changed. If it was one, put it aside: projections are built "
                    "anew from the log"
                ) from error
            raise


def is_transient(error: BaseException) -> bool:
    """Whether an error is about the database, and not about what was to be written."""
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if (code := _sqlite_code(error)) is not None:
        return code in _SQLITE_TRANSIENT
    orig = _original(error)
    if not type(orig).__module__.startswith("psycopg"):
        return False
    state = getattr(orig, "sqlstate", None)
    if state is None:  # no answer from a server
        return type(orig).__name__ in ("OperationalError", "InterfaceError")
    return str(state).startswith(_POSTGRES_TRANSIENT)


def _original(error: BaseException) -> BaseException:
    """The driver's own error. What goes wrong while it connects comes as it is."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _sqlite_code(error: BaseException) -> int | None:
    """The primary code of an error of SQLite's."""
    orig = _original(error)
    code = getattr(orig, "sqlite_errorcode", None) if isinstance(orig, sqlite3.Error) else None
    return None if code is None else code & 0xFF


def _text(error: BaseException) -> str:
    return str(_original(error)).strip().partition("\n")[0]


def _url(address: str) -> URL:
    # Addresses may hold passwords: only their beginning is told.
    scheme = address.partition(":")[0]
    if scheme not in ("sqlite", "postgresql"):
        raise UsageError(
            f"AMENDS_PROJECTIONS={scheme!r}…: use sqlite:///file.db, or "
            "postgresql://user:password@host:5432/database. Nothing was opened"
        )
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise UsageError(
            f"AMENDS_PROJECTIONS is no address of a {scheme} database. Nothing was opened"
        ) from None
    if scheme == "sqlite" and (url.host or url.query):
        raise UsageError(
            "AMENDS_PROJECTIONS: write sqlite:///file.db, or sqlite:////path/file.db. Nothing was "
            "opened"
        )
    return url


def _sqlite(url: URL, busy_timeout_s: float) -> Engine:
    options: dict[str, Any] = {"connect_args": {"timeout": busy_timeout_s}}
    if url.database in (None, "", ":memory:"):
        options["poolclass"] = StaticPool
        options["connect_args"]["check_same_thread"] = False
    engine = sqlalchemy.create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # or Python would begin transactions as it likes
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("amends_writes", True)
        # A transaction that begins to write later could find that another has written.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres(url: URL, busy_timeout_s: float) -> Engine:
    try:
        engine = sqlalchemy.create_engine(
            url.set(drivername="postgresql+psycopg"),
            paramstyle="format",
            pool_pre_ping=True,
            connect_args=_POSTGRES_OPTIONS,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise UsageError(
            f"AMENDS_PROJECTIONS={url.render_as_string()} needs a client of PostgreSQL, and it "
            f"cannot be imported: {error}. Nothing was opened. Install it with: "
            "pip install 'amends[postgres]'"
        ) from error

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute("SET synchronous_commit TO off")
            cursor.execute(f"SET lock_timeout TO {int(busy_timeout_s * 1000)}")
        connection.commit()

    return engine

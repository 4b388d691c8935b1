"""Opening the file: whose it is, its tables if it is new, and how its connections are set up."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from amends.errors import NotAnAmendsStore, StoreError, StoreReadOnly, StoreUnavailable
from amends.stores.sqlite.errors import primary_code, translate
from amends.stores.sqlite.schema import APPLICATION_ID, BATCH, SCHEMA_VERSION, TABLES

#: The log is copied into the file each time it has grown by so many pages (of 4 KiB).
_CHECKPOINT_PAGES: Final = 4000
#: Making a file, and being made, is over in a moment.
_RETRY_S: Final = 0.02


class Opened(NamedTuple):
    """The whole path, the connection that writes and the one that reads."""

    path: Path
    writing: sqlite3.Connection
    reading: sqlite3.Connection


def open_file(given: str | Path, busy_timeout_s: float) -> Opened:
    """Open a file or make it, in a thread. Raises what `SqliteDatabase.open` says."""
    path = Path(given).absolute()
    deadline = time.monotonic() + busy_timeout_s
    while True:
        late = time.monotonic() >= deadline
        try:
            return _open_once(path, busy_timeout_s)
        except sqlite3.Error as error:
            # SQLite does not wait by itself for a file that is being switched to its log.
            if late or primary_code(error) != sqlite3.SQLITE_BUSY:
                raise _opening_error(error, path) from error
        except NotAnAmendsStore:
            # Perhaps another process is making it at this moment.
            if late or not path.with_name(path.name + "-journal").exists():
                raise
        time.sleep(_RETRY_S)


def _open_once(path: Path, busy_timeout_s: float) -> Opened:
    is_new = _check_identity(path)
    connections: list[sqlite3.Connection] = []
    try:
        connections.append(connect(path, busy_timeout_s))
        if is_new:
            _create(connections[0])
        _set_up(connections[0], path)
        connections.append(connect(path, 0.0))
        connections[1].execute("PRAGMA query_only = ON")
        connections[1].execute("SELECT n FROM head").fetchone()
    except BaseException:
        for connection in connections:
            connection.close()
        raise
    return Opened(path, *connections)


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
        found = path.stat()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be used ({error})") from error
    if stat.S_ISDIR(found.st_mode):
        raise _not_ours(path, "it is a directory")
    if found.st_size == 0:
        return True
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


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread, that waits so long for other writers."""
    return sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )


def _create(connection: sqlite3.Connection) -> None:
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
        # 2 MB. What is not in it is in the system's cache: more was no faster, with a million
        # streams in the file either.
        "cache_size = -2000",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(BATCH)

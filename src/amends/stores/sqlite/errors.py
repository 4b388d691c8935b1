"""What an error of SQLite means for the data, in the words of the ports."""

from __future__ import annotations

import sqlite3
from typing import Final

from amends.errors import (
    AppendOutcomeUnknown,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

#: SQLite's extended result codes keep the primary code in their low byte.
PRIMARY_CODE_MASK: Final = 0xFF


def primary_code(error: sqlite3.Error) -> int:
    """The primary result code, or SQLITE_ERROR where Python's module raised without one."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & PRIMARY_CODE_MASK


def translate(error: sqlite3.Error, path: str) -> StoreError:
    """The error of ours that says what happened, what it means for the data and what to do."""
    code = primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailable(
            f"{path} is locked by another process; nothing was written. Try again, and look for "
            "a program that keeps a transaction open on it."
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"no room is left for {path}; nothing of this write was kept. Make room, then try "
            "again: the store is intact."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreReadOnly(
            f"{path} or its directory may not be written; nothing was written. Change the "
            "permissions, and open it again."
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(
            f"{path} is damaged ({error}). Stop every process that uses it, copy it together with "
            "its -wal file, and restore from a backup."
        )
    if code == sqlite3.SQLITE_IOERR:
        return AppendOutcomeUnknown(
            f"the disk failed while {path} was used ({error}): what was being written may or may "
            "not be there. Read the stream's tail before you try again, and look at the disk."
        )
    return StoreUnavailable(f"{path} cannot be used ({error}); nothing was written.")

"""The embedded default: one SQLite file that holds the log, the queues, timers and dead letters."""

from amends.stores.sqlite.database import SqliteDatabase
from amends.stores.sqlite.store import SqliteStore

__all__ = ["SqliteDatabase", "SqliteStore"]

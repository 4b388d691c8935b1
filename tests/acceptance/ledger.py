"""The oracle of the acceptance tests: a bank's ledger in a file of its own, which knows nothing
of the engine.

Like a bank, it books once for each idempotency key, and what was reversed before it was booked
stays void. It also keeps a line for every call, repeated or not.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

TABLES = """
CREATE TABLE calls (key TEXT, attempt INTEGER, at REAL);
CREATE INDEX calls_by_time ON calls (at);
CREATE TABLE entries (key TEXT PRIMARY KEY, reverses TEXT, account TEXT, cents INTEGER, at REAL);
CREATE TABLE voided (key TEXT PRIMARY KEY);
CREATE TABLE opened (account TEXT PRIMARY KEY);
"""


class Void(Exception):
    """It was reversed before it was booked."""


class Call(NamedTuple):
    """One attempt that reached the bank; `at` is in seconds since 1970."""

    key: str
    attempt: int
    at: float


class Entry(NamedTuple):
    """What stands in the books. A reversal names the key of what it `reverses`."""

    key: str
    reverses: str | None
    account: str
    cents: int
    at: float


class Fuse:
    """Kills this process at its n-th call: `before` it books, `amid` that, or right `after`.

    Load does not move these moments, and no process outside could hit them. A call that comes to
    nothing burns it too, when it is over: or else the process would live for ever.
    """

    def __init__(self, text: str) -> None:
        number, _, self._place = text.partition(" ")
        self._calls_left = int(number or 0)

    def next_call(self) -> Callable[[str], None]:
        """Count a call, which says where it is from then on, however many others are counted."""
        self._calls_left -= 1
        is_last = self._calls_left == 0

        def at(place: str) -> None:
            if is_last and place in (self._place, "after"):
                os.kill(os.getpid(), signal.SIGKILL)

        return at


class Ledger:
    """Safe to use from several threads and processes."""

    def __init__(self, path: str, fuse: str = "") -> None:
        self._fuse = Fuse(fuse)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=30, isolation_level=None, check_same_thread=False
        )
        # A killed process does not lose what the operating system has: no need to sync.
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")

    @classmethod
    def create(cls, path: str) -> Ledger:
        ledger = cls(path)
        ledger._connection.executescript(TABLES)
        return ledger

    def close(self) -> None:
        self._connection.close()

    # --- what activities do

    def book(self, key: str, attempt: int, account: str, cents: int) -> None:
        """Raises Void."""
        with self._called(key, attempt):
            if self._finds("SELECT 1 FROM voided WHERE key = ?", key):
                raise Void(key)
            self._book(Entry(key, None, account, cents, time.time()))

    def reverse(self, key: str, attempt: int, origin: str) -> None:
        with self._called(key, attempt):
            entry = self._finds("SELECT account, cents FROM entries WHERE key = ?", origin)
            if entry is None:
                self._connection.execute("INSERT OR IGNORE INTO voided VALUES (?)", [origin])
            else:
                account, cents = entry
                self._book(Entry(key, origin, account, -cents, time.time()))

    def is_booked(self, key: str) -> bool:
        """Whether it happened; if not, it will not happen any more."""
        with self._transaction():
            is_booked = self._finds("SELECT 1 FROM entries WHERE key = ?", key) is not None
            if not is_booked:
                self._connection.execute("INSERT OR IGNORE INTO voided VALUES (?)", [key])
            return is_booked

    def _book(self, entry: Entry) -> None:
        self._connection.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?)", entry)

    @contextmanager
    def _called(self, key: str, attempt: int) -> Iterator[None]:
        with self._transaction():
            self._connection.execute(
                "INSERT INTO calls VALUES (?, ?, ?)", [key, attempt, time.time()]
            )
            at = self._fuse.next_call()
        try:
            with self._transaction():
                at("before")
                yield
                at("amid")
        finally:
            at("after")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _finds(self, sql: str, *parameters: str) -> tuple[str, int] | None:
        found: tuple[str, int] | None = self._connection.execute(sql, parameters).fetchone()
        return found

    # --- accounts that a person has to open

    def open_account(self, account: str) -> None:
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO opened VALUES (?)", [account])

    def is_open(self, account: str) -> bool:
        return self._finds("SELECT 1 FROM opened WHERE account = ?", account) is not None

    # --- what the judge reads

    def calls(self, *, since: float = 0.0) -> list[Call]:
        rows = self._connection.execute("SELECT * FROM calls WHERE at >= ? ORDER BY at", [since])
        return [Call(*row) for row in rows]

    def entries(self) -> list[Entry]:
        return [Entry(*row) for row in self._connection.execute("SELECT * FROM entries")]

"""Committing a batch: hopefully in one statement, or carefully in a transaction with reads.

Runs in the writer thread. Answers that may have many rows are packed into one by SQL, since each
row would be a step, and each step means to win back the interpreter lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

from pydantic_core import from_json, to_json

from amends.domain.ids import NO_STREAM, STREAM_EXISTS, Position
from amends.errors import AmendsError, UsageError, WrongExpectedVersion
from amends.stores.port import Append, Appended
from amends.stores.sqlite.batch import (
    Known,
    Plan,
    StreamHead,
    Work,
    Write,
    streams_to_look_up,
)
from amends.stores.sqlite.errors import primary_code, translate
from amends.stores.sqlite.schema import DELAYED, PLACE_BITS, SIZES, UNPINNED_EVENT, inserts

T = TypeVar("T")

#: Where a retry with another expected version than the first time is looked for: not promised.
TAIL_EVENTS: Final = 100
#: Errors that concern the file and not one write: trying the writes one by one would not help.
_ALL_ALIKE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}


class Transaction:
    """What an administrative task sees: the connection, inside a transaction of its own."""

    def __init__(self, connection: sqlite3.Connection, known: Known) -> None:
        assert known.n is not None
        self.connection = connection
        self.n = known.n
        self._known = known

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self.connection.execute(sql, parameters)

    def take_place(self) -> int:
        """A place for one message, behind all others."""
        self.n += 1
        return self.n

    def forget(self, stream: str) -> None:
        """A stream is no longer where the writer remembers it."""
        self._known.heads.pop(stream, None)


class Task(Work):
    """An administrative transaction; `result` is what `run` returned."""

    __slots__ = ("result", "run")

    def __init__(self, run: Callable[[Transaction], object]) -> None:
        super().__init__(0)
        self.run = run
        self.result: Any = None


class BatchCommitter:
    """Owns the connection that writes.

    `foreign` is set when others are found to have written, `locked_out` when another process did
    not let go of the file in time.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._known = Known()
        self.foreign = False
        self.locked_out = False

    # --- writes

    def write(self, writes: Sequence[Write]) -> list[Write]:
        """Commit a batch; each write gets its result or its error. In commit order."""
        for write in writes:
            write.error = None
            write.is_repeat = False
        return self._together(self._hopeful, writes)

    def _together(
        self, do: Callable[[Sequence[Write]], list[Write]], writes: Sequence[Write]
    ) -> list[Write]:
        """Commit them all by `do`, or else those that nothing is wrong with."""
        try:
            return do(writes)
        except Exception as error:
            self._known.forget()
            if len(writes) == 1 or _is_for_all(error):
                return self._fail(writes, error)
        # One of them is at fault: find out which.
        return [done for write in writes for done in self.write([write])]

    def _fail(self, writes: Sequence[Write], error: Exception) -> list[Write]:
        for write in writes:
            write.error = self._translate(error)
        return list(writes)

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            self.locked_out = primary_code(error) == sqlite3.SQLITE_BUSY
            return translate(error, self._path)
        if isinstance(error, AmendsError):
            return error
        return UsageError(f"this cannot be stored ({error!r}); nothing was written")

    def _hopeful(self, writes: Sequence[Write]) -> list[Write]:
        """Hope that nobody else wrote, that what looks new is new, and read nothing."""
        known = self._known
        if known.n is None:
            return self._careful(writes)
        if unknown := streams_to_look_up(writes, known, new_too=False):
            self._look_up(unknown)
        plan = Plan(known)
        for write in writes:
            plan.add(write)
        if plan.writes:
            try:
                self._execute(plan)
            except sqlite3.IntegrityError:
                return self._careful(writes)
            known.learn(plan)
        if plan.aside:
            # Whatever happens to these: the others are committed.
            return plan.writes + self._together(self._careful, plan.aside)
        return plan.writes

    def _execute(self, plan: Plan) -> None:
        statements = inserts(plan.finish())
        if len(statements) == 1 or self._connection.in_transaction:
            for statement in statements:
                self._connection.execute(*statement)
            return
        with self._transaction():
            for statement in statements:
                self._connection.execute(*statement)

    def _transaction(self) -> _Immediate:
        return _Immediate(self._connection)

    def _careful(self, writes: Sequence[Write]) -> list[Write]:
        """Lock first, then look at everything that the writes depend on."""
        known = self._known
        with self._transaction():
            self._refresh()
            self._look_up(streams_to_look_up(writes, known, new_too=True))
            plan = Plan(known, self._waiting(writes))
            for write in writes:
                plan.add(write)
            if plan.writes:
                self._execute(plan)
                known.learn(plan)
            for write in plan.aside:
                self._settle(write)
        return plan.writes + plan.aside

    def _refresh(self) -> None:
        """Inside a transaction: learn the counters anew."""
        known = self._known
        n, position, streams = self._connection.execute(
            "SELECT n, (SELECT coalesce(max(position), -1) FROM events), "
            "(SELECT coalesce(max(id), 0) FROM streams) FROM head"
        ).fetchone()
        if n != known.n:
            self.foreign = True
            known.forget()
        known.n, known.position, known.streams = n, position, streams

    def _look_up(self, streams: Sequence[str]) -> None:
        if not streams:
            return
        found = self._packed(
            "SELECT json_group_array(json_array(s.name, s.id, "
            "(SELECT max(version) FROM events WHERE stream = s.id))) "
            "FROM json_each(?) AS wanted CROSS JOIN streams AS s ON s.name = wanted.value",
            [to_json(streams).decode()],
        )
        for name, id, version in found:
            self._known.heads[name] = StreamHead(id, version)

    def _waiting(self, writes: Sequence[Write]) -> set[str]:
        """The keys of those messages that wait in the file already."""
        waiting: set[str] = set()
        ids = [out.fields[0] for write in writes for out in write.outgoing]
        for start in range(0, len(ids), SIZES[-1]):
            chunk = ids[start : start + SIZES[-1]]
            waiting.update(self._packed(_waiting_sql("messages", "''", len(chunk)), chunk))
        delayed = [
            value
            for write in writes
            for out in write.outgoing
            if out.kind == DELAYED
            for value in (out.fields[0], out.moment)
        ]
        for start in range(0, len(delayed), 2 * SIZES[-1]):
            chunk = delayed[start : start + 2 * SIZES[-1]]
            waiting.update(self._packed(_waiting_sql("delayed", "due", len(chunk) // 2), chunk))
        return waiting

    def _packed(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return cast(list[Any], from_json(self._connection.execute(sql, parameters).fetchone()[0]))

    # --- one write that does not simply extend its stream

    def _settle(self, write: Write) -> None:
        """Inside a transaction: write it, recognise a retry, or refuse it."""
        assert write.append is not None
        plan = Plan(self._known, self._waiting([write]))
        try:
            self._plan_append(plan, write, write.append)
        except WrongExpectedVersion as error:
            write.error = error
            return
        plan.add_rest(write)
        if not plan.is_empty:
            self._execute(plan)
            self._known.learn(plan)

    def _plan_append(self, plan: Plan, write: Write, append: Append) -> None:
        head = plan.head(append.stream)
        actual = -1 if head is None else head.version
        lost = WrongExpectedVersion(append.stream, append.expected, actual)
        if append.expected >= NO_STREAM:
            if append.expected == actual:
                # It fits after all: an earlier write of this batch made it so.
                plan.add_events(write, append, head)
                return
            first = append.expected + 1
        else:
            found = self._find(append, head)
            if found is None:
                if append.expected == STREAM_EXISTS and head is None:
                    raise lost
                self._check_unused(append, head, lost)
                plan.add_events(write, append, head, kind=UNPINNED_EVENT)
                return
            first = found
        write.appended = self._recognised(append, head, first)
        if write.appended is None:
            raise lost
        write.is_repeat = True

    def _find(self, append: Append, head: StreamHead | None) -> int | None:
        """The version of the append's first event, if the stream has it."""
        if head is None:
            return None
        row = self._connection.execute(
            "SELECT max(version) FROM (SELECT version FROM events "
            "WHERE stream = ?1 AND id = ?2 AND unpinned IS NOT NULL UNION ALL "
            "SELECT version FROM events WHERE stream = ?1 AND id = ?2 AND version > ?3)",
            [head.id, append.events[0].id.bytes, head.version - TAIL_EVENTS],
        ).fetchone()
        return cast("int | None", row[0])

    def _check_unused(
        self, append: Append, head: StreamHead | None, lost: WrongExpectedVersion
    ) -> None:
        """Half of a retry is no retry, and must not become a second copy of the other half."""
        if head is None:
            return
        for event in append.events:
            if self._connection.execute(
                "SELECT 1 FROM events WHERE stream = ? AND id = ? AND unpinned IS NOT NULL",
                [head.id, event.id.bytes],
            ).fetchone():
                raise lost

    def _recognised(self, append: Append, head: StreamHead | None, first: int) -> Appended | None:
        """Where the very same events are already, if they are at that version."""
        if head is None:
            return None
        last = first + len(append.events) - 1
        found = self._packed(
            "SELECT json_group_array(json_array(hex(id), position)) FROM (SELECT id, position "
            "FROM events WHERE stream = ? AND version BETWEEN ? AND ? ORDER BY version)",
            [head.id, first, last],
        )
        if [id for id, _ in found] != [event.id.hex.upper() for event in append.events]:
            return None
        return Appended(last, Position(found[-1][1]))

    # --- tasks and polling

    def perform(self, task: Task) -> None:
        """Run a task in a transaction of its own; nothing is kept of one that raises."""
        try:
            with self._transaction():
                self._refresh()
                before = self._connection.total_changes
                transaction = Transaction(self._connection, self._known)
                n = transaction.n
                task.result = task.run(transaction)
                if self._connection.total_changes != before:
                    # The counter moves with every commit: others learn from it that we wrote.
                    n = max(transaction.n, n + 1)
                    self._connection.execute("UPDATE head SET n = ?", [n])
                    self._known.n = n
        except Exception as error:
            self._known.forget()
            task.error = self._translate(error)

    def data_version(self) -> int:
        """A number that changes when another process commits, and not when we do."""
        return cast(int, self._connection.execute("PRAGMA data_version").fetchone()[0])


class _Immediate:
    """BEGIN IMMEDIATE, then COMMIT, or ROLLBACK after an error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # Some errors (a full disk among them) have made SQLite roll back by itself.
        if error is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
            return
        if error is None:
            try:
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _is_for_all(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and primary_code(error) in _ALL_ALIKE


def _waiting_sql(table: str, due: str, rows: int) -> str:
    # No padding: these are rare, and a parameter too many would ask for the id NULL.
    by_due = "" if due == "''" else " AND m.due = column2"
    row = "(?)" if due == "''" else "(?,?)"
    return (
        f"SELECT json_group_array(hex(m.id) || '/' || (m.seq >> {PLACE_BITS} << {PLACE_BITS}) "
        f"|| '/' || {due}) FROM (VALUES {','.join([row] * rows)}) "
        f"CROSS JOIN {table} AS m ON m.id = column1{by_due}"
    )

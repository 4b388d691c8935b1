"""What a handler writes with, and reads: rows of its projection's own tables.

Writes are collected and go to the database in bulk. Each key of a table has at most one write
waiting; two that do not add up to one are kept apart, and so are all that are not alike where a rule
of the table (a unique column, a check) makes their order count. So what a batch leaves behind is what its
events would have left behind one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Boolean, Connection, Integer, LargeBinary, String, Table, select

from amends.errors import UsageError
from amends.projections.moment import Moment
from amends.projections.tables import Physical, has_rules
from amends.projections.writing import Kind, Statements

Values = dict[str, Any]
Key = tuple[Any, ...]

#: What one write and a later one to the same row add up to.
_MERGED: Final = {
    (Kind.INSERT, Kind.UPDATE): Kind.INSERT,
    (Kind.INSERT, Kind.UPSERT): Kind.INSERT,
    (Kind.UPDATE, Kind.UPDATE): Kind.UPDATE,
    (Kind.UPSERT, Kind.UPDATE): Kind.UPSERT,
    (Kind.UPSERT, Kind.UPSERT): Kind.UPSERT,
    (Kind.UPDATE, Kind.DELETE): Kind.DELETE,
    (Kind.UPSERT, Kind.DELETE): Kind.DELETE,
    (Kind.DELETE, Kind.DELETE): Kind.DELETE,
    (Kind.ADD, Kind.ADD): Kind.ADD,
}
#: In this order, so that a key that is free again can be taken.
_ORDER: Final = (Kind.DELETE, Kind.UPDATE, Kind.INSERT, Kind.UPSERT, Kind.ADD)

#: Those that are done row by row; the others first to all rows that exist.
_ONE_STATEMENT: Final = (Kind.DELETE, Kind.UPDATE, Kind.INSERT)

#: What comes back from the database as it was written, by the type of its column.
_EXACT: Final[tuple[tuple[Any, type], ...]] = (
    (Boolean, bool),
    (Integer, int),
    (String, str),
    (LargeBinary, bytes),
    (Moment, datetime),
)


class Rows:
    """The rows of a projection in the transaction of one batch. Handlers get it; see `Projection`.

    Every method names a table of the projection, and the values of columns by keyword, always with
    the whole primary key. Raises UsageError for another table or column, or a key that is missing.
    What breaks a rule of the table is raised when the batch is written: the projection then stops
    at the event that broke it.
    """

    __slots__ = ("_connection", "_statements", "_tables")

    def __init__(self, connection: Connection, tables: Physical, statements: Statements) -> None:
        self._connection = connection
        self._statements = statements
        self._tables = {table: _Pending(real) for table, real in tables.items()}

    def insert(self, table: Table, /, **values: Any) -> None:
        """Add a row. One of that key must not exist. What is left out is NULL."""
        pending = self._of(table, values)
        if len(values) < len(pending.columns):
            values = pending.columns | values
        self._write(pending, Kind.INSERT, values)

    def update(self, table: Table, /, **values: Any) -> None:
        """Change columns of a row. If there is none of that key, nothing happens."""
        pending = self._of(table, values)
        if len(values) > len(pending.keys):
            self._write(pending, Kind.UPDATE, values)

    def upsert(self, table: Table, /, **values: Any) -> None:
        """Change columns of a row, or add it with these columns."""
        self._write(self._of(table, values), Kind.UPSERT, values)

    def delete(self, table: Table, /, **key: Any) -> None:
        """Remove a row, if there is one of that key."""
        pending = self._of(table, key)
        if len(key) != len(pending.keys):
            raise UsageError(f"delete from {table.name!r} takes its primary key and nothing else")
        self._write(pending, Kind.DELETE, key)

    def add(self, table: Table, /, **values: Any) -> None:
        """Add to numbers in a row; a row that is not there begins with them."""
        self._write(self._of(table, values), Kind.ADD, values)

    def get(self, table: Table, /, **key: Any) -> Values | None:
        """The row of a key, with all writes so far; None if there is none."""
        pending = self._of(table, key)
        if len(key) != len(pending.keys):
            raise UsageError(f"get from {table.name!r} takes its primary key and nothing else")
        at = pending.key_of(key)
        if at not in pending.known:
            if at in pending.writes:
                self._flush(pending)
            pending.known[at] = self._statements.row(self._connection, pending.table, key)
        row = pending.known[at]
        copy = None if row is None else dict(row)
        if not pending.remembers:
            pending.known.clear()
        return copy

    def find(self, table: Table, /, **equal: Any) -> list[Values]:
        """The rows with these values, with all writes so far, in the order of their keys."""
        pending = self._of(table, equal, whole_key=False)
        self._flush(pending)
        return self._select(pending, equal)

    def flush(self) -> None:
        """Send what waits to the database; the engine calls it."""
        for pending in self._tables.values():
            self._flush(pending)

    def _of(self, table: Table, values: Values, *, whole_key: bool = True) -> _Pending:
        pending = self._tables.get(table)
        if pending is None:
            raise UsageError(
                f"{getattr(table, 'name', table)!r} is no table of this projection; it has "
                f"{', '.join(repr(table.name) for table in self._tables)}"
            )
        if not values.keys() <= pending.names:
            unknown = ", ".join(sorted(values.keys() - pending.columns.keys()))
            raise UsageError(f"table {table.name!r} has no column {unknown}")
        if whole_key:
            for name in pending.keys:
                if values.get(name) is None:
                    raise UsageError(f"table {table.name!r}: the key {name!r} has no value")
        return pending

    def _write(self, pending: _Pending, kind: Kind, values: Values) -> None:
        at = pending.key_of(values)
        if pending.has_rules and not pending.goes_on(kind, values):
            self._flush(pending)
        if pending.known:
            pending.learn(kind, at, values)
        before = pending.writes.get(at)
        if before is None:
            pending.writes[at] = (kind, values)
            return
        merged = _MERGED.get((before[0], kind)) if pending.is_sound(*before) else None
        if merged is None:
            self._flush(pending)
            pending.writes[at] = (kind, values)
        elif merged is Kind.DELETE:
            pending.writes[at] = (merged, values)
        elif merged is Kind.ADD:
            pending.writes[at] = (merged, pending.sums(before[1], values))
        else:
            pending.writes[at] = (merged, {**before[1], **values})

    def _flush(self, pending: _Pending) -> None:
        if not pending.writes:
            return
        # By columns too: each set of them is a statement.
        groups: dict[Kind, dict[tuple[str, ...], list[Values]]] = {kind: {} for kind in _ORDER}
        for kind, values in pending.writes.values():
            groups[kind].setdefault(tuple(values), []).append(values)
        pending.writes.clear()
        for kind, by_columns in groups.items():
            for rows in by_columns.values():
                self._statements.run(self._connection, kind, pending.table, rows)

    def _select(self, pending: _Pending, equal: Values) -> list[Values]:
        table = pending.table
        wanted = select(table).where(*(table.c[name] == value for name, value in equal.items()))
        found = self._connection.execute(wanted.order_by(*table.primary_key.columns))
        return [dict(row) for row in found.mappings()]


class _Pending:
    """One table: the writes that wait, and the rows that are known since somebody asked for them."""

    __slots__ = (
        "_required", "_types", "columns", "has_rules", "key_of", "keys", "known", "names", "remembers",
        "table", "writes",
    )  # fmt: skip

    def __init__(self, table: Table) -> None:
        self.table = table
        self.keys = tuple(column.name for column in table.primary_key.columns)
        self.columns = dict.fromkeys(column.name for column in table.columns)
        self.names = self.columns.keys()
        self.key_of = _key_of(self.keys)
        self._required = [
            column.name
            for column in table.columns
            if not column.nullable and not column.primary_key
        ]
        self.has_rules = has_rules(table)
        self.writes: dict[Key, tuple[Kind, Values]] = {}
        self.known: dict[Key, Values | None] = {}
        self._types = {column.name: _exact_type(column.type) for column in table.columns}
        self.remembers = all(self._types.values())
        """Whether rows are known without asking the database: what it would give is certain."""

    def goes_on(self, kind: Kind, values: Values) -> bool:
        """Whether a write can go with those that wait, in their very order."""
        for waits, other in self.writes.values():  # they are all alike
            return kind is waits and kind in _ONE_STATEMENT and tuple(values) == tuple(other)
        return True

    def learn(self, kind: Kind, at: Key, values: Values) -> None:
        """What a write means for a row that is known."""
        if at not in self.known:
            # A whole row is what it is, whatever was there; one that is refused ends the batch.
            is_whole = kind in (Kind.INSERT, Kind.UPSERT) and len(values) == len(self.columns)
            if is_whole and self._are_exact(values.items()):
                self.known[at] = dict(values)
            return
        row = self.known[at]
        if kind is Kind.DELETE:
            self.known[at] = None
        elif kind is Kind.ADD or not self._are_exact(values.items()):
            del self.known[at]
        elif row is not None:
            if kind is Kind.INSERT:
                del self.known[at]  # it will be refused
            else:
                row.update(values)
        elif kind is not Kind.UPDATE:
            self.known[at] = {**self.columns, **values}

    def _are_exact(self, values: Iterable[tuple[str, Any]]) -> bool:
        types = self._types
        return all(
            value is None or (type(value) is types[name] and getattr(value, "tzinfo", UTC) is UTC)
            for name, value in values
        )

    def is_sound(self, kind: Kind, values: Values) -> bool:
        """Whether a write breaks no rule of the table, whatever is there. If it might, it is not
        for a later one to hide that.
        """
        if kind is Kind.DELETE:
            return True
        if self.has_rules:
            return False
        get, missing = values.get, True if kind is Kind.UPDATE else None
        return all(get(name, missing) is not None for name in self._required)

    def sums(self, one: Values, other: Values) -> Values:
        """What two additions to a row come to."""
        amounts = (name for name in other if name not in self.keys)
        return {**one, **{name: one.get(name, 0) + other[name] for name in amounts}}


def _key_of(keys: tuple[str, ...]) -> Any:
    if len(keys) == 1:
        (name,) = keys
        return lambda values: (values[name],)
    return lambda values: tuple([values[name] for name in keys])


def _exact_type(type: Any) -> type | None:
    return next((python for sql, python in _EXACT if isinstance(type, sql)), None)

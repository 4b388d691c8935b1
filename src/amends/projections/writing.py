"""Bulk writes: each kind of write to a table is one statement, run for many rows at once.

The statements are compiled once and handed to the driver as they are: SQLAlchemy's own way takes
five times as long for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.engine import Dialect


class Kind(Enum):
    """What is done to rows."""

    INSERT = "insert"
    UPDATE = "update"
    UPSERT = "upsert"
    DELETE = "delete"
    ADD = "add"


class Statement:
    """One statement that writes some columns of a table, for many rows."""

    __slots__ = ("_names", "_processors", "_sql")

    def __init__(self, clause: Any, table: Table, dialect: Dialect) -> None:
        compiled = clause.compile(dialect=dialect)
        self._sql = str(compiled)
        # A bind parameter of a key in a WHERE has a name of its own: see `_KEY`.
        self._names = [name.removeprefix(_KEY) for name in compiled.positiontup]
        self._processors = [_processor(table, name, dialect) for name in self._names]

    def run(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows."""
        names = self._names
        if any(self._processors):
            pairs = list(zip(names, self._processors, strict=True))
            values = [
                tuple([row[name] if make is None else make(row[name]) for name, make in pairs])
                for row in rows
            ]
        else:
            values = [tuple([row[name] for name in names]) for row in rows]
        connection.exec_driver_sql(self._sql, values)


class Lookup:
    """One statement that reads a row of a table by its key."""

    __slots__ = ("_columns", "_dialect", "_names", "_processors", "_sql", "_table")

    def __init__(self, table: Table, dialect: Dialect) -> None:
        self._table = table
        self._dialect = dialect
        keys = [column.name for column in table.primary_key.columns]
        wanted = select(table).where(
            and_(*(table.c[name] == _parameter(table, name, _KEY) for name in keys))
        )
        compiled = wanted.compile(dialect=dialect)
        self._sql = str(compiled)
        self._names = [name.removeprefix(_KEY) for name in compiled.positiontup or ()]
        self._processors = [_processor(table, name, dialect) for name in self._names]
        self._columns: list[tuple[str, Callable[[Any], Any] | None]] = []

    def row(self, connection: Connection, key: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a key; None if there is none."""
        values = tuple(
            key[name] if make is None else make(key[name])
            for name, make in zip(self._names, self._processors, strict=True)
        )
        result = connection.exec_driver_sql(self._sql, values)
        if not self._columns:
            assert result.cursor is not None
            self._columns = self._reading([about[1] for about in result.cursor.description])
        found = result.first()
        if found is None:
            return None
        return {
            name: value if make is None else make(value)
            for (name, make), value in zip(self._columns, found, strict=True)
        }

    def _reading(self, codes: Sequence[Any]) -> list[tuple[str, Callable[[Any], Any] | None]]:
        """How values of the columns are read, which for some depends on the driver's own codes."""
        dialect = self._dialect
        return [
            (column.name, column.type.dialect_impl(dialect).result_processor(dialect, code))
            for column, code in zip(self._table.columns, codes, strict=True)
        ]


class Statements:
    """The statements for a database, compiled when they are needed and kept."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._known: dict[tuple[Kind, Table, tuple[str, ...]], list[Statement]] = {}
        self._lookups: dict[Table, Lookup] = {}

    def row(self, connection: Connection, table: Table, key: dict[str, Any]) -> Any:
        """The row of a key, as a dict; None if there is none."""
        lookup = self._lookups.get(table)
        if lookup is None:
            lookup = self._lookups[table] = Lookup(table, self._dialect)
        return lookup.row(connection, key)

    def run(
        self, connection: Connection, kind: Kind, table: Table, rows: Sequence[dict[str, Any]]
    ) -> None:
        """Write rows of different keys that have the same columns, in the same order."""
        key = (kind, table, tuple(rows[0]))
        statements = self._known.get(key)
        if statements is None:
            clauses = _clauses(kind, table, key[2])
            statements = [Statement(clause, table, self._dialect) for clause in clauses]
            self._known[key] = statements
        for statement in statements:
            statement.run(connection, rows)


#: Prefix of parameters that stand for a key: an UPDATE may not use a column's name twice.
_KEY: Final = "amends_key_"


def _clauses(kind: Kind, table: Table, columns: Sequence[str]) -> Iterator[Any]:
    """The statements that do it, one after the other, each for all rows."""
    keys = [column.name for column in table.primary_key.columns]
    values = [name for name in columns if name not in keys]
    is_row = and_(*(table.c[name] == _parameter(table, name, _KEY) for name in keys))
    if kind is Kind.INSERT:
        yield insert(table).values({name: _parameter(table, name) for name in columns})
    elif kind is Kind.DELETE:
        yield delete(table).where(is_row)
    elif values:
        new: dict[str, Any] = {name: _parameter(table, name) for name in values}
        if kind is Kind.ADD:
            zero: Any = literal_column("0")
            new = {name: func.coalesce(table.c[name], zero) + new[name] for name in values}
        yield update(table).where(is_row).values(new)
    if kind in (Kind.UPSERT, Kind.ADD):
        # Not ON CONFLICT: it wants all columns that are NOT NULL even of a row that exists.
        absent = select(*(_parameter(table, name) for name in columns)).where(
            ~exists(literal_column("1")).select_from(table).where(is_row)
        )
        yield insert(table).from_select(list(columns), absent)


def _parameter(table: Table, name: str, prefix: str = "") -> BindParameter[Any]:
    return bindparam(f"{prefix}{name}", type_=table.c[name].type)


def _processor(table: Table, name: str, dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes of a value what the driver takes, if anything has to."""
    return table.c[name].type.dialect_impl(dialect).bind_processor(dialect)

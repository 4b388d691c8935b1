"""What is different between the rows of two builds of a projection, by their keys."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import JSON, Column, Connection, Text, and_, cast, exists, func, or_, select
from sqlalchemy import Table as SqlTable

#: Rows that are shown of each kind of difference, for each table.
EXAMPLES: Final = 5

Row = dict[str, Any]


class Changed(NamedTuple):
    """A row that is there in both, with other values."""

    before: Row
    after: Row


class TableDiff(NamedTuple):
    """The differences of one table, how many and a few of them.

    `comparable` is false if it has other columns than before: then only its rows were counted.
    """

    table: str
    rows: int
    comparable: bool
    added: int = 0
    missing: int = 0
    changed: int = 0
    added_rows: tuple[Row, ...] = ()
    missing_rows: tuple[Row, ...] = ()
    changed_rows: tuple[Changed, ...] = ()

    @property
    def size(self) -> int:
        """How many rows are different."""
        return self.added + self.missing + self.changed


def compare(
    connection: Connection, name: str, before: SqlTable | None, after: SqlTable
) -> TableDiff:
    """Compare a table with its successor. `before` is None if there is nothing to compare with."""
    rows = _count(connection, select(func.count()).select_from(after))
    if before is None:
        return TableDiff(name, rows, comparable=False)
    added = _absent(after, before)
    missing = _absent(before, after)
    changed = _changed(before, after)
    return TableDiff(
        table=name,
        rows=rows,
        comparable=True,
        added=_count(connection, _counted(added)),
        missing=_count(connection, _counted(missing)),
        changed=_count(connection, _counted(changed)),
        added_rows=_examples(connection, added, after),
        missing_rows=_examples(connection, missing, before),
        changed_rows=tuple(
            Changed(_part(row, "before_", before), _part(row, "after_", after))
            for row in _rows(connection, changed, before)
        ),
    )


def _same_key(one: SqlTable, other: SqlTable) -> Any:
    return and_(*(column == other.c[column.name] for column in one.primary_key.columns))


def _absent(one: SqlTable, other: SqlTable) -> Any:
    """The rows of one table whose keys the other does not have."""
    there = exists().select_from(other).where(_same_key(one, other)).correlate(one)
    return select(one).where(~there)


def _changed(before: SqlTable, after: SqlTable) -> Any:
    columns = [column for column in before.columns if not column.primary_key]
    differs = [
        _comparable(column).is_distinct_from(_comparable(after.c[column.name]))
        for column in columns
    ]
    both = [
        table.c[column.name].label(f"{prefix}{column.name}")
        for table, prefix in ((before, "before_"), (after, "after_"))
        for column in before.columns
    ]
    wanted = select(*both).select_from(before.join(after, _same_key(before, after)))
    return wanted.where(or_(*differs) if differs else func.coalesce(1, 0) == 0)


def _comparable(column: Column[Any]) -> Any:
    # PostgreSQL cannot compare JSON.
    return cast(column, Text) if isinstance(column.type, JSON) else column


def _counted(wanted: Any) -> Any:
    return select(func.count()).select_from(wanted.subquery())


def _count(connection: Connection, wanted: Any) -> int:
    number: int = connection.execute(wanted).scalar_one()
    return number


def _rows(connection: Connection, wanted: Any, ordered_by: SqlTable) -> list[Row]:
    first = wanted.order_by(*ordered_by.primary_key.columns).limit(EXAMPLES)
    return [dict(row) for row in connection.execute(first).mappings()]


def _examples(connection: Connection, wanted: Any, table: SqlTable) -> tuple[Row, ...]:
    return tuple(_rows(connection, wanted, table))


def _part(row: Row, prefix: str, table: SqlTable) -> Row:
    return {column.name: row[f"{prefix}{column.name}"] for column in table.columns}

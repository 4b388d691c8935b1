"""The tables of a projection as they are in the database, row by row.

They are read from the database alone: no application need be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import (
    Connection,
    DateTime,
    Inspector,
    MetaData,
    Numeric,
    Table,
    event,
    select,
    text,
)  # fmt: skip

from amends.domain.ids import Position
from amends.errors import NotRegistered
from amends.projections import records
from amends.projections.moment import Moment

#: Rows in memory at a time.
BATCH: Final = 5000

Batch = Sequence[Sequence[Any]]


def open_tables(
    connection: Connection, name: str, only: str | None = None
) -> tuple[list[Table], Position]:
    """The tables of a projection, or one of them, and the position up to which it has taken in the log.

    What is then read in the same transaction is of one moment. Raises NotRegistered for a projection or
    a table that there is not.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    record = records.load(connection, name)
    if record is None:
        known = sorted({record.name for record in records.load_all(connection)})
        raise NotRegistered(
            f"there is no projection {name!r} in this database; it has "
            f"{', '.join(known) or 'none'}. Nothing was written"
        )
    if only is not None and only not in record.tables:
        raise NotRegistered(
            f"projection {name!r} has no table {only!r}; it has {', '.join(record.tables)}. Nothing "
            "was written"
        )
    names = record.tables if only is None else (only,)
    return [_reflected(connection, table) for table in names], record.position


def batches(connection: Connection, table: Table) -> Iterator[Batch]:
    """The rows of a table in the order of its key, some at a time."""
    wanted = select(table).order_by(*table.primary_key.columns)
    options = {"yield_per": BATCH}
    yield from connection.execute(wanted, execution_options=options).partitions()


def _reflected(connection: Connection, name: str) -> Table:
    metadata = MetaData()

    def exactly(inspector: Inspector, table: Table, column: dict[str, Any]) -> None:
        if isinstance(column["type"], DateTime):
            column["type"] = Moment()
        elif isinstance(column["type"], Numeric) and connection.dialect.name == "sqlite":
            column["type"] = Numeric(asdecimal=False)  # there it is a float

    event.listen(metadata, "column_reflect", exactly)
    return Table(name, metadata, autoload_with=connection)

"""What the tables of the built-in projections have in common."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import String, Table

from amends.domain.events import ErrorInfo
from amends.domain.ids import InstanceId
from amends.domain.removals import RemovalDecided
from amends.projections.event import Event
from amends.projections.rows import Rows

#: Text that is compared and sorted by its characters, in PostgreSQL too, so that a prefix is a range.
Word: Final = String().with_variant(String(collation="C"), "postgresql")

#: Texts of errors are cut there.
ERROR_CHARS_MAX: Final = 500


def after_prefix(prefix: str) -> str:
    """The least text that sorts after all that begin with `prefix`."""
    return prefix + "\U0010ffff"


def instance_key(event: Event[Any]) -> dict[str, Any]:
    """The columns that name the instance of an event."""
    instance = event.instance
    return {"saga": instance.saga, "id": instance.id}


def error_columns(error: ErrorInfo) -> dict[str, str]:
    """The columns that tell of an error."""
    return {"error_type": error.type, "error": error.message[:ERROR_CHARS_MAX]}


def forget(decided: RemovalDecided, rows: Rows, *tables: Table) -> None:
    """Delete the rows of instances whose journals are about to go.

    One to which something happens in that very moment stays in the log, but not here.
    """
    for going in decided.streams:
        instance = InstanceId.of_stream(going.stream)
        if instance is None:
            continue
        for table in tables:
            keys = [column.name for column in table.primary_key.columns]
            for row in rows.find(table, saga=instance.saga, id=instance.id):
                rows.delete(table, **{name: row[name] for name in keys})

"""A column type for moments that means the same in every database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import DateTime, String
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator, TypeEngine

#: 2026-03-01 12:00:00.000000
_TEXT_CHARS: Final = 26


class _Text(String):
    """How SQLite declares it: kept as text, and known for a moment by whoever only sees the table."""


@compiles(_Text, "sqlite")
def _declared(type: _Text, compiler: Any, **_: Any) -> str:
    return "DATETIME_CHAR"


class Moment(TypeDecorator[datetime]):
    """A moment in UTC, to the microsecond: takes any aware datetime, gives an aware one.

    In SQLite it is a text that sorts by time, in PostgreSQL a `timestamptz`.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """What it is in the database."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(_Text(_TEXT_CHARS))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database. Raises ValueError for a datetime without a zone."""
        if value is None:
            return None
        if value.tzinfo is not UTC:
            if value.tzinfo is None:
                raise ValueError(f"{value!r} has no time zone, so it is no moment")
            value = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return value.isoformat(" ", "microseconds")[:_TEXT_CHARS]
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        assert isinstance(moment, datetime)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

"""CSV and JSON Lines. Numbers keep their digits; moments are ISO 8601 in UTC, to the microsecond."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from pydantic_core import to_json
from sqlalchemy import Table

from amends.projections.export.reading import Batch

_QUOTED: Final = re.compile(r'[",\r\n]|^\s|\s$')


class Sink(Protocol):
    """What takes bytes: a file, or stdout."""

    def write(self, data: bytes, /) -> object:
        """Take them."""
        ...


class Writer(Protocol):
    """Writes the rows of one table; `close` ends it."""

    def write(self, batch: Batch) -> None:
        """Write rows."""
        ...

    def close(self) -> None:
        """Write what comes after the last row."""
        ...


class CsvWriter:
    """By RFC 4180, with a line of names. A missing value is empty, an empty text is `""`."""

    def __init__(self, sink: Sink, table: Table) -> None:
        self._sink = sink
        self._write([[column.name for column in table.columns]])

    def write(self, batch: Batch) -> None:
        """Write rows."""
        self._write(batch)

    def close(self) -> None:
        """Nothing comes after the last row."""

    def _write(self, rows: Batch) -> None:
        lines = (",".join(map(_field, row)) + "\r\n" for row in rows)
        self._sink.write("".join(lines).encode())


class JsonLinesWriter:
    """One JSON object a line. Bytes are Base64; decimals are texts, because JSON's numbers are not."""

    def __init__(self, sink: Sink, table: Table) -> None:
        self._sink = sink
        self._names = [column.name for column in table.columns]

    def write(self, batch: Batch) -> None:
        """Write rows."""
        names = self._names
        lines = (
            to_json(dict(zip(names, map(_json, row), strict=True)), inf_nan_mode="strings")
            for row in batch
        )
        self._sink.write(b"\n".join(lines) + b"\n")

    def close(self) -> None:
        """Nothing comes after the last row."""


def _field(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else _plain(value)
    if not text or _QUOTED.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    told = _json(value)
    return told if isinstance(told, str) else to_json(told, inf_nan_mode="strings").decode()


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bytes | memoryview):
        return b64encode(value).decode()
    return str(value) if isinstance(value, Decimal) else value


def moment(value: datetime) -> str:
    """A moment in UTC, with all of its microseconds."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""Writing tables into files: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Table

from amends.domain.ids import Position
from amends.errors import UsageError
from amends.projections.export.formats import Format
from amends.projections.export.reading import batches, open_tables
from amends.projections.export.text import CsvWriter, JsonLinesWriter, Sink, Writer


class Exported(NamedTuple):
    """A table that was written, the number of its rows, and the file if it is one."""

    table: str
    rows: int
    position: Position
    """The position up to which the projection had taken in the log."""
    file: Path | None = None


def export_to_folder(
    connection: Connection, name: str, format: Format, folder: Path, *, only: str | None = None
) -> list[Exported]:
    """Write the tables of a projection, all as of one moment, into `<table>.<format>` each.

    Either all files come into being, or none. Raises NotRegistered, UsageError for a file that
    exists or a format whose library is missing, and OSError.
    """
    make = writer_of(format)
    tables, position = open_tables(connection, name, only)
    files = {table: folder / f"{table.name}.{format}" for table in tables}
    for file in files.values():
        if file.exists():
            raise UsageError(f"{file} exists. Nothing was written; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    exported = []
    with ExitStack() as undo:
        parts = {table: file.with_name(f"{file.name}.part") for table, file in files.items()}
        for table, part in parts.items():
            undo.callback(part.unlink, missing_ok=True)
            with part.open("wb") as sink:
                rows = _write(connection, table, make(sink, table))
                sink.flush()
                os.fsync(sink.fileno())
            exported.append(Exported(table.name, rows, position, files[table]))
        for table, part in parts.items():
            part.replace(files[table])
    return exported


def export_to_sink(
    connection: Connection, name: str, format: Format, sink: Sink, *, only: str | None = None
) -> Exported:
    """Write one table of a projection. Raises NotRegistered, and UsageError where there are several and
    none was chosen, or for a format whose library is missing.
    """
    make = writer_of(format)
    tables, position = open_tables(connection, name, only)
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UsageError(
            f"projection {name!r} has several tables: {names}. Nothing was written. Choose one with "
            "--table, or a folder for all with --out"
        )
    (table,) = tables
    return Exported(table.name, _write(connection, table, make(sink, table)), position)


def writer_of(format: Format) -> Callable[[Sink, Table], Writer]:
    """What writes a format. Raises UsageError if its library is missing."""
    if format is Format.CSV:
        return CsvWriter
    if format is Format.JSONL:
        return JsonLinesWriter
    from amends.projections.export.parquet import ParquetWriter  # noqa: PLC0415 - brings pyarrow

    return ParquetWriter


def _write(connection: Connection, table: Table, writer: Writer) -> int:
    rows = 0
    for batch in batches(connection, table):
        writer.write(batch)
        rows += len(batch)
    writer.close()
    return rows

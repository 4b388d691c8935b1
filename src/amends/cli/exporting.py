"""`amends projections export`: a projection's tables as files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amends.cli.exits import Exit, Stop
from amends.cli.opening import looking, run
from amends.cli.options import Db
from amends.cli.output import busy, note
from amends.projections.export.formats import Format

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from amends.projections.export.files import Exported


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The projection's name.")],
    format: Annotated[
        Format, typer.Option("--format", help="What to write; parquet needs --out.")
    ] = Format.CSV,
    only: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="Only this table.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write TABLE.FORMAT there. Default: stdout.", show_default=False
        ),
    ] = None,
    db: Db = None,
) -> None:
    """Write the tables of a projection as CSV, JSON Lines or Parquet, as they are at this moment.

    Numbers and moments are exact. Files come into being whole, and none is overwritten.
    """
    if format is Format.PARQUET and out is None:
        raise typer.BadParameter("Parquet is not for stdout: name a folder with --out DIR")

    def write(connection: Connection) -> list[Exported]:
        from amends.projections.export import files  # noqa: PLC0415 - with what it needs

        if out is None:
            return [files.export_to_sink(connection, name, format, sys.stdout.buffer, only=only)]
        try:
            return files.export_to_folder(connection, name, format, out, only=only)
        except OSError as error:
            raise Stop(f"{out} cannot be written: {error}. No file was made") from error

    for table in run(_export(write, db)):
        where = "" if table.file is None else f" in {table.file}"
        note(f"{table.rows:,} rows of {table.table}{where}, as of position {table.position}")


async def _export(write: Callable[[Connection], list[Exported]], db: str | None) -> list[Exported]:
    async with looking(db) as client:
        if not client.projections.are_there:
            raise Stop("no projection has run here yet", Exit.NOT_FOUND)
        with busy("exporting"):
            return await client.projections.database.look(write)

"""The command line: `amends`."""

from __future__ import annotations

import io
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from amends.cli.exits import EXIT_CODES_HELP, leave, set_debug
from amends.cli.logs import LogLevel, configure_logs
from amends.cli.verbs import Root

app = typer.Typer(
    name="amends",
    cls=Root,
    no_args_is_help=True,
    epilog=EXIT_CODES_HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"amends {version('amends')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Durable execution for Python: run sagas, and look after them.

    Results go to stdout, everything else to stderr. With --json, stdout carries one JSON object
    per line. Times are UTC.
    """
    set_debug(debug)
    configure_logs(LogLevel.DEBUG if debug else LogLevel.WARNING)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show an arrow is no reason to show nothing.
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="amends")
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))

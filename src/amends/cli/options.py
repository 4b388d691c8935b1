"""Options and arguments that many verbs share, so that they mean the same everywhere."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic_core import from_json

from amends.domain.ids import InstanceId, Position, check_name
from amends.errors import UsageError
from amends.projections.filter import parse_span

AppName = Annotated[str, typer.Argument(metavar="APP", help="The application: module:attribute.")]
InstanceName = Annotated[str, typer.Argument(metavar="ID", help="The saga instance: saga/id.")]
Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="FILE",
        help="The store's file. Default: AMENDS_STORE, or amends.db here.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per line, and nothing else.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Who = Annotated[
    str | None,
    typer.Option("--who", metavar="NAME", help="Who decided. Default: your login name."),
]


def parse_instance(name: str) -> InstanceId:
    """The instance that an argument names. Raises BadParameter."""
    try:
        return InstanceId.parse(name)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def check_saga(name: str) -> None:
    """Raise BadParameter unless it can be the name of a saga."""
    try:
        check_name("saga", name)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def parse_age(text: str) -> timedelta:
    """A span of time: 90s, 30m, 1h, 2d, 1w. Raises BadParameter."""
    span = parse_span(text.strip())
    if span is None:
        raise typer.BadParameter(f"{text!r} is no span of time; write 90s, 30m, 1h, 2d or 1w")
    return span


def parse_when(text: str) -> datetime | Position:
    """A moment, in UTC unless it says otherwise, or a position in the log. Raises BadParameter."""
    if text.isdecimal() and len(text) < 20:
        return Position(int(text))
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a moment nor a position; write 2026-03-01T12:00Z, or 12345"
        ) from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def parse_json(text: str, what: str) -> Any:
    """A JSON value from the command line. Raises BadParameter with the place of the fault."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise typer.BadParameter(
            f"{what} is not JSON: {error}. A text is JSON in double quotes: '\"like this\"'"
        ) from None


def who_or_login(who: str | None) -> str:
    """Whose name goes on record. Raises BadParameter when there is none."""
    if who is not None:
        return who
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container with a nameless user
        raise typer.BadParameter("your login has no name; say --who NAME") from None

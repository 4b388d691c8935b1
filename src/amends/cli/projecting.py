"""`amends projections`: how far projections are, and what to do about one that stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from amends.cli.acting import Why
from amends.cli.exits import Exit, Stop
from amends.cli.exporting import export
from amends.cli.opening import looking, run
from amends.cli.options import Db, Json, Who, Yes, who_or_login
from amends.cli.output import clean, emit, note, show
from amends.cli.rebuilding import as_of, rebuild
from amends.cli.render import span, stamp, table
from amends.client import Client
from amends.domain.clock import Clock

if TYPE_CHECKING:
    from amends.projections.database import Database
    from amends.projections.records import Fault, Record

router = typer.Typer(
    name="projections",
    help="Read models over the log: how far they are, and what to do about one that stopped.",
    invoke_without_command=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection's name.")]
T = TypeVar("T")


class Overview(NamedTuple):
    """What is to be shown. `end` is the log's last position."""

    records: Sequence[Record]
    end: int
    now: datetime


@router.callback()
def list_(context: typer.Context, db: Db = None, json: Json = False) -> None:
    """Show how far projections are, and at which event one has stopped."""
    if context.invoked_subcommand is not None:
        return
    overview = run(_look(db))
    if json:
        for record in overview.records:
            emit(_json(record, overview.end))
    elif overview.records:
        show(_table(overview))
        for record in overview.records:
            if record.fault is not None:
                show(_stopped(record, record.fault))
    else:
        note("no projection has run here yet")


async def _look(db: str | None) -> Overview:
    async with looking(db) as client:
        end = await client.backend.store.end()
        now = client.backend.clock.now()
        if not _is_there(client):
            return Overview([], end, now)
        return Overview(await client.projections.records(), end, now)


def _is_there(client: Client) -> bool:
    """Whether the database exists: looking makes no file."""
    file = client.projections.database.file
    return file is None or file.exists()


@router.command()
def history(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one's.")] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show what was done to projections: made, rebuilt, resumed, events skipped; by whom and why."""
    done = [one for one in run(_history(db)) if name in (None, one["name"])]
    if json:
        for one in done:
            emit(one)
    elif done:
        show(_history_table(done))
    else:
        note("nothing was done to a projection here yet")


async def _history(db: str | None) -> Sequence[dict[str, Any]]:
    async with looking(db) as client:
        return await client.projections.history() if _is_there(client) else []


@router.command()
def resume(name: Name, why: Why = "", who: Who = None, db: Db = None, json: Json = False) -> None:
    """Let a stopped projection try its event again, with the code as it is now."""
    from amends.projections import operating  # noqa: PLC0415 - with what it needs

    fault = run(_decide(operating.resume, name, who_or_login(who), why, db))
    if json:
        emit({"resumed": name, "position": fault.position})
    else:
        note(f"{name} tries position {fault.position} ({fault.type}) again")


@router.command()
def skip(
    name: Name,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the record.")],
    who: Who = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Let a stopped projection pass over its event, which then is in none of its rows."""
    from amends.projections import operating  # noqa: PLC0415 - with what it needs

    fault = run(_decide(operating.skip, name, who_or_login(who), why, db))
    if json:
        emit({"skipped": name, "position": fault.position})
    else:
        note(f"{name} goes on behind position {fault.position} ({fault.type} in {fault.stream})")


@router.command()
def drop(
    name: Name,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the record.")],
    who: Who = None,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Drop the tables of a projection that nobody runs any more. The log can make them anew."""
    from amends.projections import operating  # noqa: PLC0415 - with what it needs

    if not yes:
        typer.confirm(f"Drop the tables of projection {name}?", abort=True, err=True)
    record = run(_decide(operating.drop, name, who_or_login(who), why, db))
    if json:
        emit({"dropped": name, "tables": record.tables})
    else:
        note(f"{name} is gone, and its tables: {', '.join(record.tables)}")


async def _decide(
    decide: Callable[..., Awaitable[T]], name: str, who: str, why: str, db: str | None
) -> T:
    async with looking(db) as client:
        if not _is_there(client):
            raise Stop("no projection has run here yet", Exit.NOT_FOUND)
        database: Database = client.projections.database
        clock: Clock = client.backend.clock
        return await decide(database, clock, name, who=who, why=why)


router.command()(rebuild)
router.command("as-of")(as_of)
router.command()(export)


# --- showing


def _table(overview: Overview) -> Table:
    numbers = ("version", "events", "behind")
    made = table("projection", *numbers, "at (UTC)", "state", "run by", right=numbers)
    for record in overview.records:
        made.add_row(
            Text(record.name if record.target == "live" else f"{record.name} ({record.target})"),
            str(record.version),
            f"{record.events:,}",
            f"{max(0, overview.end - record.position):,}",
            "" if record.at is None else stamp(record.at),
            Text("stopped", style="bold red") if record.is_stopped else Text(str(record.state)),
            Text(clean(_runner(record, overview.now))),
        )
    return made


def _history_table(done: Sequence[dict[str, Any]]) -> Table:
    numbers = ("version", "position")
    made = table("at (UTC)", "projection", "done", *numbers, "who", "why", right=numbers)
    for one in done:
        made.add_row(
            stamp(one["at"]), one["name"], one["action"], str(one["version"]),
            f"{one['position']:,}", Text(clean(one["who"] or "")), Text(clean(one["why"] or "")),
        )  # fmt: skip
    return made


def _runner(record: Record, now: datetime) -> str:
    if record.owner is None or record.leased_until is None:
        return "nobody"
    if record.leased_until < now:
        return f"nobody since {span(now - record.leased_until)}"
    return record.owner


def _stopped(record: Record, fault: Fault) -> Group:
    return Group(
        "",
        Text.assemble(
            (f"{record.name} stopped", "bold red"),
            f" at position {fault.position}, {fault.type} (event {fault.version} of "
            f"{clean(fault.stream)})",
        ),
        Text(clean(fault.traceback.rstrip()), style="dim"),
        Text(
            f"Correct it and let it try again: amends projections resume {record.name}\n"
            f"or pass over the event: amends projections skip {record.name} --why …"
        ),
    )


def _json(record: Record, end: int) -> dict[str, Any]:
    return {
        "name": record.name,
        "target": str(record.target),
        "version": record.version,
        "position": record.position,
        "behind": max(0, end - record.position),
        "events": record.events,
        "at": record.at,
        "updated": record.updated,
        "state": str(record.state),
        "fault": None if record.fault is None else record.fault._asdict(),
        "owner": record.owner,
        "leased_until": record.leased_until,
        "tables": record.tables,
    }

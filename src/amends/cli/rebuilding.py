"""`amends projections rebuild` and `as-of`: projections built from the log, before one's eyes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from amends.app import App
from amends.cli.acting import Why
from amends.cli.appload import load_app
from amends.cli.exits import Exit, Stop
from amends.cli.opening import looking, run
from amends.cli.options import Db, Json, Who, parse_when, who_or_login
from amends.cli.output import clean, console, emit, note, show
from amends.cli.render import compact, table
from amends.client import Client
from amends.domain.ids import Position

if TYPE_CHECKING:
    from amends.projections.definition import Projection
    from amends.projections.diff import TableDiff
    from amends.projections.rebuild import Rebuilt

Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection's name.")]
AppOption = Annotated[
    str,
    typer.Option(
        "--app", metavar="APP", envvar="AMENDS_APP", help="Its application: module:attribute."
    ),
]


def rebuild(
    name: Name,
    app: AppOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and compare, and leave all as it is.")
    ] = False,
    allow: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Swap although up to N rows are different."),
    ] = 0,
    why: Why = "",
    who: Who = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Build a projection anew from the log, beside the live one; compare the two, and swap them.

    The live one goes on meanwhile. If rows are different nothing is swapped, unless --allow says
    how many may be. If the version has grown they are swapped whatever is different, unless --allow
    is given and more is.
    """
    application = load_app(app)
    rebuilt = run(_rebuild(application, name, dry_run, allow, who_or_login(who), why, db))
    if json:
        emit(_json(name, rebuilt))
    else:
        _tell(name, rebuilt)
    if not rebuilt.swapped and not dry_run:
        raise Stop(
            f"{name} was not swapped: {rebuilt.reason}. It is as it was before. "
            f"--allow {rebuilt.differences} swaps it"
        )


def as_of(
    name: Name,
    app: AppOption,
    at: Annotated[
        str, typer.Option(metavar="WHEN", help="A moment (2026-03-01T12:00Z) or a position.")
    ],
    into: Annotated[Path, typer.Option(metavar="FILE", help="The SQLite file to make.")],
    db: Db = None,
    json: Json = False,
) -> None:
    """Build a projection as it was at a moment or position, into a file of its own."""
    application = load_app(app)
    until = parse_when(at)
    if into.exists():
        raise Stop(f"{into} exists already. Nothing was changed. Name a new file", Exit.USAGE)
    record = run(_as_of(application, name, until, into, db))
    if json:
        emit({"name": name, "file": str(into), "events": record.events, "at": record.at})
    else:
        note(f"{name} as of {at}: {record.events:,} events, in {into}")


async def _rebuild(
    app: App, name: str, dry_run: bool, allow: int, who: str, why: str, db: str | None
) -> Rebuilt:
    from amends.projections.rebuild import Rebuild  # noqa: PLC0415 - with what it needs

    async with looking(db, app) as client:
        projection = _projection(client, name)
        file = client.projections.database.file
        if file is not None and not file.exists():
            raise Stop("no projection has run here yet", Exit.NOT_FOUND)
        with _progress(name, await client.backend.store.end()) as progress:
            work = Rebuild(
                projection, client.backend.store, client.projections.database,
                client.backend.clock, who=who, why=why, progress=progress,
            )  # fmt: skip
            return await work.run(allow=allow, dry_run=dry_run)


async def _as_of(
    app: App, name: str, until: datetime | Position, into: Path, db: str | None
) -> Any:
    from amends.projections.build import build  # noqa: PLC0415 - with what it needs
    from amends.projections.database import Database  # noqa: PLC0415

    async with looking(db, app) as client, Database.at(f"sqlite:///{into}") as database:
        projection = _projection(client, name)
        store = client.backend.store
        with _progress(name, await store.end()) as progress:
            return await build(projection, store, database, until=until, progress=progress)


def _projection(client: Client, name: str) -> Projection:
    known = client.projections.known
    if name not in known:
        raise Stop(
            f"the application has no projection {name!r}; it has {', '.join(known) or 'none'}",
            Exit.NOT_FOUND,
        )
    return known[name]


@contextmanager
def _progress(name: str, end: int) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal: how far it is, events a second, time left."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.fields[events]:,} events"), TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(clean(name), total=end + 1, events=0, rate=0.0)
        done = 0

        def progress(events: int, position: int) -> None:
            nonlocal done
            done += events
            elapsed = bar.tasks[task].elapsed or 0.001
            bar.update(task, completed=position + 1, events=done, rate=done / elapsed)

        yield progress


# --- showing


def _tell(name: str, rebuilt: Rebuilt) -> None:
    numbers = ("rows", "added", "missing", "changed")
    made = table("table", *numbers, right=numbers)
    for one in rebuilt.diff:
        counts = [f"{n:,}" for n in (one.added, one.missing, one.changed)]
        made.add_row(one.table, f"{one.rows:,}", *(counts if one.comparable else ["", "", ""]))
    show(made)
    for one in rebuilt.diff:
        for line in _examples(one):
            show(line)
    if rebuilt.swapped:
        note(f"{name} is rebuilt: version {rebuilt.version}, {rebuilt.events:,} events")
    else:
        note(f"{name} is as it was before: {rebuilt.reason}")


def _examples(diff: TableDiff) -> Iterator[Text]:
    if diff.size:
        yield Text(f"\n{diff.table}, for example:", style="bold")
    for row in diff.added_rows:
        yield Text(f"  added    {compact(row)}", style="green")
    for row in diff.missing_rows:
        yield Text(f"  missing  {compact(row)}", style="red")
    for before, after in diff.changed_rows:
        yield Text(f"  changed  {compact(before)}\n        to {compact(after)}", style="yellow")


def _json(name: str, rebuilt: Rebuilt) -> dict[str, Any]:
    return {
        "name": name,
        "swapped": rebuilt.swapped,
        "reason": rebuilt.reason,
        "version": rebuilt.version,
        "position": rebuilt.position,
        "events": rebuilt.events,
        "differences": rebuilt.differences,
        "tables": [
            one._asdict() | {"changed_rows": [row._asdict() for row in one.changed_rows]}
            for one in rebuilt.diff
        ],
    }

"""`amends purge`: removing the journals of sagas that ended long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

import typer

from amends.cli.opening import acting, looking, run
from amends.cli.options import Db, Json, Yes, check_saga, parse_age
from amends.cli.output import busy, emit, note, warn
from amends.cli.render import span
from amends.sagas.retention import Purged
from amends.sagas.retention import purge as purge_all

router = typer.Typer()

#: Reports may be late, and starts be repeated: below this nobody should be in a hurry.
AGE_MIN: Final = timedelta(days=1)


@router.command()
def purge(
    older_than: Annotated[
        str,
        typer.Option(metavar="AGE", help="Only what ended longer ago: 36h, 30d, 12w."),
    ],
    saga: Annotated[str | None, typer.Option(help="Only this saga's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Allow an AGE below a day.")] = False,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Remove the journals of sagas that ended long ago. FOR GOOD.

    Their history goes, and so do the domain events that they emitted. Their ids are free then:
    a start under such an id is no repeat any more, but a NEW saga that does everything again.

    A saga that has not ended, or waits for somebody, or for which a message is still to come (a
    deadline, say), is never removed. An engine does the same by itself with
    AMENDS_RETENTION_DAYS.
    """
    age = parse_age(older_than)
    if age < AGE_MIN and not force:
        raise typer.BadParameter(
            f"{older_than} is below a day: late reports, and starts that are repeated, may still "
            "be on their way. Nothing was removed. --force allows it"
        )
    if saga is not None:
        check_saga(saga)
    if dry_run:
        _done(run(_count(db, age, saga)), dry_run=True, json=json)
        return
    if not yes:
        _confirm(run(_count(db, age, saga)), age)
    _done(run(_remove(db, age, saga)), dry_run=False, json=json)


async def _count(db: str | None, age: timedelta, saga: str | None) -> Purged:
    async with looking(db) as client:
        with busy("reading the log"):
            backend = client.backend
            return await purge_all(backend.store, backend.clock, age, saga=saga, dry_run=True)


async def _remove(db: str | None, age: timedelta, saga: str | None) -> Purged:
    async with acting(db) as client:
        with busy("removing"):
            return await purge_all(client.backend.store, client.backend.clock, age, saga=saga)


def _confirm(found: Purged, age: timedelta) -> None:
    if not found.journals:
        return
    warn(
        f"The journals of {_count_of(found)} that ended more than {span(age)} ago will be removed "
        "FOR GOOD, and the domain events in them. A start under one of their ids will be a NEW "
        "saga, which does everything again."
    )
    typer.confirm("Remove them?", abort=True, err=True)


def _done(purged: Purged, *, dry_run: bool, json: bool) -> None:
    if json:
        emit({"dry_run": dry_run, **purged._asdict()})
        return
    note(f"{'would remove' if dry_run else 'removed'} the journals of {_count_of(purged)}")
    if purged.kept:
        note(
            f"{purged.kept:,} more ended so long ago and stay: something of them is open, later "
            "or still to come, or cannot be read"
        )


def _count_of(purged: Purged) -> str:
    instances = f"{purged.journals:,} instance{'' if purged.journals == 1 else 's'}"
    return f"{instances} ({purged.events:,} events)"

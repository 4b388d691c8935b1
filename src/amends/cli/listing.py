"""`amends list`: many instances at a glance."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from amends.cli.opening import looking, run
from amends.cli.options import Db, Json, check_saga, parse_age
from amends.cli.output import busy, clean, emit, note, show
from amends.cli.render import span, stamp, state_of, state_text, table
from amends.cli.visibility import ask
from amends.client import Client
from amends.domain.status import Status
from amends.projections.filter import Filter, parse_filter
from amends.projections.sagas import OpenStep, SagaSummary, newest_first

if TYPE_CHECKING:
    from sqlalchemy import Connection

router = typer.Typer()

#: Of what an instance is at, and what is wrong; `amends show` has all of it.
AT_CHARS_MAX: Final = 80


@router.command("list")
def list_(
    filter: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILTER]...",
            help="Terms that must all fit: state:parked,stalled saga:transfer id:order-* step:NAME "
            "error:TYPE older:1h newer:2d idle:30m, and values in the input: payer:DE89*.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        list[Status] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help=f"Only in this state: {', '.join(Status)}. Repeat it for several.",
        ),
    ] = None,
    saga: Annotated[str | None, typer.Option(help="Only this saga's.")] = None,
    older: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only started longer ago: 90s, 30m, 1h, 2d, 1w."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    db: Db = None,
    json: Json = False,
) -> None:
    """List saga instances, the latest first.

    An instance whose journal cannot be read is listed whatever its state may be. The projection
    `sagas` is asked where the application has it, else the log is read.
    """
    terms = list(filter or ())
    if state:
        terms.append(f"state:{','.join(state)}")
    if saga is not None:
        check_saga(saga)
        terms.append(f"saga:{saga}")
    if older is not None:
        parse_age(older)
        terms.append(f"older:{older.strip()}")
    run(_list(parse_filter(" ".join(terms)), limit, db=db, json=json))


async def _list(filter: Filter, limit: int, *, db: str | None, json: bool) -> None:
    async with looking(db) as client:
        now = client.backend.clock.now()
        found = await ask(client, lambda connection: _find(connection, filter, now, limit))
        if found is None:
            with busy("reading the log"):
                found = await _read(client, filter, now, limit)
    instances, more = found
    if json:
        for summary in instances:
            emit(summary_json(summary))
    elif instances:
        show(_table(instances, now))
        if more:
            note(f"the latest {limit}; --limit shows more")
    else:
        note("no instance fits" if filter.text else "no saga was started here yet")


def _find(
    connection: Connection, filter: Filter, now: datetime, limit: int
) -> tuple[list[SagaSummary], bool]:
    from amends.projections.builtin.finding import find  # noqa: PLC0415 - with what it needs

    return find(connection, filter, now, limit)


async def _read(
    client: Client, filter: Filter, now: datetime, limit: int
) -> tuple[list[SagaSummary], bool]:
    """From the journals."""
    found: list[SagaSummary] = []
    named: set[str] = set()
    exact = [value.text for value in filter.sagas if not value.is_prefix]
    saga = exact[0] if len(filter.sagas) == len(exact) == 1 else None
    before = None if filter.older is None else now - filter.older
    async for summary in newest_first(client.backend.store, saga=saga, started_before=before):
        named |= summary.fields.keys()
        if filter.fits(summary, now):
            if len(found) == limit:
                return found, True
            found.append(summary)
    for field in filter.fields:
        if not found and field.name not in named:
            raise filter.unknown(field)
    return found, False


def _table(summaries: list[SagaSummary], now: datetime) -> Any:
    made = table("instance", "state", "at", "age", "idle", right=("age", "idle"))
    for column in (1, 3, 4):
        made.columns[column].no_wrap = True
    for summary in summaries:
        made.add_row(
            Text(str(summary.instance)),
            state_text(state_of(summary)),
            _where(summary),
            span(now - summary.started_at),
            span(now - summary.updated_at),
        )
    return made


def _where(summary: SagaSummary) -> Text:
    """What an instance is at, and what is wrong."""
    if summary.fault is not None:
        return Text(clean(str(summary.fault)), style="red")
    text = Text()
    step = summary.step
    if step is not None:
        text.append(f"{step.seq} {step.activity}")
        if step.attempt > 1:
            text.append(f" (attempt {step.attempt})", style="dim")
    elif summary.next_timer is not None:
        text.append(f"timer {stamp(summary.next_timer)}", style="dim")
    if summary.error is not None:
        text.append(": " if text else "")
        text.append(clean(f"{summary.error.type}: {summary.error.message}"), style="red")
    text.truncate(AT_CHARS_MAX, overflow="ellipsis")
    return text


def summary_json(summary: SagaSummary) -> dict[str, Any]:
    """An instance as a JSON object."""
    error = summary.error
    return {
        "instance": str(summary.instance),
        "saga": summary.instance.saga,
        "id": summary.instance.id,
        "state": str(state_of(summary)),
        "step": None if summary.step is None else _step_json(summary.step),
        "parked": [_step_json(step) for step in summary.parked],
        "error": None
        if error is None
        else error.model_dump(mode="json", include={"type", "message"}),
        "next_timer": summary.next_timer,
        "started_at": summary.started_at,
        "updated_at": summary.updated_at,
        "events": summary.events,
        "fault": None if summary.fault is None else str(summary.fault),
    }


def _step_json(step: OpenStep) -> dict[str, Any]:
    return {
        "seq": step.seq,
        "activity": step.activity,
        "kind": str(step.kind),
        "attempt": step.attempt,
        "retry_at": step.retry_at,
        "error": None if step.error is None else f"{step.error.type}: {step.error.message}",
    }

"""`amends list`: many instances at a glance."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from amends.cli.opening import looking, run
from amends.cli.options import Db, Json, check_saga, parse_age
from amends.cli.output import busy, clean, emit, note, show
from amends.cli.render import span, stamp, state_of, state_text, table
from amends.domain.status import Status
from amends.projections.sagas import OpenStep, SagaSummary, newest_first

router = typer.Typer()

#: Of what an instance is at, and what is wrong; `amends show` has all of it.
AT_CHARS_MAX: Final = 80


@router.command("list")
def list_(
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

    An instance whose journal cannot be read is listed whatever its state may be.
    """
    if saga is not None:
        check_saga(saga)
    age = None if older is None else parse_age(older)
    run(_list(set(state or ()), saga, age, limit, db=db, json=json))


async def _list(
    states: set[Status], saga: str | None, age: timedelta | None, limit: int, *,
    db: str | None, json: bool,
) -> None:  # fmt: skip
    found: list[SagaSummary] = []
    more = False
    async with looking(db) as client:
        now = client.backend.clock.now()
        before = None if age is None else now - age
        with busy("reading the log"):
            async for summary in newest_first(
                client.backend.store, saga=saga, started_before=before
            ):
                if states and summary.fault is None and summary.state not in states:
                    continue
                if more := len(found) == limit:
                    break
                found.append(summary)
    if json:
        for summary in found:
            emit(summary_json(summary))
    elif found:
        show(_table(found, now))
        if more:
            note(f"the latest {limit}; --limit shows more")
    else:
        note("no instance fits" if states or saga or age else "no saga was started here yet")


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
        "error": None if error is None else error.model_dump(mode="json", exclude={"declared"}),
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

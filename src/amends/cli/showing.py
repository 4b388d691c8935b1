"""`amends show`: one instance, as the story that its journal tells."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic_core import from_json
from rich.console import Group
from rich.table import Table
from rich.text import Text

from amends.cli.hints import hints_for
from amends.cli.opening import looking, run
from amends.cli.options import Db, InstanceName, Json, parse_instance
from amends.cli.output import clean, emit, show
from amends.cli.render import clock_time, span, stamp, state_of, state_text
from amends.cli.timeline import Line, Timeline
from amends.domain.envelope import CORRELATION_ID, RecordedEvent, decode_metadata
from amends.projections.sagas import SagaSummary

router = typer.Typer()


@router.command("show")
def show_(
    id: InstanceName,
    full: Annotated[
        bool, typer.Option("--full", help="Show values and tracebacks in full.")
    ] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show what happened to a saga instance, and what to do if it waits for you.

    With --json: its events, as they are in the store.
    """
    instance = parse_instance(id)

    async def read() -> tuple[list[RecordedEvent], datetime]:
        async with looking(db) as client:
            return await client.journal(instance), client.backend.clock.now()

    records, now = run(read())
    if json:
        for record in records:
            emit(event_json(record))
        return
    summary = SagaSummary(instance)
    summary.take(records)
    show(header(summary, records[0], now))
    show(story(Timeline(whole=full).lines(records)))
    for hint in hints_for(summary, now):
        show(hint)


def event_json(record: RecordedEvent) -> dict[str, Any]:
    """An event as a JSON object, as it is in the store."""
    return {
        "stream": record.stream,
        "version": record.version,
        "position": record.position,
        "id": str(record.id),
        "type": record.type,
        "recorded_at": record.recorded_at,
        "data": _json_or_text(record.data),
        "metadata": _json_or_text(record.metadata or b"{}"),
    }


def _json_or_text(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:
        return data.decode(errors="replace")


def header(summary: SagaSummary, first: RecordedEvent, now: datetime) -> Group:
    """An instance in a few lines; `now` is the moment at which it is looked at."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    state = state_of(summary)
    final = summary.fault is None and summary.state.is_final
    age = "took" if final else "so far"
    until = summary.updated_at if final else now
    facts.add_row(
        "started", f"{stamp(summary.started_at)} UTC, {age} {span(until - summary.started_at)}"
    )
    if not final:
        facts.add_row("idle", span(now - summary.updated_at))
    correlation = _correlation_of(first)
    if correlation:
        facts.add_row("correlation", Text(clean(correlation)))
    if summary.fault is not None:
        facts.add_row("unreadable", Text(clean(str(summary.fault)), style="red"))
    title = Text.assemble((str(summary.instance), "bold"), "  ", state_text(state))
    return Group(title, facts, "")


def _correlation_of(first: RecordedEvent) -> str:
    try:
        return str(decode_metadata(first).get(CORRELATION_ID, ""))
    except ValueError:
        return ""


def story(lines: Sequence[Line]) -> Table:
    """The lines of a timeline, one below the other."""
    made = Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True, style="dim")
    made.add_column(justify="right", no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    day = ""
    for line in lines:
        if (today := stamp(line.at)[:10]) != day:
            day = today
            made.add_row(Text(f"{day} UTC"))
        text = Text(clean(line.what), style=line.style)
        if line.detail:
            separator = "\n" if "\n" in line.detail else "  "
            text = Text.assemble(text, (separator + clean(line.detail), "dim"))
        made.add_row(
            clock_time(line.at), "" if line.seq is None else str(line.seq),
            Text(line.mark, style=line.style), text,
        )  # fmt: skip
    return made

"""`amends audit`: what was known when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer
from pydantic_core import to_jsonable_python
from rich.text import Text

from amends.cli import proving
from amends.cli.appload import load_aggregate
from amends.cli.exits import Exit, Stop
from amends.cli.listing import summary_json
from amends.cli.opening import looking, run
from amends.cli.options import Db, Json, parse_when
from amends.cli.output import clean, emit, note, show
from amends.cli.render import compact, stamp, table
from amends.cli.showing import event_json, header, story
from amends.cli.timeline import Timeline
from amends.domain.aggregate import Aggregate
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import InstanceId, Position, StreamName
from amends.projections.past import read_as_of
from amends.projections.sagas import SagaSummary

router = typer.Typer(
    name="audit", help="What happened, to whom and when, and the proof of it.", no_args_is_help=True
)
router.add_typer(proving.verbs)


class Past(NamedTuple):
    """A stream as it was."""

    stream: StreamName
    when: datetime | Position
    now: datetime
    events: list[RecordedEvent]


@router.command("show")
def show_(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="A saga instance, saga/id; or a stream, account-7.")
    ],
    as_of: Annotated[
        str,
        typer.Option("--as-of", metavar="WHEN", help="A moment (2026-03-01T12:00Z) or a position."),
    ],
    aggregate: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="The aggregate's class, module:Class, for its state."),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show a saga instance or an aggregate as it was at a moment: its state and its events then.

    A moment means: up to the first of its events that was recorded later.
    """
    instance = InstanceId.parse(id) if "/" in id else None
    cls = None if aggregate is None else load_aggregate(aggregate)
    stream = StreamName(id) if instance is None else instance.stream
    past = run(_read(stream, parse_when(as_of), db))
    if not past.events:
        raise Stop(f"{id} did not exist as of {as_of}, or its events were removed since",
                   Exit.NOT_FOUND)  # fmt: skip
    if instance is not None:
        _show_instance(instance, past, json=json)
    else:
        _show_stream(past, _state(cls, past), json=json)


async def _read(stream: StreamName, when: datetime | Position, db: str | None) -> Past:
    async with looking(db) as client:
        events = await read_as_of(client.backend.store, stream, when)
        return Past(stream, when, client.backend.clock.now(), events)


def _show_instance(instance: InstanceId, past: Past, *, json: bool) -> None:
    summary = SagaSummary(instance)
    summary.take(past.events)
    if json:
        _emit(past, summary_json(summary))
        return
    show(header(summary, past.events[0], _moment(past)))
    show(story(Timeline(whole=False).lines(past.events)))
    _tell(past)


def _moment(past: Past) -> datetime:
    """The moment that was asked for; of a position, that of the last event."""
    return past.when if isinstance(past.when, datetime) else past.events[-1].recorded_at


def _state(cls: type[Aggregate] | None, past: Past) -> dict[str, Any] | None:
    if cls is None:
        return None
    if past.stream.category != cls.category:
        raise Stop(f"{past.stream} is no {cls.__qualname__}: its streams are {cls.category}-…",
                   Exit.USAGE)  # fmt: skip
    id = past.stream.partition("-")[2]
    aggregate = cls.of(id, map(cls.registry.decode, past.events))
    own = {name: value for name, value in vars(aggregate).items() if not name.startswith("_")}
    state: dict[str, Any] = to_jsonable_python(own, fallback=repr)
    return state


def _show_stream(past: Past, state: dict[str, Any] | None, *, json: bool) -> None:
    if json:
        _emit(past, state)
        return
    show(Text(past.stream, style="bold"))
    for name, value in (state or {}).items():
        show(Text.assemble((f"  {name}  ", "dim"), compact(value)))
    show(_events(past.events))
    _tell(past)


def _events(events: Sequence[RecordedEvent]) -> Any:
    made = table("version", "at (UTC)", "type", "data", right=("version",))
    for record in events:
        data = event_json(record)["data"]
        made.add_row(
            str(record.version), stamp(record.recorded_at), Text(clean(record.type)),
            Text(compact(data, 100)),
        )  # fmt: skip
    return made


def _tell(past: Past) -> None:
    last = past.events[-1]
    count = len(past.events)
    note(
        f"{count:,} event{'' if count == 1 else 's'}; the last at position {last.position}, "
        f"{last.recorded_at.astimezone(UTC).isoformat()}"
    )


def _emit(past: Past, state: dict[str, Any] | None) -> None:
    emit(
        {
            "stream": past.stream,
            "as_of": past.when,
            "state": state,
            "version": past.events[-1].version,
            "position": past.events[-1].position,
            "events": [event_json(record) for record in past.events],
        }
    )

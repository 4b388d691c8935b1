"""`amends events`: the log as it grows."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Annotated

import typer
from rich.text import Text

from amends.cli.opening import looking, run
from amends.cli.options import Db, Json
from amends.cli.output import clean, console, emit, show
from amends.cli.render import stamp
from amends.cli.showing import event_json
from amends.domain.envelope import RecordedEvent
from amends.stores.port import EventFilter, EventStore

router = typer.Typer()


@router.command()
def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    type: Annotated[
        list[str] | None, typer.Option("--type", help="Only of this type; repeat it for several.")
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option("--stream", help="Only of streams that begin so; repeat it for several."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many of the past.")] = 50,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show the last events of the log, of sagas and all else, and follow it."""
    filter = EventFilter(tuple(stream or ()), tuple(type or ()))

    async def work() -> None:
        async with looking(db) as client:
            await _tail(client.backend.store, filter, limit, follow=follow, json=json)

    # Ctrl-C is how following ends.
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        run(work())


async def _tail(
    store: EventStore, filter: EventFilter, limit: int, *, follow: bool, json: bool
) -> None:
    end = await store.end()
    past = await store.read_all_backwards(filter=filter, limit=limit) if limit else []
    for record in reversed(past):
        _say(record, json=json)
    if not follow:
        return
    sys.stdout.flush()
    after = past[0].position if past else end
    async for record in store.subscribe(after, filter=filter):
        _say(record, json=json)
        sys.stdout.flush()


def _say(record: RecordedEvent, *, json: bool) -> None:
    if json:
        emit(event_json(record))
        return
    line = Text.assemble(
        (f"{stamp(record.recorded_at)}Z ", "dim"),
        (f"{record.position:>7} ", "dim"),
        clean(f"{record.stream}@{record.version} "),
        (clean(record.type), "bold"),
        (clean(f" {record.data.decode(errors='replace')}"), "dim"),
    )
    out = console()
    if out.is_terminal:
        line.truncate(out.width, overflow="ellipsis")
    show(line, whole_lines=True)

"""`amends status`: how the whole of it is: instances, queues, processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from amends.app import App
from amends.broker.port import Process, QueueDepth
from amends.broker.topology import COMMANDS_PREFIX, INBOX_PREFIX, all_queues
from amends.cli.appload import load_app
from amends.cli.opening import looking, run
from amends.cli.options import Db, Json
from amends.cli.output import busy, clean, emit, note, show
from amends.cli.render import span, state_text, table
from amends.cli.visibility import ask
from amends.client import Client
from amends.projections.counts import count_states
from amends.projections.filter import UNREADABLE
from amends.settings import Settings, redacted

if TYPE_CHECKING:
    from sqlalchemy import Connection

router = typer.Typer()

#: A message that waits in an inbox for longer means that nobody takes it.
IDLE_S: Final = 30


class Overview(NamedTuple):
    """What is to be shown. `counts` are instances, by saga and state."""

    settings: Settings
    now: datetime
    counts: Counter[tuple[str, str]]
    depths: list[QueueDepth]
    processes: list[Process]


@router.command()
def status(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="APP",
            help="An application whose queues to show also while nobody consumes them.",
            show_default=False,
        ),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show how many instances are in which state, how full the queues are, and who is at work."""
    overview = run(_look(App() if app is None else load_app(app), db))
    if json:
        emit(_json(overview))
        return
    for block in _blocks(overview):
        show(block)
    if not overview.counts:
        note("no saga was started here yet")
    for hint in _hints(overview):
        note(hint)


async def _look(app: App, db: str | None) -> Overview:
    async with looking(db) as client:
        counts = await ask(client, _count)
        if counts is None:
            counts = await _count_in_log(client)
        broker = client.backend.broker
        return Overview(
            settings=client.settings,
            now=client.backend.clock.now(),
            counts=counts,
            depths=await broker.depths(all_queues(app.queues, client.settings.partitions)),
            processes=await broker.processes(),
        )


def _count(connection: Connection) -> Counter[tuple[str, str]]:
    from amends.projections.builtin.finding import count  # noqa: PLC0415 - with what it needs

    return count(connection)


async def _count_in_log(client: Client) -> Counter[tuple[str, str]]:
    with busy("reading the log"):
        counts = await count_states(client.backend.store)
    by_state: Counter[tuple[str, str]] = Counter()
    for (saga, state), count in counts.items():
        by_state[saga, UNREADABLE if state is None else str(state)] = count
    return by_state


# --- for programs


def _json(overview: Overview) -> dict[str, Any]:
    states: Counter[str] = Counter()
    by_saga: dict[str, dict[str, int]] = {}
    for (saga, state), count in sorted(overview.counts.items()):
        states[state] += count
        by_saga.setdefault(saga, {})[state] = count
    return {
        "store": redacted(overview.settings.store),
        "broker": redacted(overview.settings.broker),
        "instances": overview.counts.total(),
        "states": dict(states),
        "sagas": by_saga,
        "queues": [depth._asdict() for depth in overview.depths],
        "processes": [process._asdict() for process in overview.processes],
    }


# --- for people


def _blocks(overview: Overview) -> Iterator[Text | Group]:
    yield Text.assemble(("store   ", "dim"), redacted(overview.settings.store))
    if not overview.settings.is_embedded:
        yield Text.assemble(("broker  ", "dim"), redacted(overview.settings.broker))
    if overview.counts:
        yield Group("", _counts_table(overview.counts))
    if overview.depths:
        yield Group("", _depths_table(overview.depths, overview.now))
    if overview.processes:
        yield Group("", _processes_table(overview.processes, overview.now))


def _counts_table(counts: Counter[tuple[str, str]]) -> Table:
    made = table("saga", "state", "instances", right=("instances",))
    for (saga, state), count in sorted(counts.items()):
        made.add_row(saga, state_text(state), f"{count:,}")
    return made


def _depths_table(depths: Sequence[QueueDepth], now: datetime) -> Table:
    numbers = ("ready", "delayed", "dead", "oldest")
    told = ("consumers", "owner") if _tells_of_consumers(depths) else ()
    made = table("queue", *numbers, *told, right=(*numbers, "consumers"))
    for depth in depths:
        consumers = "" if depth.consumers is None else f"{depth.consumers:,}"
        made.add_row(
            depth.queue,
            f"{depth.ready:,}",
            f"{depth.delayed:,}",
            Text(f"{depth.dead:,}", style="bold red" if depth.dead else ""),
            "" if depth.oldest is None else span(now - depth.oldest),
            *((consumers, Text(clean(depth.owner or ""))) if told else ()),
        )
    return made


def _processes_table(processes: Sequence[Process], now: datetime) -> Table:
    made = table("process", "queues", "inboxes", "held", "blocked", right=("held",))
    for process in processes:
        since = process.blocked_since
        made.add_row(
            Text(clean(process.name)),
            Text(clean(_names(process.queues, COMMANDS_PREFIX))),
            Text(clean(_names(process.owns, INBOX_PREFIX))),
            f"{process.held:,}",
            Text("" if since is None else f"for {span(now - since)}", style="bold red"),
        )
    return made


def _names(queues: Sequence[str], prefix: str) -> str:
    """The queues of one kind, without what they all begin with."""
    names = [queue.removeprefix(prefix) for queue in queues if queue.startswith(prefix)]
    return ", ".join(sorted(names, key=lambda name: (len(name), name)))


def _tells_of_consumers(depths: Sequence[QueueDepth]) -> bool:
    return any(depth.consumers is not None for depth in depths)


def _hints(overview: Overview) -> Iterator[str]:
    """What a person should look at, and how."""
    depths, now = overview.depths, overview.now
    for process in overview.processes:
        if process.blocked_since is not None:
            yield (
                f"the broker has taken nothing from {process.name} for "
                f"{span(now - process.blocked_since)}: it raised an alarm (memory, disk). Nothing "
                "is lost, and all goes on when the alarm ends: rabbitmq-diagnostics alarms"
            )
    inboxes = [depth for depth in depths if depth.queue.startswith(INBOX_PREFIX)]
    if _tells_of_consumers(depths):
        yield from _unserved(inboxes, depths)
    waiting = [depth.oldest for depth in inboxes if depth.oldest]
    if waiting and (now - min(waiting)).total_seconds() > IDLE_S:
        yield "messages wait in an inbox: is an engine running? (amends dev APP)"
    if any(depth.dead for depth in depths):
        yield "messages were put aside for a person: amends dead list"


def _unserved(inboxes: Sequence[QueueDepth], depths: Sequence[QueueDepth]) -> Iterator[str]:
    if lonely := [depth.queue for depth in inboxes if depth.owner is None and not depth.consumers]:
        yield (
            f"nobody owns {', '.join(lonely)}: is an orchestrator running? "
            "(amends orchestrator APP, or amends dev APP)"
        )
    commands = [depth for depth in depths if depth.queue.startswith(COMMANDS_PREFIX)]
    if idle := [depth.queue for depth in commands if not depth.consumers]:
        names = ",".join(queue.removeprefix(COMMANDS_PREFIX) for queue in idle)
        yield f"nobody consumes {', '.join(idle)}: amends worker APP --queues {names}"

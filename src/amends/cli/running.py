"""`amends dev`, `orchestrator`, `worker`: an engine, or a part of it, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from amends.app import App
from amends.cli.appload import load_app
from amends.cli.exits import Exit, Stop
from amends.cli.logs import LogLevel, configure_logs
from amends.cli.opening import run
from amends.cli.options import AppName, Db, Json
from amends.cli.output import emit, show
from amends.cli.render import span
from amends.cli.serving import serve, serve_projections
from amends.projections.reading import names_of
from amends.settings import Settings, redacted

router = typer.Typer()

Level = Annotated[LogLevel, typer.Option("--log-level", help="The least to log.")]


class Part(NamedTuple):
    """What one process runs of an application."""

    name: str
    app: App
    settings: Settings
    orchestrates: bool
    queues: tuple[str, ...]
    projects: bool = False

    @property
    def projections(self) -> list[str]:
        """The projections that it runs."""
        return names_of(self.app.projections, self.settings) if self.projects else []


@router.command()
def dev(app: AppName, db: Db = None, log_level: Level = LogLevel.INFO, json: Json = False) -> None:
    """Run sagas, activities and projections in this process, until it is told to stop.

    Ctrl-C or SIGTERM stops gracefully: what runs may finish (AMENDS_SHUTDOWN_GRACE_S), the rest
    is handed back and run again later. A second one stops at once; nothing durable is lost.
    """
    configure_logs(log_level)
    application = load_app(app)
    settings = Settings.of(db)
    queues, projects = application.queues, settings.run_projections
    _run(Part(app, application, settings, True, queues, projects), json=json)


@router.command()
def orchestrator(
    app: AppName, db: Db = None, log_level: Level = LogLevel.INFO, json: Json = False
) -> None:
    """Run sagas in this process, and no activities; see `amends worker` and `amends projector`.

    For brokers that processes share. Several orchestrators spread the instances among them; each
    of them may die. It stops as `amends dev` does.
    """
    configure_logs(log_level)
    settings = _shared(Settings.of(db))
    _run(Part(app, load_app(app), settings, orchestrates=True, queues=()), json=json)


@router.command()
def worker(
    app: AppName,
    queues: Annotated[
        str | None,
        typer.Option(metavar="QUEUE,...", help="Only these activity queues. Default: all."),
    ] = None,
    db: Db = None,
    log_level: Level = LogLevel.INFO,
    json: Json = False,
) -> None:
    """Run activities in this process, for sagas that `amends orchestrator` runs.

    For brokers that processes share. Several workers share the commands of a queue; each of them
    may die. It stops as `amends dev` does.
    """
    configure_logs(log_level)
    settings = _shared(Settings.of(db))
    application = load_app(app)
    consumed = application.queues_named(None if queues is None else _names(queues))
    if not consumed:
        raise Stop("there is no activity queue to consume. Nothing was opened", Exit.USAGE)
    _run(Part(app, application, settings, orchestrates=False, queues=consumed), json=json)


@router.command()
def projector(
    app: AppName, db: Db = None, log_level: Level = LogLevel.INFO, json: Json = False
) -> None:
    """Run projections in this process, and nothing else.

    Several share the work: each projection has one runner at a time, and another one takes over
    when a process dies (AMENDS_PROJECTIONS_LEASE_S). It stops as `amends dev` does.
    """
    configure_logs(log_level)
    application = load_app(app)
    part = Part(app, application, Settings.of(db), False, (), projects=True)
    if not part.projections:
        raise Stop(
            f"{app} has no projections: App(projections=[…]). Nothing was opened", Exit.USAGE
        )
    run(serve_projections(application, part.settings, announce=lambda: _announce(part, json=json)))


def _names(text: str) -> Iterator[str]:
    return (name.strip() for name in text.split(",") if name.strip())


def _shared(settings: Settings) -> Settings:
    if settings.is_embedded:
        raise Stop(
            "the embedded broker has one engine, in one process. Nothing was opened. Use "
            "`amends dev APP`; or several processes, on RabbitMQ: AMENDS_BROKER=amqp://…",
            Exit.USAGE,
        )
    return settings


def _run(part: Part, *, json: bool) -> None:
    run(
        serve(
            part.app,
            part.settings,
            orchestrates=part.orchestrates,
            queues=part.queues,
            projects=part.projects,
            announce=lambda: _announce(part, json=json),
        )
    )


# --- saying so


def _announce(part: Part, *, json: bool) -> None:
    if json:
        emit(_json(part))
    else:
        show(_banner(part))
    sys.stdout.flush()


def _json(part: Part) -> dict[str, Any]:
    return {
        "app": part.name,
        "pid": os.getpid(),
        "store": redacted(part.settings.store),
        "broker": redacted(part.settings.broker),
        "orchestrates": part.orchestrates,
        "sagas": _sagas(part),
        "activities": _activities(part),
        "queues": _bounds(part),
        "projections": part.projections,
        "retention_days": part.settings.retention_days if part.orchestrates else None,
    }


def _banner(part: Part) -> Group:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for label, text in _facts(part):
        facts.add_row(f"  {label}", Text(text))
    return Group(Text.assemble(("amends", "bold"), f" {_does(part)} {part.name}"), facts)


def _does(part: Part) -> str:
    if not part.orchestrates:
        return "projects for" if part.projects else "works for"
    return "runs" if part.queues or not part.app.queues else "orchestrates"


def _facts(part: Part) -> Iterator[tuple[str, str]]:
    settings = part.settings
    yield "store", redacted(settings.store)
    if not settings.is_embedded:
        yield "broker", redacted(settings.broker)
    if part.orchestrates:
        yield "sagas", ", ".join(_sagas(part)) or "none"
    if not settings.is_embedded and part.orchestrates:
        yield "inboxes", f"its share of {settings.partitions}"
    yield "activities", ", ".join(_activities(part)) or "none"
    bounds = _bounds(part).items()
    yield "queues", ", ".join(f"{name} (at most {n} at once)" for name, n in bounds) or "none"
    if part.projections:
        yield "projections", ", ".join(part.projections)
    if part.orchestrates:
        yield "journals", _kept(settings)
    yield "stop", "Ctrl-C finishes what runs; again stops at once"


def _sagas(part: Part) -> list[str]:
    return sorted(part.app.sagas) if part.orchestrates else []


def _activities(part: Part) -> list[str]:
    activities = part.app.activities.items()
    return sorted(name for name, activity in activities if activity.queue in part.queues)


def _bounds(part: Part) -> dict[str, int]:
    bounds = part.app.concurrency
    return {queue: bounds.get(queue, part.settings.concurrency) for queue in part.queues}


def _kept(settings: Settings) -> str:
    if settings.retention is None:
        return "kept for ever"
    return f"removed {span(settings.retention)} after the end of their sagas"

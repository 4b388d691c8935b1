"""`amends dev`: an engine in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import structlog
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from amends.app import App
from amends.backend import open_backend
from amends.cli.appload import load_app
from amends.cli.exits import Stop
from amends.cli.logs import LogLevel, configure_logs
from amends.cli.opening import run
from amends.cli.options import AppName, Db, Json
from amends.cli.output import emit, show
from amends.cli.render import span
from amends.settings import Settings
from amends.worker import Engine

router = typer.Typer()
log = structlog.get_logger("amends.dev")


@router.command()
def dev(
    app: AppName,
    db: Db = None,
    log_level: Annotated[LogLevel, typer.Option(help="The least to log.")] = LogLevel.INFO,
    json: Json = False,
) -> None:
    """Run sagas and activities in this process, until it is told to stop.

    Ctrl-C or SIGTERM stops gracefully: what runs may finish (AMENDS_SHUTDOWN_GRACE_S), the rest
    is handed back and run again later. A second one stops at once; nothing durable is lost.
    """
    configure_logs(log_level)
    application = load_app(app)
    settings = Settings.of(db)
    run(_serve(app, application, settings, json=json))


async def _serve(name: str, app: App, settings: Settings, *, json: bool) -> None:
    with _threads():
        async with open_backend(settings, engine=True) as backend:
            with _stop_signals() as stopping:
                async with Engine(app, backend, settings) as engine:
                    _announce(name, app, settings, json=json)
                    await _until_stopped(engine, stopping)
                    log.info("engine_stopping", grace_s=settings.shutdown_grace_s)


async def _until_stopped(engine: Engine, stopping: asyncio.Event) -> None:
    """Return when told to stop. Raises what the engine fails with."""
    failed = asyncio.create_task(engine.failed())
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([failed, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not stopped.done():
        stopped.cancel()
        await failed
        raise Stop("a part of the engine ended by itself, which is a bug")
    failed.cancel()


@contextmanager
def _threads() -> Iterator[None]:
    """Threads for `asyncio.to_thread` in activities; at the end nobody waits for those that hang."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(thread_name_prefix="activity")
    loop.set_default_executor(threads)
    try:
        yield
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        # asyncio.run waits for the default executor: for this one, which has nothing to do.
        loop.set_default_executor(ThreadPoolExecutor())


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """The event of the first signal; the second one ends the process on the spot.

    Not the loop's own signal handlers: an activity that blocks the loop would block them too.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    signals_seen = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            os.write(2, b"stopped at once; what was running will run again\n")
            os._exit(128 + number)
        loop.call_soon_threadsafe(stopping.set)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(name: str, app: App, settings: Settings, *, json: bool) -> None:
    bounds = {queue: app.concurrency.get(queue, settings.concurrency) for queue in app.queues}
    if json:
        emit(
            {
                "app": name,
                "pid": os.getpid(),
                "store": settings.store,
                "broker": settings.broker,
                "sagas": sorted(app.sagas),
                "activities": sorted(app.activities),
                "queues": bounds,
                "retention_days": settings.retention_days,
            }
        )
    else:
        show(_banner(name, app, settings, bounds))
    sys.stdout.flush()


def _kept(settings: Settings) -> str:
    if settings.retention is None:
        return "kept for ever"
    return f"removed {span(settings.retention)} after the end of their sagas"


def _banner(name: str, app: App, settings: Settings, bounds: dict[str, int]) -> Group:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    queues = ", ".join(f"{queue} (at most {bound} at once)" for queue, bound in bounds.items())
    for label, text in (
        ("store", settings.store),
        ("sagas", ", ".join(sorted(app.sagas)) or "none"),
        ("activities", ", ".join(sorted(app.activities)) or "none"),
        ("queues", queues or "none"),
        ("journals", _kept(settings)),
        ("stop", "Ctrl-C finishes what runs; again stops at once"),
    ):
        facts.add_row(f"  {label}", Text(text))
    return Group(Text.assemble(("amends", "bold"), f" runs {name}"), facts)

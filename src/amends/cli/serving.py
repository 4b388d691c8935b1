"""Running an engine in the foreground until somebody stops it: signals, threads, grace."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import structlog

from amends.app import App
from amends.backend import open_backend
from amends.cli.exits import Stop
from amends.client import Client
from amends.settings import Settings
from amends.worker import Engine

log = structlog.get_logger("amends.cli")


async def serve(
    app: App,
    settings: Settings,
    *,
    orchestrates: bool,
    queues: tuple[str, ...],
    projects: bool,
    announce: Callable[[], None],
) -> None:
    """Run this part of an application's engine until the process is told to stop, then stop it
    gracefully. `announce` is called when it runs.

    Raises what store and broker raise when they cannot be opened, and what the engine fails with.
    """
    with _threads():
        async with (
            open_backend(settings, engine=True) as backend,
            Client(app, backend, settings) as client,
        ):
            with _stop_signals() as stopping:
                async with Engine(
                    app,
                    backend,
                    settings,
                    orchestrates=orchestrates,
                    queues=queues,
                    projections=client.projections if projects else None,
                ) as engine:
                    announce()
                    await _until_stopped(engine.failed(), stopping)
                    log.info("engine_stopping", grace_s=settings.shutdown_grace_s)


async def serve_projections(app: App, settings: Settings, *, announce: Callable[[], None]) -> None:
    """Run an application's projections, and nothing else, until the process is told to stop.

    Raises ProjectionMismatch, and what the store raises when it cannot be opened.
    """
    async with (
        open_backend(settings, engine=False, connect=False) as backend,
        Client(app, backend, settings) as client,
    ):
        projector = await client.projections.projector()
        with _stop_signals() as stopping:
            announce()
            await _until_stopped(projector.run(), stopping)


async def _until_stopped(failure: Coroutine[Any, Any, None], stopping: asyncio.Event) -> None:
    """Return when told to stop. Raises what runs fails with."""
    failed = asyncio.create_task(failure)
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([failed, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not stopped.done():
        stopped.cancel()
        await failed
        raise Stop("a part of the engine ended by itself, which is a bug")
    failed.cancel()
    await asyncio.gather(failed, return_exceptions=True)


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

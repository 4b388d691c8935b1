"""The engine of one process: an orchestrator and the consumers of the application's queues."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from amends.activities.aggregates import Repositories
from amends.activities.consumer import ActivityConsumer
from amends.backend import Backend
from amends.broker.topology import command_queue, inbox_queue
from amends.sagas.cache import LiveCache
from amends.sagas.orchestrator import Orchestrator
from amends.sagas.retention import Retention
from amends.settings import Settings
from amends.telemetry import Log

if TYPE_CHECKING:
    from amends.app import App

log = Log("amends.engine")


class CalmGarbageCollector:
    """While entered, Python's garbage collector looks less often, and not at what was there before.

    An engine makes many objects that die young without cycles; Python's defaults then spend a
    quarter of the time on looking for some. Cycles are still found, a little later. It belongs to
    the whole process, so several engines in one, in whatever threads, count as one, and the last
    to leave puts back what the first found.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _entered: ClassVar[int] = 0
    _before: ClassVar[tuple[int, int, int]] = (0, 0, 0)
    _has_frozen: ClassVar[bool] = False

    def __enter__(self) -> None:
        with CalmGarbageCollector._lock:
            if CalmGarbageCollector._entered == 0:
                self._calm()
            CalmGarbageCollector._entered += 1

    def __exit__(self, *_: object) -> None:
        with CalmGarbageCollector._lock:
            CalmGarbageCollector._entered -= 1
            if CalmGarbageCollector._entered == 0:
                self._put_back()

    def _calm(self) -> None:
        CalmGarbageCollector._before = gc.get_threshold()
        # What the application has frozen itself could not be told from it afterwards.
        CalmGarbageCollector._has_frozen = gc.get_freeze_count() == 0
        if CalmGarbageCollector._has_frozen:
            gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    def _put_back(self) -> None:
        gc.set_threshold(*CalmGarbageCollector._before)
        if CalmGarbageCollector._has_frozen:
            gc.unfreeze()


class Engine:
    """Runs an application's sagas and activities: `async with Engine(app, backend, settings):`.

    Leaving it is the graceful stop: no new work is taken, what runs may finish within the grace
    time, and what does not finish is handed back and run again later.
    """

    def __init__(self, app: App, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._queues = app.queues
        self._orchestrator = Orchestrator(
            sagas=app.sagas,
            activities=app.activities,
            store=backend.store,
            broker=backend.broker,
            committer=backend.committer,
            clock=backend.clock,
            partitions=settings.partitions,
            inbox_limit=settings.inbox_limit,
            cache=LiveCache(
                places_max=settings.cache_max,
                wait_s_per_event=settings.cache_wait_s_per_event,
            ),
        )
        repositories = Repositories(backend.store)
        self._consumers = [
            ActivityConsumer(
                queue=queue,
                activities=app.activities,
                broker=backend.broker,
                clock=backend.clock,
                repositories=repositories,
                partitions=settings.partitions,
                concurrency=app.concurrency.get(queue, settings.concurrency),
            )
            for queue in app.queues
        ]
        self._retention: Retention | None = None
        if settings.retention is not None:
            self._retention = Retention(backend.store, backend.clock, settings.retention)
        self._retaining: list[asyncio.Task[None]] = []
        self._consuming: list[asyncio.Task[None]] = []
        self._orchestrating: asyncio.Task[None] | None = None
        self._collector: AbstractContextManager[None] = (
            CalmGarbageCollector() if settings.calm_gc else nullcontext()
        )

    async def __aenter__(self) -> Engine:
        inboxes = [inbox_queue(number) for number in range(self._settings.partitions)]
        await self._backend.broker.declare(
            [*inboxes, *(command_queue(queue) for queue in self._queues)]
        )
        self._collector.__enter__()
        self._orchestrating = asyncio.create_task(self._orchestrator.run())
        self._consuming = [asyncio.create_task(consumer.run()) for consumer in self._consumers]
        if self._retention is not None:
            self._retaining = [asyncio.create_task(self._retention.run())]
        try:
            await asyncio.sleep(0)
        except BaseException as error:  # or else it would run on, with nobody to stop it
            await self.__aexit__(type(error), error, None)
            raise
        log.info("engine_started", queues=list(self._queues))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._orchestrating is not None
        try:
            if kind is None:
                await self._stop_gracefully()
            everything = [self._orchestrating, *self._consuming, *self._retaining]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
        finally:
            self._collector.__exit__(None, None, None)
        log.info("engine_stopped")

    async def failed(self) -> None:
        """Return or raise when a part of the engine ends by itself, which it should not."""
        assert self._orchestrating is not None
        parts = [self._orchestrating, *self._consuming, *self._retaining]
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _stop_gracefully(self) -> None:
        """Consumers first, so that the orchestrator can still take their reports."""
        assert self._orchestrating is not None
        for consumer in self._consumers:
            await consumer.stop()
        if self._consuming:
            _, late = await asyncio.wait(self._consuming, timeout=self._settings.shutdown_grace_s)
            if late:
                log.warning("activities_handed_back", queues=len(late))
        await self._orchestrator.stop()
        await asyncio.wait([self._orchestrating], timeout=self._settings.shutdown_grace_s)

"""The engine of one process: an orchestrator and the consumers of the application's queues, or
some of these.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from amends.activities.aggregates import Repositories
from amends.activities.consumer import ActivityConsumer
from amends.backend import Backend
from amends.broker.topology import all_queues
from amends.projections.reading import Projections
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

    Where processes share a broker it may run a part of them: the consumers of some `queues` only
    (by default of all, of none for ()), and, unless it `orchestrates`, no sagas. It runs the
    application's projections if it is told where they are.

    Leaving it is the graceful stop: no new work is taken, what runs may finish within the grace
    time, and what does not finish is handed back and run again later.
    """

    def __init__(
        self,
        app: App,
        backend: Backend,
        settings: Settings,
        *,
        orchestrates: bool = True,
        queues: Sequence[str] | None = None,
        projections: Projections | None = None,
    ) -> None:
        self._app = app
        self._backend = backend
        self._settings = settings
        self.queues = app.queues if queues is None else tuple(queues)
        self._orchestrator: Orchestrator | None = None
        self._retention: Retention | None = None
        if orchestrates:
            self._orchestrator = self._make_orchestrator()
            if settings.retention is not None:
                self._retention = Retention(backend.store, backend.clock, settings.retention)
        repositories = Repositories(backend.store)
        self._consumers = [self._make_consumer(queue, repositories) for queue in self.queues]
        self._orchestrating: list[asyncio.Task[None]] = []
        self._consuming: list[asyncio.Task[None]] = []
        self._retaining: list[asyncio.Task[None]] = []
        self._projections = projections if projections is not None and projections.names else None
        self._projecting: list[asyncio.Task[None]] = []
        self._collector: AbstractContextManager[None] = (
            CalmGarbageCollector() if settings.calm_gc else nullcontext()
        )

    def _make_orchestrator(self) -> Orchestrator:
        app, backend, settings = self._app, self._backend, self._settings
        return Orchestrator(
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

    def _make_consumer(self, queue: str, repositories: Repositories) -> ActivityConsumer:
        app, backend, settings = self._app, self._backend, self._settings
        return ActivityConsumer(
            queue=queue,
            activities=app.activities,
            broker=backend.broker,
            clock=backend.clock,
            repositories=repositories,
            partitions=settings.partitions,
            concurrency=app.concurrency.get(queue, settings.concurrency),
        )

    async def __aenter__(self) -> Engine:
        # All of them, also those that others consume: who comes first may publish there.
        queues = all_queues(self._app.queues, self._settings.partitions)
        await self._backend.broker.declare(queues)
        projector = None
        if self._projections is not None:
            projector = await self._projections.projector()
        self._collector.__enter__()
        if self._orchestrator is not None:
            self._orchestrating = [asyncio.create_task(self._orchestrator.run())]
        self._consuming = [asyncio.create_task(consumer.run()) for consumer in self._consumers]
        if self._retention is not None:
            self._retaining = [asyncio.create_task(self._retention.run())]
        if projector is not None:
            self._projecting = [asyncio.create_task(projector.run())]
        try:
            await asyncio.sleep(0)
        except BaseException as error:  # or else it would run on, with nobody to stop it
            await self.__aexit__(type(error), error, None)
            raise
        log.info(
            "engine_started",
            queues=list(self.queues),
            orchestrates=self._orchestrator is not None,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._stop_gracefully()
            for task in self._parts():
                task.cancel()
            await asyncio.gather(*self._parts(), return_exceptions=True)
        finally:
            self._collector.__exit__(None, None, None)
        log.info("engine_stopped")

    def _parts(self) -> list[asyncio.Task[None]]:
        return [*self._orchestrating, *self._consuming, *self._retaining, *self._projecting]

    async def failed(self) -> None:
        """Return or raise when a part of the engine ends by itself, which it should not."""
        done, _ = await asyncio.wait(self._parts(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _stop_gracefully(self) -> None:
        """Consumers first, so that an orchestrator here can still take their reports."""
        for consumer in self._consumers:
            await consumer.stop()
        if self._consuming:
            _, late = await asyncio.wait(self._consuming, timeout=self._settings.shutdown_grace_s)
            if late:
                log.warning("activities_handed_back", queues=len(late))
        if self._orchestrator is not None:
            await self._orchestrator.stop()
            await asyncio.wait(self._orchestrating, timeout=self._settings.shutdown_grace_s)


class Worker:
    """The consumers that run in this process. Made by `App.work`.

    `queues` are the activity queues that they consume.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.queues = engine.queues

    async def failed(self) -> None:
        """Return or raise when a consumer ends by itself, which it should not: await it to work
        until then.
        """
        await self._engine.failed()

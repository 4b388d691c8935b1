"""An application: its sagas and activities by name, ready to run or to be talked to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amends.activities.definition import Activity
from amends.backend import open_backend
from amends.broker.topology import all_queues
from amends.client import Client
from amends.domain.aggregate import Aggregate
from amends.domain.clock import Clock
from amends.domain.codec import EventRegistry
from amends.domain.events import StepKind
from amends.errors import DefinitionError, NotRegistered, UsageError
from amends.sagas.definition import Saga
from amends.settings import Settings
from amends.worker import Engine, Worker

if TYPE_CHECKING:
    from pydantic import BaseModel

    from amends.projections.definition import Projection


class App:
    """The sagas, activities and projections that belong together.

    `activities` brings their undos and probes along. `concurrency` bounds the attempts that run
    at once for an activity queue. `events` are domain events, or aggregates with theirs, which
    `amends schema` cannot find in the source of sagas and activities; nothing else needs them.

    Raises DefinitionError for two of one name, a saga or activity whose types cannot be written
    as JSON, an undo that does not fit what it undoes, a bound for a queue that no activity
    uses, projections with one table, and `events` that are none.
    """

    def __init__(
        self,
        *,
        sagas: Iterable[Saga[Any, Any]] = (),
        activities: Iterable[Activity[Any, Any]] = (),
        concurrency: Mapping[str, int] | None = None,
        projections: Iterable[Projection] = (),
        events: Iterable[type[BaseModel] | type[Aggregate]] = (),
    ) -> None:
        self.sagas: dict[str, Saga[Any, Any]] = {}
        self.activities: dict[str, Activity[Any, Any]] = {}
        self.concurrency = dict(concurrency or {})
        for saga in sagas:
            if not isinstance(saga, Saga):
                raise DefinitionError(f"{saga!r} is no saga; decorate it with @saga")
            saga.check()
            self._add(self.sagas, "saga", saga)
        for activity in activities:
            if not isinstance(activity, Activity):
                raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
            self._add_activity(activity)
        for queue, bound in self.concurrency.items():
            if queue not in self.queues:
                raise DefinitionError(f"concurrency for queue {queue!r}, which no activity uses")
            if bound < 1:
                raise DefinitionError(f"concurrency of queue {queue!r} must be at least 1")
        self.events = tuple(events)
        given_events: tuple[Any, ...] = self.events
        for cls in given_events:
            if not isinstance(cls, type):
                raise DefinitionError(f"{cls!r} is no event: name a class, or an aggregate's")
            if not issubclass(cls, Aggregate):
                EventRegistry((cast(Any, cls),))  # which says what is wrong with it
        self.projections: dict[str, Projection] = {}
        if given := tuple(projections):
            # Imported here: it brings SQLAlchemy with it.
            from amends.projections.definition import check_together  # noqa: PLC0415

            self.projections = check_together(given)

    @property
    def queues(self) -> tuple[str, ...]:
        """The activity queues, by name."""
        return tuple(sorted({activity.queue for activity in self.activities.values()}))

    def queues_named(self, names: Iterable[str] | None) -> tuple[str, ...]:
        """The activity queues of these names; all for None. Raises UsageError for others."""
        if names is None:
            return self.queues
        if isinstance(names, str):
            raise UsageError(f"queues={names!r} is one text; write queues=[{names!r}]")
        wanted = tuple(dict.fromkeys(names))
        if unknown := [name for name in wanted if name not in self.queues]:
            raise NotRegistered(
                f"no activity has the queue {', '.join(map(repr, unknown))}; there are: "
                f"{', '.join(self.queues) or 'none'}. Nothing was opened"
            )
        return wanted

    @asynccontextmanager
    async def run(
        self,
        where: str | Path | Settings | None = None,
        *,
        clock: Clock | None = None,
        queues: Iterable[str] | None = None,
    ) -> AsyncIterator[Client]:
        """Run the engine in this process, projections included, and give a client to talk to it.

        `where` is a file for the embedded store, a store's address, or whole settings; default:
        the environment's (`AMENDS_STORE`, …). Where processes share a broker, `queues` are the
        activity queues that are consumed here, none for (); others see to the rest, by `work`.
        Leaving it stops gracefully.

        Raises EngineAlreadyRunning, what store and broker raise when they cannot be opened,
        ProjectionMismatch for tables that do not fit, and UsageError for `queues` that there are
        not, or on the embedded broker.
        """
        settings = Settings.of(where)
        if queues is not None:
            _check_shared(settings)
        consumed = self.queues_named(queues)
        async with (
            open_backend(settings, engine=True, clock=clock) as backend,
            Client(self, backend, settings) as client,
            Engine(
                self,
                backend,
                settings,
                queues=consumed,
                projections=client.projections if settings.run_projections else None,
            ) as engine,
        ):
            watching = asyncio.create_task(client.watch_engine(engine))
            try:
                yield client
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    @asynccontextmanager
    async def work(
        self,
        where: str | Path | Settings | None = None,
        *,
        queues: Iterable[str] | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator[Worker]:
        """Consume activity queues in this process, all or some, for sagas that others run.

        For brokers that processes share. `where` is as in `run`. Leaving it stops gracefully: what
        runs may finish within the grace time, the rest is handed back.

        Raises UsageError for queues that there are not, for none, and on the embedded broker;
        and what store and broker raise when they cannot be opened.
        """
        settings = Settings.of(where)
        _check_shared(settings)
        consumed = self.queues_named(queues)
        if not consumed:
            raise UsageError("there is no activity queue to consume. Nothing was opened")
        async with (
            open_backend(settings, engine=True, clock=clock) as backend,
            Engine(self, backend, settings, orchestrates=False, queues=consumed) as engine,
        ):
            yield Worker(engine)

    @asynccontextmanager
    async def client(
        self, where: str | Path | Settings | None = None, *, clock: Clock | None = None
    ) -> AsyncIterator[Client]:
        """A client alone: it starts, signals and looks at sagas that an engine elsewhere runs."""
        settings = Settings.of(where)
        async with open_backend(settings, engine=False, clock=clock) as backend:
            await backend.broker.declare(all_queues(self.queues, settings.partitions))
            async with Client(self, backend, settings) as client:
                yield client

    def _add_activity(self, activity: Activity[Any, Any]) -> None:
        if self.activities.get(activity.name) is activity:
            return
        activity.check()
        if activity.kind is not StepKind.STEP:
            assert activity.origin is not None
            self._add_activity(activity.origin)
            return
        self._add(self.activities, "activity", activity)
        for other in (activity.undo_activity, activity.probe_activity):
            if other is not None:
                self._add(self.activities, "activity", other)

    def _add(self, known: dict[str, Any], what: str, definition: Any) -> None:
        if known.setdefault(definition.name, definition) is not definition:
            raise DefinitionError(
                f"two of the name {definition.name!r}: each {what} needs a name of its own, "
                f"because journals refer to it; give one of them name=…"
            )


def _check_shared(settings: Settings) -> None:
    """Raise UsageError where processes cannot share the work."""
    if settings.is_embedded:
        raise UsageError(
            "the embedded broker has one engine, in one process, which runs all sagas and consumes "
            "all queues. Nothing was opened. Use app.run() without queues=; or several processes, "
            "on RabbitMQ: AMENDS_BROKER=amqp://…"
        )

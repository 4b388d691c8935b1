"""The composition root: the one place that names adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from amends.broker.commit import Committer, SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.broker.port import Broker
from amends.domain.clock import Clock, SystemClock
from amends.errors import UsageError
from amends.settings import Settings, shown
from amends.stores.memory import MemoryStore
from amends.stores.port import EventStore


@dataclass(frozen=True)
class Backend:
    """A store, a broker, the way to commit a turn on them, and the clock they share."""

    store: EventStore
    broker: Broker
    committer: Committer
    clock: Clock


@asynccontextmanager
async def open_backend(
    settings: Settings, *, engine: bool, clock: Clock | None = None
) -> AsyncIterator[Backend]:
    """Open what the settings name, and close it at the end.

    `engine` says whether an engine will run on it: on an embedded file there can be one.

    Raises UsageError for settings that name nothing we have, EngineAlreadyRunning, and what the
    store raises when it cannot be opened.
    """
    clock = clock or SystemClock()
    if settings.broker == "embedded" and settings.partitions != 1:
        raise UsageError(
            f"AMENDS_PARTITIONS={settings.partitions}: the embedded broker has one engine, and so "
            "one inbox. Nothing was opened. Leave it at 1"
        )
    if settings.store == "memory://" and settings.broker == "embedded":
        backend = memory_backend(clock)
        try:
            yield backend
        finally:
            await backend.broker.close()
            await backend.store.close()
        return
    if settings.broker != "embedded":
        raise UsageError(
            f"AMENDS_BROKER={shown(settings.broker)}: this version has the embedded broker only"
        )
    # Imported here: whoever runs on other adapters need not have SQLite.
    from amends.broker.embedded import EmbeddedBroker  # noqa: PLC0415
    from amends.stores.sqlite import SqliteDatabase, SqliteStore  # noqa: PLC0415

    database = await SqliteDatabase.open(
        settings.sqlite_path, clock=clock, busy_timeout_s=settings.busy_timeout_s
    )
    try:
        if engine:
            database.acquire_engine_lock()
        store = SqliteStore(database)
        broker = EmbeddedBroker(database)
        try:
            yield Backend(store, broker, broker, clock)
        finally:
            await broker.close()
            await store.close()
    finally:
        await database.close()


def memory_backend(clock: Clock) -> Backend:
    """Everything in memory: for tests, and for the test kit's virtual time."""
    store = MemoryStore(clock)
    broker = MemoryBroker(clock)
    return Backend(store, broker, SequentialCommitter(store, broker), clock)

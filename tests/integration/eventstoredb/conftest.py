"""One log, in memory, in a file or on a server: for tests that are the same on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from amends.domain.clock import SystemClock
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.memory import MemoryStore
from amends.stores.port import EventStore
from amends.stores.sqlite import SqliteDatabase, SqliteStore

Reopen = Callable[[], Awaitable[EventStore]]


@asynccontextmanager
async def in_memory(folder: Path, esdb: str) -> AsyncIterator[Reopen]:
    store = MemoryStore(SystemClock())

    async def again() -> EventStore:
        return store.reopened()

    yield again


@asynccontextmanager
async def in_a_file(folder: Path, esdb: str) -> AsyncIterator[Reopen]:
    async with AsyncExitStack() as opened:

        async def again() -> EventStore:
            database = await SqliteDatabase.open(folder / "log.db", clock=SystemClock())
            return SqliteStore(await opened.enter_async_context(database))

        yield again


@asynccontextmanager
async def on_a_server(folder: Path, esdb: str) -> AsyncIterator[Reopen]:
    async def again() -> EventStore:
        return EventStoreDb(StoreAddress.parse(esdb))

    yield again


@pytest.fixture(params=[in_memory, in_a_file, on_a_server])
async def reopen(
    request: pytest.FixtureRequest, tmp_path: Path, esdb: str
) -> AsyncIterator[Reopen]:
    """Opens the log once more."""
    async with request.param(tmp_path, esdb) as again:
        yield again

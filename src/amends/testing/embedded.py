"""The engine on a real file, in virtual time: for what is to be seen of the file itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from amends.app import App
from amends.backend import Backend
from amends.broker.embedded import EmbeddedBroker
from amends.client import Client
from amends.errors import UsageError
from amends.settings import Settings
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from amends.testing.clock import VirtualTimeLoop
from amends.worker import Engine


@dataclass(frozen=True)
class Embedded:
    """An engine that runs, a client of it, and the file it has."""

    client: Client
    engine: Engine
    database: SqliteDatabase


@asynccontextmanager
async def run_embedded(
    app: App, file: Path, settings: Settings | None = None
) -> AsyncIterator[Embedded]:
    """Like `App.run`, on a `VirtualTimeLoop`: while the thread that writes the file is at work,
    time stands still. Raises UsageError on any other loop.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise UsageError("the running event loop is not a VirtualTimeLoop")
    settings = settings or Settings()
    database = await SqliteDatabase.open(file, clock=loop.clock)
    loop.stand_still_while(lambda: database.writer.is_busy)
    async with database:
        database.acquire_engine_lock()
        store, broker = SqliteStore(database), EmbeddedBroker(database)
        backend = Backend(store, broker, broker, loop.clock)
        try:
            async with (
                Client(app, backend, settings) as client,
                Engine(app, backend, settings) as engine,
            ):
                watching = asyncio.create_task(client.watch_engine(engine))
                try:
                    yield Embedded(client, engine, database)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        finally:
            await broker.close()

"""Engines as processes of a simulated world: they share its journals and messages, and die alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from amends.app import App
from amends.backend import Backend
from amends.broker.commit import SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.client import Client
from amends.domain.clock import Clock
from amends.settings import Settings
from amends.stores.memory import MemoryStore
from amends.testing.crashes import SimulatedCrash
from amends.testing.faults import Faults, FaultyBroker, FaultyStore
from amends.worker import Engine


class SkewedClock:
    """Implements `Clock`: the clock of a machine that is so many seconds ahead of the others."""

    def __init__(self, clock: Clock, ahead_s: float) -> None:
        self._clock = clock
        self._ahead = timedelta(seconds=ahead_s)

    def now(self) -> datetime:
        """What this machine takes for the present moment."""
        return self._clock.now() + self._ahead

    async def sleep_until(self, when: datetime) -> None:
        """Return when this machine takes `when` to have come."""
        await self._clock.sleep_until(when - self._ahead)


class EngineProcess:
    """An engine with a store, a broker and a clock of its own over what all processes share.

    `shared` is a backend in memory. `orchestrates` and `queues` are the engine's part in the work.
    `backend` is the engine's own view of what is shared, for tests that spoil it in ways of their
    own.
    """

    def __init__(
        self,
        app: App,
        shared: Backend,
        settings: Settings,
        faults: Faults,
        *,
        ahead_s: float = 0.0,
        orchestrates: bool = True,
        queues: Sequence[str] | None = None,
    ) -> None:
        assert isinstance(shared.store, MemoryStore)
        assert isinstance(shared.broker, MemoryBroker)
        self.faults = faults
        self._broker = shared.broker.reopened()
        store = FaultyStore(shared.store.reopened(), faults)
        broker = FaultyBroker(self._broker, faults)
        clock = SkewedClock(shared.clock, ahead_s) if ahead_s else shared.clock
        self.backend = Backend(store, broker, SequentialCommitter(store, broker), clock)
        self.engine = Engine(app, self.backend, settings, orchestrates=orchestrates, queues=queues)
        self._watching: asyncio.Task[None] | None = None

    async def start(self, client: Client | None = None) -> None:
        """Run; `client` is told when the engine fails by itself, so that nobody waits in vain."""
        await self.engine.__aenter__()
        if client is not None:
            self._watching = asyncio.create_task(client.watch_engine(self.engine))

    async def failed(self) -> None:
        """Return or raise when the engine ends by itself, which it should not."""
        await self.engine.failed()

    def cut_connections(self) -> None:
        """What it has in hand is delivered to others, too, while it goes on with it."""
        self._broker.crash_consumers()

    async def stop(self) -> None:
        """Stop gracefully."""
        await self._forget()
        await self.engine.__aexit__(None, None, None)

    async def die(self) -> None:
        """Do nothing more; what was in hand goes back to the broker."""
        await self._forget()
        self.faults.points.kill()
        self._broker.crash_consumers()
        death = SimulatedCrash()
        await self.engine.__aexit__(type(death), death, None)
        await self._broker.close()

    async def _forget(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

"""The test kit: an application's engine in memory and in virtual time.

Years pass in milliseconds, and with the cache of live instances at 0 every turn is a replay: saga
code that is not deterministic fails on its first step and not in production. In a test::

    def test_money_comes_back():
        async def scenario(harness: Harness) -> None:
            handle = await harness.start(transfer_money, order)
            with pytest.raises(SagaNotCompleted):
                await handle.result()
            assert bank.balances == before

        run_app(app, scenario)

or, where the test itself runs on a `VirtualTimeLoop` (see `amends.testing.clock`)::

    async def test_money_comes_back():
        async with Harness(app) as harness:
            ...

It crashes, too: `crash` and `restart` at a moment of the test's choice, and with `CrashPoints`
(see `amends.testing.crashes`) at every single one::

    def scenario(points: CrashPoints) -> None:
        run_app(app, transfer, points=points)


    crash_at_every_point(scenario)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from amends.app import App
from amends.backend import Backend, memory_backend
from amends.broker.port import DeadLetter
from amends.client import Client, Handle
from amends.domain.events import JournalEvent, SagaStalled
from amends.domain.ids import JOURNAL_PREFIX, START, InstanceId
from amends.errors import AmendsError
from amends.sagas import journal
from amends.sagas.definition import Saga
from amends.settings import Settings
from amends.stores.port import EventFilter
from amends.testing.clock import VirtualClock, run_virtual, virtual_clock
from amends.testing.crashes import CrashPoints
from amends.testing.engines import EngineProcess
from amends.testing.faults import FaultRates, Faults

I = TypeVar("I")
R = TypeVar("R")
T = TypeVar("T")

STALL_PATIENCE_S: Final = 3600.0
"""How long an instance may be stalled until those who wait for it are told."""

EVERY_TURN_REPLAYS: Final = Settings(store="memory://", cache_max=0, calm_gc=False)
"""The settings of a harness, unless it is given others: nothing is kept live between turns."""


class Stalled(AmendsError):
    """The instance that a test waits for is stalled: its code has a bug, or is not deterministic.

    It would be tried again for ever, and no time is too long for a virtual clock.
    """


class Harness:
    """An application's engine over a store and a broker in memory, on the running loop's time.

    `async with Harness(app) as harness:` needs a `VirtualTimeLoop`; `run_app` brings one along.
    `clock` tells the time, and `client` is an application's own, never crashed with the engine.
    `rates` and `seed` make the engine's store and broker unreliable. `points` counts what the
    first engine does and kills it once; another takes its place at once. With several, each kills
    an engine, one after another; the last one lives.

    Waiting for an instance that stays stalled raises `Stalled`, with its traceback.
    """

    def __init__(
        self,
        app: App,
        *,
        settings: Settings = EVERY_TURN_REPLAYS,
        points: CrashPoints | Sequence[CrashPoints] = (),
        rates: FaultRates | None = None,
        seed: int = 0,
    ) -> None:
        self.app = app
        self._settings = settings
        self._points = deque([points] if isinstance(points, CrashPoints) else points)
        self._rates = rates
        self._seed = seed
        self._numbers = count(1)
        self.processes: list[EngineProcess] = []
        """The engines that run."""
        self._cleanup = AsyncExitStack()
        self._helping: list[asyncio.Task[None]] = []
        self._stalled: set[InstanceId] = set()
        self.clock: VirtualClock
        self.client: Client
        self._shared: Backend

    async def __aenter__(self) -> Self:
        self.clock = virtual_clock()
        self._shared = memory_backend(self.clock)
        await self._use(self.app)
        self._help(self._tell_of_stalls())
        if self._points:
            self._help(self._revive(list(self._points)))
        await self.start_engine()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._helping:
            task.cancel()
        await asyncio.gather(*self._helping, return_exceptions=True)
        if kind is None:
            await self.stop_engines()
        await self.crash()
        await self._cleanup.aclose()

    # --- engines

    async def start_engine(self) -> None:
        """Start an engine, besides those that run already."""
        points = self._points.popleft() if self._points else None
        faults = Faults(self.clock, seed=self._seed, rates=self._rates, points=points)
        self._seed += 1
        process = EngineProcess(self.app, self._shared, self._settings, faults)
        self.processes.append(process)
        await process.start(self.client)

    async def stop_engines(self) -> None:
        """Stop every engine gracefully."""
        processes, self.processes = self.processes, []
        for process in processes:
            await process.stop()

    async def crash(self) -> None:
        """Kill every engine on the spot, as `kill -9` does; journals and messages stay."""
        processes, self.processes = self.processes, []
        for process in processes:
            await process.die()

    async def restart(self, app: App | None = None) -> None:
        """Crash whatever runs, and start one engine; with `app`, of another release."""
        await self.crash()
        if app is not None:
            await self._use(app)
        await self.start_engine()

    async def _use(self, app: App) -> None:
        self.app = app
        client = Client(app, self._shared, self._settings)
        self.client = await self._cleanup.enter_async_context(client)

    async def _revive(self, in_store: Sequence[CrashPoints]) -> None:
        for points in in_store:
            await points.crashed()
            await self.restart()

    # --- stalls

    def _help(self, work: Coroutine[Any, Any, None]) -> None:
        self._helping.append(asyncio.create_task(work))

    async def _tell_of_stalls(self) -> None:
        stalls = EventFilter((JOURNAL_PREFIX,), (SagaStalled.__name__,))
        async for event in self._shared.store.subscribe(START, filter=stalls):
            instance = InstanceId.of_stream(event.stream)
            if instance is not None and instance not in self._stalled:
                self._stalled.add(instance)
                self._help(self._tell_of_stall(instance))

    async def _tell_of_stall(self, instance: InstanceId) -> None:
        """Nobody puts corrected code in its place while the test waits."""
        while True:
            await self.clock.advance(STALL_PATIENCE_S)
            error = (await self.client.state(instance)).stalled
            if error is None:
                break
            what = error.traceback or f"{error.type}: {error.message}"
            self.client.stop_waiting(
                instance,
                Stalled(f"{instance} is stalled until corrected code runs (restart):\n{what}"),
            )
        self._stalled.discard(instance)

    # --- instances

    async def start(
        self, saga: Saga[I, R], input: I | None = None, *, id: str | None = None
    ) -> Handle[R]:
        """Start an instance, under "1", "2", … unless it is given an `id`. See `Client.start`."""
        return await self.client.start(saga, input, id=id or str(next(self._numbers)))

    async def run(self, saga: Saga[I, R], input: I | None = None, *, id: str | None = None) -> R:
        """Start an instance and wait for its result. See `Handle.result`."""
        return await (await self.start(saga, input, id=id)).result()

    async def journal(self, instance: Handle[Any] | InstanceId) -> list[JournalEvent]:
        """The events of an instance, decoded. Raises InstanceNotFound."""
        if isinstance(instance, Handle):
            instance = instance.instance
        return [journal.decode(record) for record in await self.client.journal(instance)]

    # --- time

    async def advance(self, seconds: float) -> None:
        """Let time pass; what becomes due meanwhile happens."""
        await self.clock.advance(seconds)

    async def settle(self) -> None:
        """Wait until there is nothing left to do at this moment of time."""
        await self.clock.settle()

    def now(self) -> datetime:
        """The present moment of virtual time."""
        return self.clock.now()

    # --- what went wrong

    async def dead_letters(self) -> list[DeadLetter]:
        """The messages that nobody could handle, oldest first."""
        return await self._shared.broker.dead_letters()


def run_app(
    app: App,
    scenario: Callable[[Harness], Awaitable[T]],
    *,
    settings: Settings = EVERY_TURN_REPLAYS,
    points: CrashPoints | Sequence[CrashPoints] = (),
    rates: FaultRates | None = None,
    seed: int = 0,
) -> T:
    """Run a scenario against an application's engine, in virtual time. See `Harness`."""

    async def main() -> T:
        harness = Harness(app, settings=settings, points=points, rates=rates, seed=seed)
        async with harness:
            return await scenario(harness)

    return run_virtual(main())

"""Seeded simulation: an application's engines, consumers and clients in a world that goes wrong.

Engines crash anywhere and come back, several race on one inbox, their clocks disagree, the store
and the broker fail, stall, repeat, reorder and lose. All of it is drawn from one seed, and time
is virtual. After the storm the faults stop, and then everything must come to its end::

    async def clients(world: Simulation) -> None:
        handle = await world.insist(lambda: world.client.start(transfer, order, id="1"))
        await handle.result()


    @pytest.mark.parametrize("seed", seeds(200))
    def test_money_is_conserved(seed: int) -> None:
        bank.reset()
        simulate(app, clients, seed=seed)
        assert bank.total() == 0

`simulate` itself demands that every journal is one that an engine may write, that the code agrees
with every version of it, that every instance ends, and that the broker is empty in the end. What
went wrong with the money only the test can know. A seed that fails says so, and `AMENDS_SEED=…`
runs it alone, exactly as before, if the application draws nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

from amends.app import App
from amends.backend import Backend, memory_backend
from amends.broker.memory import MemoryBroker
from amends.broker.topology import all_queues
from amends.client import Client
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import JOURNAL_PREFIX, START, InstanceId
from amends.errors import BrokerUnavailable, StartUnconfirmed
from amends.sagas.reconcile import reconcile
from amends.sagas.replay import fold
from amends.sagas.state import InstanceState
from amends.settings import Settings
from amends.stores.memory import MemoryStore
from amends.stores.port import EventFilter
from amends.testing.clock import VirtualClock, run_virtual, virtual_clock
from amends.testing.crashes import CrashPoints
from amends.testing.engines import EngineProcess
from amends.testing.faults import FaultRates, Faults, FaultyBroker
from amends.testing.invariants import Violation, check_journal, check_replay
from amends.testing.weather import NO_FAULTS, Weather

__all__ = ["Simulated", "Simulation", "Weather", "seeds", "simulate"]

T = TypeVar("T")

_JOURNALS: Final = EventFilter((JOURNAL_PREFIX,))
_ALL: Final = 10**9


class Simulated(NamedTuple):
    """What a simulation was. Two runs of one seed have the same `trace`."""

    trace: str
    journals: dict[InstanceId, list[RecordedEvent]]
    crashes: int
    losses: int
    elapsed_s: float


class Simulation:
    """The world that the clients of a simulation live in.

    `client` is an application's, over a broker that fails it, too; `rng` is for what the clients
    do, `clock` for when.
    """

    def __init__(self, app: App, seed: int, weather: Weather) -> None:
        self.app = app
        self.seed = seed
        self.weather = weather
        self.rng = random.Random(f"clients {seed}")
        self.client: Client
        self.clock: VirtualClock
        self.crashes = 0
        self.losses = 0
        self._rng = random.Random(f"world {seed}")
        self._trace = blake2b(digest_size=16)
        self._calm = False
        self._group: asyncio.TaskGroup
        self._meanwhile: list[asyncio.Task[None]] = []
        self._faults: list[Faults] = []
        self._shared: Backend
        self._settings = Settings(
            store="memory://",
            partitions=weather.partitions,
            cache_max=weather.cache_max,
            cache_wait_s_per_event=weather.cache_wait_s_per_event,
            calm_gc=False,
        )

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do something until it got through, as a client must: the broker may not be there, or
        may have lost a start. Only for what may be done twice.
        """
        while True:
            try:
                return await call()
            except (BrokerUnavailable, StartUnconfirmed):
                await self.clock.advance(self.rng.uniform(0.1, 5.0))

    def meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on for as long as the world lasts: a person who looks after things."""
        self._meanwhile.append(self._group.create_task(work))

    async def states(self) -> list[tuple[InstanceId, InstanceState]]:
        """Where every instance stands, by its journal."""
        return [(id, fold(id, records)) for id, records in (await self._journals()).items()]

    # --- the course of events

    async def run(self, clients: Callable[[Simulation], Awaitable[None]]) -> Simulated:
        """The storm, the calm after it, and the judgement. Once only. Raises Violation."""
        self.clock = virtual_clock()
        self._shared = memory_backend(self.clock)
        async with AsyncExitStack() as cleanup:
            await self._open_client(cleanup)
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._meanwhile = [
                    group.create_task(self._keep_running(n)) for n in range(self.weather.engines)
                ]
                script = group.create_task(self._play(clients))
                storm = group.create_task(self._lose_now_and_then())
                await self.clock.advance(self.weather.storm_s)
                storm.cancel()
                await self._calm_down()
                await self._come_to_an_end(script)
                for task in self._meanwhile:
                    task.cancel()
        return await self._judge()

    async def _play(self, clients: Callable[[Simulation], Awaitable[None]]) -> None:
        await clients(self)

    async def _open_client(self, cleanup: AsyncExitStack) -> None:
        faults = self._new_faults(replace(self.weather.rates, lose=0.0))
        # An engine that is not there yet could not have declared them.
        await self._shared.broker.declare(all_queues(self.app.queues, self.weather.partitions))
        backend = replace(self._shared, broker=FaultyBroker(self._shared.broker, faults))
        client = Client(self.app, backend, self._settings)
        self.client = await cleanup.enter_async_context(client)

    def _new_faults(self, rates: FaultRates, points: CrashPoints | None = None) -> Faults:
        faults = Faults(self.clock, seed=self._rng.getrandbits(64), rates=rates, points=points)
        if self._calm:
            faults.rates = NO_FAULTS
        self._faults.append(faults)
        return faults

    async def _keep_running(self, number: int) -> None:
        """One machine: its engine dies, and is missing, and comes back."""
        ahead_s = self._rng.uniform(-1, 1) * self.weather.ahead_s_max
        part = self.weather.part(number) if self.app.queues else {}
        while True:
            points = self._doom()
            faults = self._new_faults(self.weather.rates, points)
            process = EngineProcess(
                self.app,
                self._shared,
                self._settings,
                faults,
                ahead_s=ahead_s,
                **part,
            )
            await process.start()
            try:
                await self._until_dead(process, points)
            finally:
                await process.die()
            self._faults.remove(faults)
            self.crashes += 1
            self._note(f"engine {number} died at {len(points.log)} {points.log[-1]}")
            if not self._calm:
                await self.clock.advance(self._rng.uniform(0, self.weather.repair_s_max))

    def _doom(self) -> CrashPoints:
        mean = self.weather.points_mean
        if mean is None or self._calm:
            return CrashPoints()
        return CrashPoints(1 + int(self._rng.expovariate(1 / mean)))

    async def _until_dead(self, process: EngineProcess, points: CrashPoints) -> None:
        crashed = asyncio.ensure_future(points.crashed())
        failed = asyncio.ensure_future(process.failed())
        cut = asyncio.ensure_future(self._cut_now_and_then(process))
        try:
            await asyncio.wait([crashed, failed], return_when=asyncio.FIRST_COMPLETED)
            if not points.is_dead:
                raise Violation("an engine ended by itself") from failed.exception()
        finally:
            for waiting in (crashed, failed, cut):
                waiting.cancel()
            await asyncio.gather(crashed, failed, cut, return_exceptions=True)

    async def _cut_now_and_then(self, process: EngineProcess) -> None:
        mean_s = self.weather.cuts_mean_s
        while mean_s is not None:
            await self.clock.advance(self._rng.expovariate(1 / mean_s))
            if self._calm:
                return
            process.cut_connections()

    async def _lose_now_and_then(self) -> None:
        """The broker loses everything, and after a while somebody notices."""
        mean_s = self.weather.losses_mean_s
        while mean_s is not None:
            await self.clock.advance(self._rng.expovariate(1 / mean_s))
            assert isinstance(self._shared.broker, MemoryBroker)
            self._shared.broker.lose_everything()
            self.losses += 1
            self._note("the broker lost everything")
            await self.clock.advance(self._rng.uniform(0, 30))
            await self._reconcile()

    async def _reconcile(self) -> None:
        await reconcile(self._shared.store, self._shared.broker, partitions=self.weather.partitions)

    async def _calm_down(self) -> None:
        self._note("the storm is over")
        self._calm = True
        for faults in self._faults:
            faults.rates = NO_FAULTS
            faults.points.spare()
        if self.weather.loses_messages:
            # Whoever is still at it publishes what is lost no more, and whoever is not is open.
            await self.clock.advance(self.weather.rates.delay_s_max)
            await self._reconcile()

    async def _come_to_an_end(self, script: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(self.weather.calm_s):
                await script
                while await self._open_instances():
                    await self.clock.advance(60)
        except TimeoutError:
            waiting = "" if script.done() else "; the clients wait"
            raise Violation(
                f"{self.weather.calm_s:g} s after the storm these have not ended: "
                f"{', '.join(await self._open_instances()) or 'none'}{waiting}"
            ) from None
        end = self.clock.elapsed_s + self.weather.drain_s
        while await self._left_over() and self.clock.elapsed_s < end:
            await self.clock.advance(300)

    async def _open_instances(self) -> list[str]:
        return [
            f"{instance} ({state.status})"
            for instance, state in await self.states()
            if state.final is None or state.open_steps()
        ]

    async def _left_over(self) -> list[str]:
        depths = await self._shared.broker.depths()
        return [str(depth) for depth in depths if depth.ready or depth.delayed]

    # --- judgement

    async def _judge(self) -> Simulated:
        journals = await self._journals()
        for records in journals.values():
            check_journal(self.app, records)
            check_replay(self.app, records)
        letters = await self._shared.broker.dead_letters(limit=_ALL)
        # What came too late was refused, and is there for whoever sent it.
        if dead := [letter for letter in letters if letter.reason != "refused"]:
            raise Violation("\n".join(["there are dead letters:", *map(str, dead)]))
        if left := await self._left_over():
            raise Violation(f"nothing is to be done, but messages are left: {left}")
        for record in await self._shared.store.read_all(limit=_ALL):
            self._note(f"{record.stream} {record.type} {record.recorded_at}", record.data)
        return Simulated(
            self._trace.hexdigest(), journals, self.crashes, self.losses, self.clock.elapsed_s
        )

    async def _journals(self) -> dict[InstanceId, list[RecordedEvent]]:
        assert isinstance(self._shared.store, MemoryStore)
        journals: dict[InstanceId, list[RecordedEvent]] = {}
        for record in await self._shared.store.read_all(START, filter=_JOURNALS, limit=_ALL):
            instance = InstanceId.of_stream(record.stream)
            assert instance is not None
            journals.setdefault(instance, []).append(record)
        return journals

    def _note(self, what: str, data: bytes = b"") -> None:
        self._trace.update(f"{self.clock.elapsed_s:.6f} {what}\n".encode() + data)


def simulate(
    app: App,
    clients: Callable[[Simulation], Awaitable[None]],
    *,
    seed: int,
    weather: Weather | None = None,
    judge: Callable[[Simulated], None] | None = None,
) -> Simulated:
    """Run an application through a storm and the calm after it; without a `weather`, the seed's.

    `clients` starts sagas and waits, signals, cancels, resolves; it ends when nothing more is
    wanted of it, at the latest some time after the storm. `judge` looks at what came of it all.

    Raises Violation when a promise was broken, and what `clients` and `judge` raise; with a note that says
    how to run it again.
    """
    weather = weather or Weather.drawn(seed)
    simulation = Simulation(app, seed, weather)
    try:
        simulated = run_virtual(simulation.run(clients))
        if judge is not None:
            judge(simulated)
    except BaseException as error:
        error.add_note(f"AMENDS_SEED={seed} runs this again; its weather was {weather}")
        raise
    return simulated


def seeds(count: int) -> Sequence[int]:
    """The seeds to run: `AMENDS_SEED` alone if it is set, else the first `AMENDS_SEEDS`, else
    `count`.
    """
    if "AMENDS_SEED" in os.environ:
        return [int(os.environ["AMENDS_SEED"])]
    return range(int(os.environ.get("AMENDS_SEEDS", count)))

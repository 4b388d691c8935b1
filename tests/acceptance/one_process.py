"""Payments in one process: the whole engine over a store of a test's choice and a broker in memory.

Customers keep it busy, as in a deployment; besides, somebody follows the journals, and notes are
taken of every append that the store has acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from amends import Client, Settings
from amends.backend import Backend
from amends.broker.commit import SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.domain.clock import SystemClock
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START, Position, StreamName
from amends.errors import StoreUnavailable
from amends.stores.port import EVERYTHING, Append, Appended, EventFilter, EventStore, Removal
from amends.worker import Engine
from tests.acceptance import ledger_app
from tests.acceptance.customers import JOURNALS, Customers
from tests.acceptance.judge import Books, judge, records_of, refused_signals
from tests.acceptance.ledger import Ledger

LOOK_S = 0.05


class NotedStore:
    """Another store, with notes of what it has acknowledged, by event id."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.acknowledged: list[str] = []

    async def append(self, append: Append) -> Appended:
        appended = await self._store.append(append)
        self.acknowledged += [str(event.id) for event in append.events]
        return appended

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        return await self._store.read(stream, start=start, limit=limit)

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        return await self._store.read_backwards(stream, start=start, limit=limit)

    async def read_all(
        self, after: Position = START, *, filter: EventFilter = EVERYTHING, limit: int = 1000
    ) -> list[RecordedEvent]:
        return await self._store.read_all(after, filter=filter, limit=limit)

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        return await self._store.read_all_backwards(before, filter=filter, limit=limit)

    def subscribe(
        self, after: Position | None = None, *, filter: EventFilter = EVERYTHING
    ) -> AsyncIterator[RecordedEvent]:
        return self._store.subscribe(after, filter=filter)

    async def end(self) -> Position:
        return await self._store.end()

    async def remove(self, removals: Sequence[Removal]) -> list[StreamName]:
        return await self._store.remove(removals)

    async def close(self) -> None:
        await self._store.close()


class PatientStore(NotedStore):
    """For customers, who ask again until they hear something."""

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        return await insist(partial(self._store.read, stream, start=start, limit=limit))

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        return await insist(partial(self._store.read_backwards, stream, start=start, limit=limit))

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        return await insist(
            partial(self._store.read_all_backwards, before, filter=filter, limit=limit)
        )


async def insist(read: Callable[[], Awaitable[list[RecordedEvent]]]) -> list[RecordedEvent]:
    while True:
        try:
            return await read()
        except StoreUnavailable:
            await asyncio.sleep(LOOK_S)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await what():
            return
        await asyncio.sleep(LOOK_S)


class Payments:
    """See the module. Made by `in_one_process`."""

    def __init__(
        self, client: Client, ledger: Ledger, seed: int, noted: NotedStore, *, open_max: int
    ) -> None:
        self.client = client
        self.store = client.backend.store
        self.noted = noted
        self.customers = Customers(client, ledger, seed, open_max=open_max)
        self.seen: list[RecordedEvent] = []
        """What a subscription to the journals has delivered."""

    async def until_events(self, number: int) -> None:
        """Wait until so many events have happened, running errands on the way."""
        for part in range(0, number, 50):
            await self.customers.until_events(part)
            await self.customers.run_errands()
        await self.customers.until_events(number)

    async def follow(self) -> None:
        async for record in self.store.subscribe(START, filter=JOURNALS):
            self.seen.append(record)

    async def is_idle(self) -> bool:
        depths = await self.client.backend.broker.depths()
        return not any(depth.ready or depth.delayed for depth in depths)

    async def has_seen_everything(self) -> bool:
        [last] = await self.store.read_all_backwards(filter=JOURNALS, limit=1)
        return bool(self.seen) and self.seen[-1].position >= last.position

    async def finish(self) -> None:
        """See all payments to their end, and all that was written to the subscription's."""
        await self.customers.until_all_have_ended()
        await until(self.is_idle)
        await until(self.has_seen_everything)

    async def judge(self, ledger: Ledger) -> None:
        """Raises AssertionError."""
        events = await self.store.read_all(filter=JOURNALS, limit=10**9)
        self._judge_events(events)
        orders = {id: plan.order for id, plan in self.customers.plans.items()}
        refused = await refused_signals(self.client.backend.broker)
        judge(orders, records_of(events), self.customers.sent, refused, Books(ledger))

    def _judge_events(self, events: Sequence[RecordedEvent]) -> None:
        """Each is there once; what was acknowledged is among them; the subscription had all."""
        ids = [str(event.id) for event in events]
        assert len(set(ids)) == len(ids), "an event is there twice"
        lost = set(self.noted.acknowledged) - set(ids)
        assert not lost, f"acknowledged, and lost: {lost}"
        positions = [event.position for event in events]
        assert positions == [event.position for event in self.seen], "the subscription differs"


@asynccontextmanager
async def in_one_process(
    store: EventStore,
    folder: Path,
    seed: int,
    *,
    timeout_s: float,
    open_max: int = 20,
    before_the_end: Callable[[], None] = lambda: None,
) -> AsyncIterator[Payments]:
    """Payments under way for at most so long. At the end all are finished, and judged.

    `before_the_end` is called when all have ended, before the judge reads what there is.
    """
    print(f"AMENDS_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    clock, settings = SystemClock(), Settings(store="memory://", calm_gc=False)
    broker, noted = MemoryBroker(clock), NotedStore(store)
    backend = Backend(noted, broker, SequentialCommitter(noted, broker), clock)
    ledger = Ledger.create(str(folder / "ledger.db"))
    ledger_app.the_ledger.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEDGER", str(folder / "ledger.db"))
        try:
            async with (
                asyncio.timeout(timeout_s),
                Client(
                    ledger_app.app, replace(backend, store=PatientStore(store)), settings
                ) as client,
                Engine(ledger_app.app, backend, settings) as engine,
            ):
                payments = Payments(client, ledger, seed, noted, open_max=open_max)
                async with asyncio.TaskGroup() as group:
                    watching = [
                        group.create_task(payments.follow()),
                        group.create_task(engine.failed()),
                    ]
                    async with payments.customers:
                        yield payments
                        await payments.finish()
                    for task in watching:
                        task.cancel()
                before_the_end()
                await payments.judge(ledger)
        except TimeoutError:
            pytest.fail(f"after {timeout_s} s not all payments are over")
        finally:
            ledger_app.the_ledger().close()
            ledger_app.the_ledger.cache_clear()
            ledger.close()
            await broker.close()

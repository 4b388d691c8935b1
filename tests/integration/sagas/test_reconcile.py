"""The journal is enough: whenever all messages are lost, `reconcile` brings every saga to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby

import pytest

from amends import (
    Activity,
    App,
    Client,
    Handle,
    SagaContext,
    Settings,
    activity,
    activity_context,
    saga,
)
from amends.backend import Backend
from amends.broker.commit import SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.domain.envelope import CAUSATION_ID, NewEvent, RecordedEvent, decode_metadata
from amends.domain.ids import ExpectedVersion
from amends.sagas.reconcile import INSTANCES_PAGE, Reconciled, reconcile
from amends.stores.memory import MemoryStore
from amends.stores.port import Append
from amends.testing.clock import VirtualClock
from amends.worker import Engine
from tests.integration.sagas.support import TWICE, Broken, Order, Receipt, Refused, app_of, ended

SETTINGS = Settings(store="memory://", cache_max=0)

pytestmark = pytest.mark.virtual_time


class Shop:
    """A saga with retries, a timer, steps side by side, and a failure after which all is undone.

    What an attempt does depends on its number only, so that a run that is cut off anywhere goes
    on as it would have gone. `refuse` ends it compensated, `jam` parks its first undo.
    """

    def __init__(self, *, refuse: bool = False, jam: bool = False) -> None:
        async def attempt(name: str) -> Receipt:
            if activity_context().attempt == 1 and name in ("a", "undo_b"):
                raise Broken
            if refuse and name == "c":
                raise Refused
            if jam and name == "undo_b":
                raise Broken
            return Receipt(text=name)

        def step(name: str) -> Activity[Order, Receipt]:
            @activity(name=name, retry=TWICE)
            async def do(order: Order) -> Receipt:
                return await attempt(name)

            @do.undo(name=f"undo_{name}", retry=TWICE)
            async def unde(order: Order, receipt: Receipt | None) -> None:
                await attempt(f"undo_{name}")

            return do

        first, second, third = step("a"), step("b"), step("c")

        @saga(name="buy", deadline=3600)
        async def buy(ctx: SagaContext, order: Order) -> Receipt:
            await ctx.do(first, order)
            await asyncio.gather(ctx.do(second, order), asyncio.sleep(10))
            return await ctx.do(third, order)

        self.saga = buy
        self.app: App = app_of(buy, activities=[first, second, third])


@asynccontextmanager
async def running(
    app: App, store: MemoryStore, broker: MemoryBroker, clock: VirtualClock
) -> AsyncIterator[Client]:
    backend = Backend(store, broker, SequentialCommitter(store, broker), clock)
    async with Client(app, backend, SETTINGS) as client, Engine(app, backend, SETTINGS):
        yield client


def turns(journal: list[RecordedEvent]) -> list[list[RecordedEvent]]:
    """The events of a journal, append by append."""
    return [
        list(turn)
        for _, turn in groupby(journal, lambda event: decode_metadata(event)[CAUSATION_ID])
    ]


async def store_of(journal: list[list[RecordedEvent]], clock: VirtualClock) -> MemoryStore:
    store = MemoryStore(clock)
    version = -1
    for turn in journal:
        events = [NewEvent(event.id, event.type, event.data, event.metadata) for event in turn]
        await store.append(Append(turn[0].stream, events, ExpectedVersion(version)))
        version += len(events)
    return store


@pytest.mark.parametrize(("refuse", "end"), [(False, "completed"), (True, "compensated")])
async def test_the_broker_may_be_lost_after_any_turn(
    clock: VirtualClock, refuse: bool, end: str
) -> None:
    shop = Shop(refuse=refuse)
    store = MemoryStore(clock)
    async with running(shop.app, store, MemoryBroker(clock), clock) as client:
        handle = await client.start(shop.saga, Order(n=1), id="1")
        assert await ended(handle) == end
        whole = turns(await handle.journal())
    assert len(whole) >= 6
    for number in range(1, len(whole)):
        again = await store_of(whole[:number], clock)
        broker = MemoryBroker(clock)
        done = await reconcile(again, broker)
        assert (done.instances, done.waiting) == (1, 1)
        async with running(shop.app, again, broker, clock) as client:
            assert await ended(client.handle(shop.saga, "1")) == end


async def test_what_is_done_and_what_waits_for_people_gets_nothing(clock: VirtualClock) -> None:
    shop = Shop(refuse=True, jam=True)
    store = MemoryStore(clock)
    async with running(shop.app, store, MemoryBroker(clock), clock) as client:
        handle = await client.start(shop.saga, Order(n=1), id="parked")
        await clock.advance(60)
        await clock.settle()
        assert await handle.status() == "parked"
    broker = MemoryBroker(clock)
    done = await reconcile(store, broker)
    # Its deadline only: it is open still.
    assert done == Reconciled(instances=1, waiting=1, messages=1)


async def test_twice_is_as_good_as_once(clock: VirtualClock) -> None:
    shop = Shop()
    store, broker = MemoryStore(clock), MemoryBroker(clock)
    async with running(shop.app, store, broker, clock) as client:
        handle: Handle[Receipt] = await client.start(shop.saga, Order(n=1), id="1")
        await clock.settle()
        for _ in range(3):
            await reconcile(store, broker)
        assert await handle.result() == Receipt(text="c")
        kinds = [event.type for event in await handle.journal()]
    assert kinds.count("StepCompleted") == 3
    assert await reconcile(store, broker) == Reconciled(instances=1)


async def test_it_goes_page_by_page(clock: VirtualClock) -> None:
    shop = Shop()
    count = 2 * INSTANCES_PAGE + 1
    store = MemoryStore(clock)
    async with running(shop.app, store, MemoryBroker(clock), clock) as client:
        for number in range(count):
            await client.start(shop.saga, Order(n=number), id=str(number))
        await clock.settle()
    broker = MemoryBroker(clock)
    done = await reconcile(store, broker, partitions=3)
    assert (done.instances, done.waiting, done.unreadable) == (count, count, 0)
    depths = {depth.queue: depth.ready + depth.delayed for depth in await broker.depths()}
    assert depths.keys() == {"inbox.0", "inbox.1", "inbox.2"}
    assert sum(depths.values()) == done.messages

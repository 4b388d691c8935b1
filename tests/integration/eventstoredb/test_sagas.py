"""The same sagas, whatever keeps their journals: memory, a SQLite file, or EventStoreDB.

Each test runs on all of them, in real time, with engines that come and go over one log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import pytest

from amends import (
    App,
    Failure,
    SagaContext,
    SagaNotCompleted,
    Settings,
    Signal,
    StartConflict,
    activity,
    activity_context,
    aggregates,
    saga,
)
from amends.backend import Backend
from amends.broker.commit import SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.client import Client
from amends.domain.clock import SystemClock
from amends.domain.events import SagaCompleted
from amends.errors import InstanceNotFound
from amends.projections.sagas import newest_first
from amends.sagas.reconcile import reconcile
from amends.sagas.retention import purge
from amends.stores.port import EventStore
from amends.testing.contracts.data import soon
from amends.worker import Engine
from tests.integration.eventstoredb.conftest import Reopen
from tests.unit.stores.accounts import Account, Deposited, deposit, withdraw

go = Signal("go", str)
did: list[str] = []


class Refused(Failure):
    """The business says no."""


def note(what: str) -> None:
    did.append(f"{what} {activity_context().idempotency_key}")


@activity
async def take(n: int) -> int:
    note("take")
    recorded = await aggregates(Account).execute(payer(), deposit(n))
    assert isinstance(recorded.events[0], Deposited)
    return n


@take.undo
async def give_back(n: int, taken: int | None) -> None:
    note("give back")
    await aggregates(Account).execute(payer(), withdraw(n))


def payer() -> str:
    """An account of this instance alone."""
    return activity_context().idempotency_key.split("/")[1]


@activity
async def refuse(n: int) -> None:
    note("refuse")
    raise Refused(f"not {n}")


@activity
async def write(size: int) -> str:
    return "x" * size


@saga
async def pay(ctx: SagaContext, n: int) -> int:
    taken = await ctx.do(take, n)
    await asyncio.sleep(0.05)
    return taken + await ctx.do(take, n)


@saga
async def fail(ctx: SagaContext, n: int) -> None:
    await ctx.do(take, n)
    await ctx.do(refuse, n)


@saga
async def wait_for_go(ctx: SagaContext, n: int) -> str:
    await ctx.do(take, n)
    return await ctx.receive(go)


@saga
async def write_much(ctx: SagaContext, parts: int) -> int:
    texts = await asyncio.gather(*(ctx.do(write, 200_000) for _ in range(parts)))
    return sum(map(len, texts))


APP = App(sagas=[pay, fail, wait_for_go, write_much], activities=[take, refuse, write])
SETTINGS = Settings(store="memory://", calm_gc=False)


class World:
    """Engines over one log and one broker."""

    def __init__(self, reopen: Reopen) -> None:
        self.reopen = reopen
        self.broker = MemoryBroker(SystemClock())
        self.prefix = uuid4().hex

    def id(self, name: object) -> str:
        """An id that no other test has: the log may be shared with them."""
        return f"{self.prefix}-{name}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        """An engine that lives as long as the block, with a view of its own of the log."""
        store, broker = await self.reopen(), self.broker.reopened()
        backend = Backend(store, broker, SequentialCommitter(store, broker), SystemClock())
        async with Client(APP, backend, SETTINGS) as client, Engine(APP, backend, SETTINGS):
            yield client
        await broker.close()
        await store.close()

    def did(self, name: object) -> list[str]:
        """What activities did for an instance."""
        return [what.partition(" ")[0] for what in did if f"/{self.id(name)}/" in what]


@pytest.fixture
def world(reopen: Reopen) -> World:
    return World(reopen)


async def test_a_saga_completes_and_its_journal_tells_how(world: World) -> None:
    async with world.running() as client:
        handle = await client.start(pay, 7, id=world.id(1))
        assert await soon(handle.result()) == 14
        journal = await handle.journal()
    assert [record.version for record in journal] == list(range(len(journal)))
    assert journal[-1].type == SagaCompleted.__name__
    assert world.did(1) == ["take", "take"]
    async with world.running() as client:
        again = client.handle(pay, handle.id)
        assert await soon(again.result()) == 14
        assert await again.journal() == journal
        assert (await soon((await client.start(pay, 7, id=handle.id)).result())) == 14
        with pytest.raises(StartConflict):
            await client.start(pay, 8, id=handle.id)
    assert world.did(1) == ["take", "take"]


async def test_what_fails_is_undone(world: World) -> None:
    async with world.running() as client:
        handle = await client.start(fail, 7, id=world.id(1))
        with pytest.raises(SagaNotCompleted) as ended:
            await soon(handle.result())
        assert ended.value.state == "compensated"
    assert [what for what in world.did(1) if what != "give"] == ["take", "refuse"]
    assert world.did(1).count("give") == 1


async def test_another_engine_goes_on_with_what_the_first_has_begun(world: World) -> None:
    async with world.running() as client:
        handles = [await client.start(wait_for_go, n, id=world.id(n)) for n in range(10)]
        while sum(len(world.did(n)) for n in range(10)) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with world.running() as client:
        for handle in handles:
            await client.handle(wait_for_go, handle.id).signal(go, f"now {handle.id}")
        for handle in handles:
            result = await soon(client.handle(wait_for_go, handle.id).result())
            assert result == f"now {handle.id}"
    assert [world.did(n) for n in range(10)] == [["take"]] * 10


async def test_the_journals_are_enough(world: World) -> None:
    """The broker is gone with all that was in it."""
    async with world.running() as client:
        handle = await client.start(wait_for_go, 1, id=world.id(1))
        while not world.did(1):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    world.broker = MemoryBroker(SystemClock())
    async with world.running() as client:
        await reconcile(client.backend.store, client.backend.broker)
        await client.handle(wait_for_go, handle.id).signal(go, "on")
        assert await soon(client.handle(wait_for_go, handle.id).result()) == "on"


async def test_many_at_once_each_once(world: World) -> None:
    async with world.running() as client, world.running() as other:
        clients = [client, other]
        handles = await asyncio.gather(
            *(clients[n % 2].start(pay, n, id=world.id(n)) for n in range(60))
        )
        results = await soon(asyncio.gather(*(handle.result() for handle in handles)))
    assert results == [2 * n for n in range(60)]
    assert all(len(set(world.did(n))) == 1 for n in range(60))


async def test_a_turn_that_is_too_large_is_split(world: World) -> None:
    async with world.running() as client:
        handle = await client.start(write_much, 10, id=world.id(1))
        assert await soon(handle.result()) == 2_000_000
        journal = await handle.journal()
    assert sum(len(record.data) for record in journal) > 2_000_000


async def test_a_journal_that_was_removed_is_gone_and_its_id_is_free(world: World) -> None:
    async with world.running() as client:
        store = client.backend.store
        for _ in range(2):
            handle = await client.start(pay, 3, id=world.id(1))
            assert await soon(handle.result()) == 6
            journal = await handle.journal()
            assert journal[0].version == 0
            assert await listed(store, handle.id) == 1
            await asyncio.sleep(0.2)  # until nothing of it is still to come
            assert (await purge(store, SystemClock(), timedelta(), saga="pay")).journals >= 1
            with pytest.raises(InstanceNotFound):
                await handle.journal()
            assert await listed(store, handle.id) == 0
    # The steps' keys are those of the first life: whoever remembers them does nothing twice.
    assert len(set(did_of(world))) == 2


async def listed(store: EventStore, id: str) -> int:
    """How often an instance is listed."""
    found = [one.instance.id async for one in newest_first(store, saga="pay")]
    return found.count(id)


def did_of(world: World) -> list[str]:
    return [what for what in did if f"/{world.id(1)}/" in what]

"""Starting: one id is one instance, however often and by however many it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from amends import App, Client, Handle, Saga, SagaContext, StartConflict, saga
from amends.broker.port import Message
from amends.domain import events as e
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import StreamName
from amends.errors import (
    InvalidPayload,
    NotRegistered,
    PayloadTooLarge,
    StartUnconfirmed,
    UsageError,
)
from amends.testing.harness import EVERY_TURN_REPLAYS, Harness
from tests.integration.sagas.support import Order, Receipt, World, app_of, names

pytestmark = pytest.mark.virtual_time


def one_step(world: World) -> tuple[Saga[Order, Receipt], App]:
    a = world.activity("a")

    @saga(name="one")
    async def one(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    return one, app_of(one, activities=[a])


async def test_starting_again_with_the_same_input_gives_the_same_instance() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        first = await harness.start(one, Order(n=1), id="x")
        again = await harness.start(one, Order(n=1), id="x")
        assert first.instance == again.instance
        assert await first.result() == await again.result() == Receipt(text="a1")
        # Also after it has finished.
        last = await harness.start(one, Order(n=1), id="x")
        assert await last.result() == Receipt(text="a1")
        assert world.did == ["a 1"]


async def test_another_input_under_the_same_id_is_a_conflict_and_the_first_stands() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1), id="x")
        with pytest.raises(StartConflict, match="one/x"):
            await harness.start(one, Order(n=2), id="x")
        assert await handle.result() == Receipt(text="a1")
        with pytest.raises(StartConflict):
            await harness.start(one, Order(n=2), id="x")
        assert world.did == ["a 1"]


async def test_fifty_concurrent_starts_of_one_id_make_one_instance() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        starts = (harness.start(one, Order(n=1), id="x") for _ in range(50))
        handles = await asyncio.gather(*starts)
        assert {handle.instance for handle in handles} == {handles[0].instance}
        assert {(await handle.result()).text for handle in handles} == {"a1"}
        assert world.did == ["a 1"]
        assert (await names(harness, handles[0])).count("SagaStarted") == 1


async def test_concurrent_starts_with_different_inputs_agree_on_one() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        starts = (harness.start(one, Order(n=n), id="x") for n in range(50))
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        won = {n: outcome for n, outcome in enumerate(outcomes) if isinstance(outcome, Handle)}
        lost = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, StartConflict)]
        assert len(lost) == 49
        ((n, handle),) = won.items()
        assert await handle.result() == Receipt(text=f"a{n}")
        assert world.did == [f"a {n}"]


async def test_a_start_that_somebody_else_overtakes_at_any_moment_is_confirmed() -> None:
    """The look for a known instance must not come before the watch for a new one."""
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        real = harness.client.backend

        class OutdatedStore:
            """Whoever reads learns how it was before a rival's start."""

            async def read(self, stream: StreamName, **options: Any) -> list[RecordedEvent]:
                before = await real.store.read(stream, **options)
                await harness.start(one, Order(n=1), id="x")
                await harness.settle()
                return before

            def __getattr__(self, name: str) -> Any:
                return getattr(real.store, name)

        outdated = replace(real, store=OutdatedStore())
        async with Client(app, outdated, EVERY_TURN_REPLAYS) as client:
            handle = await client.start(one, Order(n=1), id="x")
            assert await handle.result() == Receipt(text="a1")
        assert world.did == ["a 1"]


async def test_a_start_without_an_engine_is_durable_and_says_that_nobody_took_it_up() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        await harness.crash()
        with pytest.raises(StartUnconfirmed, match="starting it again is safe"):
            await harness.start(one, Order(n=1), id="x")
        await harness.start_engine()
        assert await harness.run(one, Order(n=1), id="x") == Receipt(text="a1")
        assert world.did == ["a 1"]


async def test_submitting_needs_no_engine_and_waits_for_nobody() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        await harness.crash()
        handles = [await harness.client.submit(one, Order(n=n), id=str(n)) for n in range(3)]
        with pytest.raises(TimeoutError):
            await handles[0].started(timeout=5)
        await harness.start_engine()
        await handles[0].started(timeout=5)
        assert [(await handle.result()).text for handle in handles] == ["a0", "a1", "a2"]


async def test_submitting_an_id_twice_leaves_the_first_input() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        await harness.client.submit(one, Order(n=1), id="x")
        handle = await harness.client.submit(one, Order(n=2), id="x")
        assert await handle.result() == Receipt(text="a1")
        assert world.did == ["a 1"]
        assert (await names(harness, handle)).count("SagaStarted") == 1


async def test_without_an_id_each_start_is_another_instance() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        handles = [await harness.client.start(one, Order(n=1)) for _ in range(3)]
        assert len({handle.id for handle in handles}) == 3


async def test_what_cannot_be_started_is_refused_before_anything_is_sent() -> None:
    world = World()
    one, app = one_step(world)
    sent: list[Message] = []

    @saga(name="stranger")
    async def stranger(ctx: SagaContext, order: Order) -> None: ...

    async with Harness(app) as harness:
        broker = harness.client.backend.broker
        publish = broker.publish

        async def spy(messages: list[Message]) -> None:
            sent.extend(messages)
            await publish(messages)

        broker.publish = spy  # type: ignore[method-assign, assignment]
        with pytest.raises(NotRegistered, match="stranger"):
            await harness.start(stranger, Order())
        with pytest.raises(InvalidPayload):
            await harness.start(one, Order.model_construct(n="no number"))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cannot be an id"):
            await harness.start(one, Order(), id="a\nb")
        assert sent == []


async def test_an_input_over_the_limit_is_refused() -> None:
    @saga(name="long")
    async def long(ctx: SagaContext, text: str) -> None: ...

    async with Harness(app_of(long)) as harness:
        with pytest.raises(PayloadTooLarge):
            await harness.start(long, "x" * 300_000)


async def test_a_saga_without_an_input_starts_with_none() -> None:
    @saga(name="bare")
    async def bare(ctx: SagaContext) -> str:
        return ctx.id

    async with Harness(app_of(bare)) as harness:
        handle = await harness.start(bare, id="7")
        assert await handle.result() == "7"
        first = (await harness.journal(handle))[0]
        assert isinstance(first, e.SagaStarted)
        assert first.input is None

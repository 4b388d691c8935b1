"""Several engines on one store and broker: whoever loses a race reads, and decides again."""

from __future__ import annotations

import asyncio

import pytest

from amends import App, Saga, SagaContext, Settings, Status, saga
from amends.domain import events as e
from amends.testing.faults import FaultRates
from amends.testing.harness import Harness, run_app
from tests.integration.sagas.support import (
    Late,
    Order,
    Receipt,
    Refused,
    World,
    app_of,
    ended,
    every,
)

CACHED = Settings(store="memory://", cache_max=100)


def five_steps(world: World) -> tuple[Saga[Order, list[str]], App]:
    a, b = world.activity("a"), world.activity("b")

    @saga(name="five")
    async def five(ctx: SagaContext, order: Order) -> list[str]:
        first = await ctx.do(a, order)
        both = await asyncio.gather(ctx.do(a, order), ctx.do(b, order))
        await asyncio.sleep(10)
        last = await ctx.do(b, order)
        return [receipt.text for receipt in (first, *both, last)]

    return five, app_of(five, activities=[a, b])


@pytest.mark.parametrize("seed", range(30))
def test_two_engines_that_take_turns_in_any_order_do_each_step_and_its_record_once(
    seed: int,
) -> None:
    world = World()
    five, app = five_steps(world)

    async def scenario(harness: Harness) -> None:
        await harness.start_engine()
        await harness.start_engine()
        handles = [await harness.start(five, Order(n=n)) for n in range(4)]
        for n, handle in enumerate(handles):
            assert await handle.result() == [f"a{n}", f"a{n}", f"b{n}", f"b{n}"]
            completed = [event.seq for event in await every(harness, handle, e.StepCompleted)]
            assert sorted(completed) == [1, 2, 3, 5]
        assert await harness.dead_letters() == []

    rates = FaultRates(delay=0.3, delay_s_max=3, reorder=0.5, redeliver=0.1)
    run_app(app, scenario, settings=CACHED, rates=rates, seed=seed * 10)


@pytest.mark.virtual_time
async def test_a_report_is_not_lost_on_an_engine_whose_cache_is_behind() -> None:
    """Each engine takes every other message, so that each one's cache is always behind."""
    world = World()
    five, app = five_steps(world)
    async with Harness(app, settings=CACHED) as harness:
        await harness.start_engine()
        handles = [await harness.start(five, Order(n=n)) for n in range(20)]
        for handle in handles:
            await asyncio.wait_for(handle.result(), 60)


@pytest.mark.parametrize("seed", range(10))
def test_two_engines_compensate_once(seed: int) -> None:
    world = World()
    a, b, c = world.activity("a"), world.activity("b"), world.activity("c")
    world.plan["c"] = [Late(3, Refused("no"))]

    @saga(name="refused")
    async def refused(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        await asyncio.gather(ctx.do(b, order), ctx.do(c, order))
        raise AssertionError("unreachable")

    async def scenario(harness: Harness) -> None:
        await harness.start_engine()
        handle = await harness.start(refused, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        undos = [s for s in await every(harness, handle, e.StepScheduled) if s.kind == "undo"]
        assert [undo.of for undo in undos] == [2, 1]

    rates = FaultRates(delay=0.3, delay_s_max=3, reorder=0.5)
    app = app_of(refused, activities=[a, b, c])
    run_app(app, scenario, settings=CACHED, rates=rates, seed=seed)

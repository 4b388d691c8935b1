"""Timers: durable, at their moment, once; also over crashes, and for years."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from amends import SagaContext, Status, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.testing.clock import EPOCH
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    Late,
    Order,
    Receipt,
    World,
    app_of,
    every,
    names,
    only,
)

pytestmark = pytest.mark.virtual_time

YEAR_S = 365 * 86400


async def test_a_sleep_of_a_hundred_years_ends_at_its_moment() -> None:
    @saga
    async def it(ctx: SagaContext) -> bool:
        began = ctx.now()
        await asyncio.sleep(100 * YEAR_S)
        return ctx.now() - began == timedelta(seconds=100 * YEAR_S)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        assert await handle.result()
        started = await only(harness, handle, e.TimerStarted)
        fired = await only(harness, handle, e.TimerFired)
        assert started.due == fired.at == EPOCH + timedelta(seconds=100 * YEAR_S)


async def test_a_timer_goes_on_over_a_crash_and_fires_late_if_no_engine_ran() -> None:
    @saga
    async def it(ctx: SagaContext) -> float:
        began = ctx.now()
        await asyncio.sleep(100)
        return (ctx.now() - began).total_seconds()

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.advance(50)
        await harness.restart()
        await harness.advance(40)
        await harness.crash()
        await harness.advance(110)
        await harness.start_engine()
        assert await handle.result() == 200


async def test_sleep_until_a_moment() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[str]:
        await ctx.sleep_until(EPOCH + timedelta(days=3))
        first = ctx.now()
        await ctx.sleep_until(EPOCH)
        return [str(first - EPOCH), str(ctx.now() - first)]

    async with Harness(app_of(it)) as harness:
        assert await harness.run(it) == ["3 days, 0:00:00", "0:00:00"]


async def test_sleeps_of_nothing_are_no_timers() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        for seconds in (0, -1, -1e9, 0.0):
            await asyncio.sleep(seconds)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.result()
        assert await names(harness, handle) == ["SagaStarted", "SagaCompleted"]


async def test_a_timer_that_fires_twice_fires_once() -> None:
    @saga
    async def it(ctx: SagaContext) -> float:
        began = ctx.now()
        await asyncio.sleep(10)
        await asyncio.sleep(100)
        return (ctx.now() - began).total_seconds()

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.advance(20)
        for _ in range(3):
            await harness.client.send(m.FireTimer(saga="it", id=handle.id, seq=1))
        assert await handle.result() == 110
        assert [event.seq for event in await every(harness, handle, e.TimerFired)] == [1, 2]


async def test_a_timer_that_the_broker_brings_early_still_fires_at_its_moment() -> None:
    @saga
    async def it(ctx: SagaContext) -> float:
        began = ctx.now()
        await asyncio.sleep(100)
        return (ctx.now() - began).total_seconds()

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.client.send(m.FireTimer(saga="it", id=handle.id, seq=1))
        assert await handle.result() == 100


async def test_a_timeout_that_is_not_needed_is_cancelled_and_stays_so() -> None:
    world = World()
    world.plan["a"] = [Late(5)]
    world.plan["b"] = [Late(30)]
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        async with asyncio.timeout(20):
            await ctx.do(a, order)
        return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == Receipt(text="b1")
        assert (await only(harness, handle, e.TimerCancelled)).seq == 1
        assert await every(harness, handle, e.TimerFired) == []
        # Its message came while "b" ran, which did not begin again for that.
        assert world.did == ["a 1", "b 1"]


@pytest.mark.parametrize("how", ["timeout", "wait_for", "timeout_at"])
async def test_a_timeout_gives_a_step_up(how: str) -> None:
    world = World()
    world.plan["a"] = [Late(50)]
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        began = ctx.now()
        try:
            if how == "timeout":
                async with asyncio.timeout(20):
                    await ctx.do(a, order)
            elif how == "wait_for":
                await asyncio.wait_for(ctx.do(a, order), 20)
            else:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + 20):
                    await ctx.do(a, order)
        except TimeoutError:
            return f"gave up after {(ctx.now() - began).total_seconds():g} s"
        return "done"

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == "gave up after 20 s"
        assert (await only(harness, handle, e.StepAbandoned)).seq in (1, 2)
        await harness.advance(100)
        # The saga went on without it, so its effect does not stay.
        assert world.did == ["a 1", "undo_a 1 a1"]
        assert (await names(harness, handle))[-1] == "SagaCompleted"
        assert await handle.status() == Status.COMPLETED


async def test_a_loop_that_compares_the_clock_ends() -> None:
    """A moment is whole microseconds and loop time is not: a timer must never fire too early."""

    @saga
    async def it(ctx: SagaContext) -> int:
        loop = asyncio.get_running_loop()
        rounds = 0
        for n in range(1, 200):
            end = loop.time() + n / 7
            while loop.time() < end:
                rounds += 1
                await asyncio.sleep(end - loop.time())
        return rounds

    async with Harness(app_of(it)) as harness:
        assert await harness.run(it) == 199


async def test_timers_fire_in_the_order_of_their_moments() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[int]:
        seen: list[int] = []

        async def note(seconds: int) -> None:
            await asyncio.sleep(seconds)
            seen.append(seconds)

        await asyncio.gather(*(note(seconds) for seconds in (30, 10, 20, 10)))
        return seen

    async with Harness(app_of(it)) as harness:
        assert await harness.run(it) == [10, 10, 20, 30]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e12])
async def test_a_timer_beyond_all_calendars_stalls_with_advice(seconds: float) -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        try:
            await asyncio.sleep(seconds)
        except Exception:
            await asyncio.sleep(1)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.settle()
        stalled = await only(harness, handle, e.SagaStalled)
        assert "year 9999" in stalled.error.message

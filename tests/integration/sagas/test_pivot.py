"""The pivot: once it is completed, a saga only goes forward."""

from __future__ import annotations

import asyncio

import pytest

from amends import SagaContext, Status, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.errors import ActionRefused
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    ONCE,
    Broken,
    Late,
    Order,
    Receipt,
    Refused,
    World,
    app_of,
    ended,
    every,
    names,
    only,
)

pytestmark = pytest.mark.virtual_time


async def test_a_step_that_fails_after_the_pivot_parks_and_is_retried_by_a_person() -> None:
    world = World()
    world.plan["c"] = [Broken("1"), Broken("2")]
    a, b, c = world.activity("a"), world.activity("b"), world.activity("c")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        await ctx.do(b, order, pivot=True)
        return await ctx.do(c, order)

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        assert (await only(harness, handle, e.StepParked)).seq == 3
        await handle.resolve("retry", who="ann", why="the line is back")
        assert await handle.result() == Receipt(text="c1")
        assert world.did == ["a 1", "b 1", "c 1", "c 1", "c 1"]


async def test_a_refusal_after_the_pivot_parks_too() -> None:
    world = World()
    world.plan["b"] = [Refused("no")]
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        await ctx.do(a, order, pivot=True)
        receipt = await ctx.do(b, order)
        return getattr(receipt, "text", "skipped")

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        assert await handle.status() == Status.PARKED
        await handle.resolve("skip", who="ann", why="never mind")
        assert await handle.result() == "skipped"


async def test_a_step_after_the_pivot_whose_outcome_is_unknown_parks_too() -> None:
    world = World()
    world.plan["b"] = [Late(100), Late(100)]
    a, b = world.activity("a"), world.activity("b", timeout=10)

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        await ctx.do(a, order, pivot=True)
        return (await ctx.do(b, order)).text

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        await handle.resolve("retry", who="ann", why="the line is back")
        assert await handle.result() == "b1"
        assert world.did == ["a 1", "b 1", "b 1", "b 1"]


async def test_nobody_is_asked_about_a_step_after_the_pivot_that_the_saga_gave_up() -> None:
    world = World()
    world.plan["b"] = [Late(30, Broken("cable"))]
    a, b = world.activity("a"), world.activity("b", retry=ONCE)

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        await ctx.do(a, order, pivot=True)
        try:
            async with asyncio.timeout(10):
                await ctx.do(b, order)
        except TimeoutError:
            return "without"
        return "with"

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == "without"
        assert "StepParked" not in await names(harness, handle)
        assert world.did == ["a 1", "b 1"]


async def test_a_pivot_that_fails_is_no_point_of_no_return() -> None:
    world = World()
    world.plan["b"] = [Refused("no")]
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.do(b, order, pivot=True)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        assert await ended(await harness.start(it, Order(n=1))) == Status.COMPENSATED
        assert world.did == ["a 1", "b 1", "undo_a 1 a1"]


async def test_a_failure_of_the_sagas_own_after_the_pivot_is_a_bug() -> None:
    world = World()
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order, pivot=True)
        raise Refused("too late")

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        stalled = await only(harness, handle, e.SagaStalled)
        assert "it can only go forward" in stalled.error.message
        assert "too late" in stalled.error.message
        assert world.did == ["a 1"]


async def test_a_cancel_after_the_pivot_is_refused() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order, pivot=True)
        await asyncio.sleep(100)
        return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        with pytest.raises(ActionRefused, match="pivot"):
            await handle.cancel(who="ann", why="?")
        # One that was on its way when the pivot was completed changes nothing either.
        await harness.client.send(m.CancelSaga(saga="it", id=handle.id, who="ann", why="?"))
        assert await handle.result() == Receipt(text="b1")


async def test_the_deadline_after_the_pivot_changes_nothing() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")

    @saga(deadline=50)
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order, pivot=True)
        await asyncio.sleep(100)
        return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == Receipt(text="b1")
        assert [event.seq for event in await every(harness, handle, e.TimerFired)] == [0, 2]


# --- while the pivot runs, nobody knows yet whether there is a way back


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_whoever_wants_to_stop_while_the_pivot_runs_waits_for_its_outcome(how: str) -> None:
    world = World()
    world.plan["b"] = [Late(100)]
    a, b, c = world.activity("a"), world.activity("b", timeout=None), world.activity("c")

    @saga(deadline=50 if how == "deadline" else None)
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        await ctx.do(b, order, pivot=True)
        return await ctx.do(c, order)

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        if how == "cancel":
            await handle.cancel(who="ann", why="?")
        await harness.advance(50)
        assert await handle.status() == Status.RUNNING
        # It was completed, so the saga goes on to its end.
        assert await handle.result() == Receipt(text="c1")
        assert world.did == ["a 1", "b 1", "c 1"]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_when_the_pivot_fails_then_it_stops(how: str) -> None:
    world = World()
    world.plan["b"] = [Late(100, Refused("no"))]
    a, b, c = world.activity("a"), world.activity("b", timeout=None), world.activity("c")

    @saga(deadline=50 if how == "deadline" else None)
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        try:
            await ctx.do(b, order, pivot=True)
        except Exception:
            await ctx.do(c, order)

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        if how == "cancel":
            await handle.cancel(who="ann", why="?")
        assert await ended(handle) == (Status.CANCELLED if how == "cancel" else Status.COMPENSATED)
        assert world.did == ["a 1", "b 1", "undo_a 1 a1"]


async def test_a_branch_that_fails_beside_a_pivot_which_is_then_completed_undoes_nothing() -> None:
    world = World()
    world.plan["b"] = [Late(100)]
    world.plan["c"] = [Late(10, Refused("no"))]
    a, b, c = world.activity("a"), world.activity("b", timeout=None), world.activity("c")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await asyncio.gather(ctx.do(b, order, pivot=True), ctx.do(c, order))

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(50)
        assert "CompensationStarted" not in await names(harness, handle)
        await harness.advance(100)
        assert await handle.status() == Status.STALLED
        assert world.did == ["a 1", "b 1", "c 1"]


async def test_a_branch_that_fails_beside_a_pivot_which_then_fails_compensates() -> None:
    world = World()
    world.plan["b"] = [Late(100, Refused("b says no"))]
    world.plan["c"] = [Late(10, Refused("c says no"))]
    a, b, c = world.activity("a"), world.activity("b", timeout=None), world.activity("c")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await asyncio.gather(ctx.do(b, order, pivot=True), ctx.do(c, order))

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.SagaCompensated)).error.message == "c says no"
        assert world.did == ["a 1", "b 1", "c 1", "undo_a 1 a1"]


async def test_a_pivot_that_the_saga_stopped_waiting_for_is_not_guessed_at_either() -> None:
    world = World()
    world.plan["b"] = [Late(100)]
    a, b = world.activity("a"), world.activity("b", timeout=30, retry=ONCE)

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        try:
            async with asyncio.timeout(5):
                await ctx.do(b, order, pivot=True)
        except TimeoutError:
            raise Refused("too slow") from None

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(60)
        assert await handle.status() == Status.PARKED
        assert world.did == ["a 1", "b 1"]
        await handle.resolve("skip", who="ann", why="the bank knows nothing of it")
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[2:] == ["undo_a 1 a1"]

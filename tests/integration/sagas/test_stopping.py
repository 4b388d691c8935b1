"""Stopping: cancel compensates, always; terminate undoes nothing; so does no code after it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from amends import SagaContext, Status, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.errors import ActionRefused, InstanceNotFound
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
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


# --- cancel


async def test_cancelling_undoes_what_was_done_and_says_who_and_why() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        await asyncio.sleep(1000)
        return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await handle.cancel(who="ann", why="changed my mind")
        assert await ended(handle) == Status.CANCELLED
        assert world.did == ["a 1", "undo_a 1 a1"]
        requested = await only(harness, handle, e.CancelRequested)
        assert (requested.who, requested.why) == ("ann", "changed my mind")
        assert (await only(harness, handle, e.SagaCancelled)).undone == 1
        assert (await only(harness, handle, e.CompensationStarted)).reason == "cancelled"
        # The sleep is given up.
        await only(harness, handle, e.TimerCancelled)
        await harness.advance(10_000)
        assert world.did == ["a 1", "undo_a 1 a1"]


async def test_cancelling_before_anything_was_done() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        await asyncio.sleep(1000)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.cancel(who="ann", why="at once")
        assert await ended(handle) == Status.CANCELLED
        assert (await only(harness, handle, e.SagaCancelled)).undone == 0


async def test_cancelling_while_a_step_runs_waits_for_it_and_undoes_it() -> None:
    world = World()
    world.plan["a"] = [Late(30)]
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await handle.cancel(who="ann", why="too slow")
        await harness.settle()
        assert await handle.status() == Status.COMPENSATING
        assert await ended(handle) == Status.CANCELLED
        assert world.did == ["a 1", "undo_a 1 a1"]
        assert harness.clock.elapsed_s == 30


async def test_cancelling_twice_is_cancelling_once() -> None:
    world = World()
    a = world.activity("a")
    world.plan["undo_a"] = [Late(10)]

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await asyncio.sleep(1000)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.cancel(who="ann", why="first")
        await handle.cancel(who="bob", why="second")
        assert await ended(handle) == Status.CANCELLED
        assert (await only(harness, handle, e.CancelRequested)).who == "ann"
        assert world.did == ["a 1", "undo_a 1 a1"]
        with pytest.raises(ActionRefused, match="has ended cancelled"):
            await handle.cancel(who="ann", why="third")


async def test_a_saga_that_swallows_the_cancellation_is_compensated_all_the_same() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        await ctx.do(a, order)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        await ctx.do(b, order)
        return "never mind"

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.cancel(who="ann", why="!")
        assert await ended(handle) == Status.CANCELLED
        assert world.did == ["a 1", "b 1", "undo_b 1 b1", "undo_a 1 a1"]


async def test_steps_in_a_finally_block_run_before_compensation_and_are_undone_too() -> None:
    world = World()
    a, b, c = (world.activity(name) for name in "abc")
    world.plan["b"] = [Broken("cable")]

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        try:
            await asyncio.sleep(1000)
        finally:
            await ctx.do(b, order)
            await ctx.do(c, order)

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.cancel(who="ann", why="!")
        assert await ended(handle) == Status.CANCELLED
        assert world.did[:4] == ["a 1", "b 1", "b 1", "c 1"]
        assert world.did[4:] == ["undo_c 1 c1", "undo_b 1 b1", "undo_a 1 a1"]


async def test_a_failure_on_the_way_out_does_not_change_that_it_was_cancelled() -> None:
    world = World()
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        try:
            await asyncio.sleep(1000)
        finally:
            raise Refused("on the way out")

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.cancel(who="ann", why="!")
        assert await ended(handle) == Status.CANCELLED


async def test_a_bug_on_the_way_out_stalls_and_corrected_code_cancels() -> None:
    world = World()
    a = world.activity("a")

    @saga(name="it")
    async def buggy(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        try:
            await asyncio.sleep(1000)
        finally:
            raise TypeError("a bug")

    @saga(name="it")
    async def fixed(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await asyncio.sleep(1000)

    async with Harness(app_of(buggy, activities=[a])) as harness:
        handle = await harness.start(buggy, Order(n=1))
        await harness.settle()
        await handle.cancel(who="ann", why="!")
        await harness.settle()
        assert await handle.status() == Status.STALLED
        assert world.did == ["a 1"]
        await harness.restart(app_of(fixed, activities=[a]))
        assert await ended(handle) == Status.CANCELLED
        assert world.did == ["a 1", "undo_a 1 a1"]


async def test_a_cancellation_that_the_saga_invents_is_a_bug() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        raise asyncio.CancelledError

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.settle()
        assert "nobody had cancelled" in (await only(harness, handle, e.SagaStalled)).error.message


async def test_cancelling_nobody() -> None:
    @saga
    async def it(ctx: SagaContext) -> None: ...

    async with Harness(app_of(it)) as harness:
        with pytest.raises(InstanceNotFound):
            await harness.client.handle(it, "x").cancel(who="ann", why="?")


# --- the deadline of the whole


async def test_the_deadline_compensates() -> None:
    world = World()
    world.plan["b"] = [Late(200)]
    a, b = world.activity("a"), world.activity("b", timeout=None)

    @saga(deadline=100)
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.SagaCompensated)).error.type == "DeadlineExceeded"
        assert (await only(harness, handle, e.CompensationStarted)).reason == "deadline"
        assert (await only(harness, handle, e.TimerFired)).seq == 0
        assert world.did == ["a 1", "b 1", "undo_b 1 b1", "undo_a 1 a1"]


async def test_a_saga_that_is_done_before_its_deadline_hears_nothing_of_it() -> None:
    @saga(deadline=100)
    async def it(ctx: SagaContext) -> None:
        await asyncio.sleep(99)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.result()
        await harness.advance(1000)
        assert (await names(harness, handle))[-1] == "SagaCompleted"


async def test_a_deadline_passes_while_no_engine_runs() -> None:
    world = World()
    a = world.activity("a")

    @saga(deadline=100)
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await asyncio.sleep(1e6)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await harness.crash()
        await harness.advance(1000)
        await harness.start_engine()
        assert await ended(handle) == Status.COMPENSATED
        assert harness.clock.elapsed_s == 1000


# --- terminate


async def test_terminating_undoes_nothing_and_says_who_and_why() -> None:
    world = World()
    world.plan["b"] = [Late(30)]
    a, b, c = world.activity("a"), world.activity("b"), world.activity("c")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.do(b, order)
        await ctx.do(c, order)

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await handle.terminate(who="ann", why="it does harm")
        assert await ended(handle) == Status.TERMINATED
        state = await handle.state()
        assert state.error is not None
        assert "ann" in state.error.message
        assert "it does harm" in state.error.message
        # What still arrives is on record, and nothing follows from it.
        await harness.advance(1000)
        assert (await names(harness, handle))[-2:] == ["SagaTerminated", "StepReportedLate"]
        assert world.did == ["a 1", "b 1"]
        assert await handle.status() == Status.TERMINATED


async def test_terminating_ends_retries_too() -> None:
    world = World()
    world.plan["a"] = [Broken("cable")]
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.terminate(who="ann", why="!")
        await harness.advance(1000)
        assert world.did == ["a 1"]


async def test_an_attempt_that_fails_after_a_termination_is_not_repeated() -> None:
    world = World()
    world.plan["a"] = [Late(30, Broken("cable"))]
    a = world.activity("a", probe=True)

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await handle.terminate(who="ann", why="!")
        await harness.advance(1000)
        assert world.did == ["a 1"]
        assert (await handle.state()).open_steps() == []


async def test_terminating_a_compensation_stops_it() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")
    world.plan["undo_b"] = [Late(30, Broken("cable"))]

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.do(b, order)
        raise Refused("no")

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await handle.terminate(who="ann", why="!")
        await harness.advance(1000)
        assert world.did == ["a 1", "b 1", "undo_b 1 b1"]
        assert await handle.status() == Status.TERMINATED
        with pytest.raises(ActionRefused):
            await handle.resolve("retry", who="ann", why="?")


async def test_terminating_what_is_parked() -> None:
    world = World()
    world.plan["undo_a"] = [Broken("1"), Broken("2")]
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        raise Refused("no")

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        await handle.terminate(who="ann", why="written off")
        assert await ended(handle) == Status.TERMINATED
        assert await handle.status() == Status.TERMINATED
        with pytest.raises(ActionRefused, match="terminated"):
            await handle.resolve("retry", who="ann", why="?")
        retry = m.ResolveStep(
            saga="it", id=handle.id, seq=2, resolution=e.Resolution.RETRY, who="ann", why="?"
        )
        await harness.client.send(retry)
        await harness.advance(100)
        assert len(world.did) == 3
        assert await every(harness, handle, e.StepResolved) == []


async def test_terminating_what_is_stalled_ends_the_looking_after_it() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        raise TypeError("a bug")

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.settle()
        await handle.terminate(who="ann", why="hopeless")
        assert await ended(handle) == Status.TERMINATED
        await harness.advance(1000)
        depths = await harness.client.backend.broker.depths()
        assert sum(depth.ready + depth.delayed for depth in depths) == 0
        with pytest.raises(ActionRefused):
            await handle.terminate(who="ann", why="again")


async def test_a_copy_of_an_old_message_wakes_nothing_of_a_terminated_saga() -> None:
    world = World()
    world.plan["a"] = [Late(1e6)]
    a = world.activity("a", timeout=None)

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.terminate(who="ann", why="!")
        await harness.settle()
        await harness.client.send(m.WakeSaga(saga="it", id=handle.id))
        await harness.advance(10)
        assert world.did == ["a 1"]

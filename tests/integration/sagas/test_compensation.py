"""Compensation: what was done is undone, whatever else goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from amends import App, Saga, SagaContext, Status, StepFailed, saga
from amends.domain import events as e
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    Broken,
    Late,
    Order,
    Refused,
    World,
    app_of,
    ended,
    every,
    names,
    only,
)

pytestmark = pytest.mark.virtual_time

Body = Callable[[SagaContext, dict[str, Any]], Awaitable[Any]]


def saga_of(
    world: World,
    body: Body,
    *,
    compensate: Literal["in_reverse", "in_parallel"] = "in_reverse",
    **options: dict[str, Any],
) -> tuple[Saga[None, Any], App]:
    """A saga with the body, over activities "a" to "d"; `options` are those of the activities."""
    activities = {name: world.activity(name, **options.get(name, {})) for name in "abcd"}

    @saga(name="it", compensate=compensate)
    async def it(ctx: SagaContext) -> Any:
        return await body(ctx, activities)

    return it, app_of(it, activities=activities.values())


async def three_steps(ctx: SagaContext, do: dict[str, Any]) -> None:
    for name in "abc":
        await ctx.do(do[name], Order(n=1))
    await ctx.do(do["d"], Order(n=1))


async def test_steps_are_undone_last_in_first_out_each_with_its_result() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == [
            *("a 1", "b 1", "c 1", "d 1"),
            *("undo_c 1 c1", "undo_b 1 b1", "undo_a 1 a1"),
        ]
        state = await handle.state()
        assert state.error is not None
        assert (state.error.type, state.error.message) == ("Refused", "no")
        started = await only(harness, handle, e.CompensationStarted)
        assert (started.reason, started.error) == ("failed", state.error)


async def test_the_undo_is_on_record_before_its_step_runs() -> None:
    world = World()
    world.plan["a"] = [Late(10)]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.settle()
        assert (await only(harness, handle, e.StepScheduled)).undo == "undo_a"
        assert await every(harness, handle, e.StepCompleted) == []


async def test_each_undo_is_a_step_on_record_that_names_what_it_undoes() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await ended(handle)
        undos = (await every(harness, handle, e.StepScheduled))[4:]
        assert [(u.seq, u.of, u.activity, u.kind) for u in undos] == [
            (5, 3, "undo_c", e.StepKind.UNDO),
            (6, 2, "undo_b", e.StepKind.UNDO),
            (7, 1, "undo_a", e.StepKind.UNDO),
        ]
        # In order: one after the other.
        assert (await names(harness, handle))[-8:] == [
            "CompensationStarted",
            *("StepScheduled", "StepCompleted") * 3,
            "SagaCompensated",
        ]


async def test_in_parallel_all_undos_run_at_once() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    world.plan["undo_a"] = world.plan["undo_b"] = world.plan["undo_c"] = [Late(10)] * 3
    it, app = saga_of(world, three_steps, compensate="in_parallel")
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert harness.clock.elapsed_s == 10
        assert sorted(world.did[4:]) == ["undo_a 1 a1", "undo_b 1 b1", "undo_c 1 c1"]


async def test_steps_without_an_undo_are_left_alone() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    it, app = saga_of(world, three_steps, b={"undo": False})
    async with Harness(app) as harness:
        assert await ended(await harness.start(it)) == Status.COMPENSATED
        assert world.did[4:] == ["undo_c 1 c1", "undo_a 1 a1"]


async def test_failed_is_what_ends_with_nothing_to_undo() -> None:
    world = World()
    world.plan["a"] = [Refused("no")]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.FAILED
        assert (await only(harness, handle, e.SagaFailed)).error.message == "no"
        assert world.did == ["a 1"]


async def test_a_failed_step_is_undone_only_if_its_effect_can_half_happen() -> None:
    world = World()
    world.plan["b"] = [Refused("no")]
    it, app = saga_of(world, three_steps, b={"undo_failed": True})
    async with Harness(app) as harness:
        assert await ended(await harness.start(it)) == Status.COMPENSATED
        assert world.did[2:] == ["undo_b 1 None", "undo_a 1 a1"]


async def test_a_failure_that_the_saga_raises_itself_compensates() -> None:
    async def body(ctx: SagaContext, do: dict[str, Any]) -> None:
        await ctx.do(do["a"], Order(n=1))
        raise Refused("on second thoughts")

    world = World()
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert (
            await only(harness, handle, e.SagaCompensated)
        ).error.message == "on second thoughts"


async def test_a_failure_that_the_saga_handled_compensates_nothing() -> None:
    async def body(ctx: SagaContext, do: dict[str, Any]) -> str:
        await ctx.do(do["a"], Order(n=1))
        try:
            await ctx.do(do["b"], Order(n=1))
        except StepFailed:
            await ctx.do(do["c"], Order(n=1))
        return "done"

    world = World()
    world.plan["b"] = [Refused("no")]
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        assert await harness.run(it) == "done"
        assert world.did == ["a 1", "b 1", "c 1"]


# --- steps that are still running


async def both(ctx: SagaContext, do: dict[str, Any]) -> None:
    await ctx.do(do["a"], Order(n=1))
    await asyncio.gather(ctx.do(do["b"], Order(n=1)), ctx.do(do["c"], Order(n=1)))


async def both_in_a_group(ctx: SagaContext, do: dict[str, Any]) -> None:
    await ctx.do(do["a"], Order(n=1))
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.do(do["b"], Order(n=1)))
        group.create_task(ctx.do(do["c"], Order(n=1)))


@pytest.mark.parametrize("body", [both, both_in_a_group])
async def test_compensation_waits_for_what_is_in_flight_and_undoes_it_too(body: Body) -> None:
    world = World()
    world.plan["b"] = [Late(30)]
    world.plan["c"] = [Late(5, Refused("no"))]
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(20)
        assert await handle.status() == Status.COMPENSATING
        assert world.did == ["a 1", "b 1", "c 1"]
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[3:] == ["undo_b 1 b1", "undo_a 1 a1"]
        assert harness.clock.elapsed_s == 30
        assert (await only(harness, handle, e.SagaCompensated)).error.message == "no"


@pytest.mark.parametrize("body", [both, both_in_a_group])
async def test_what_is_in_flight_is_not_tried_again(body: Body) -> None:
    world = World()
    world.plan["b"] = [Late(30, Broken("cable"))]
    world.plan["c"] = [Late(5, Refused("no"))]
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        assert await ended(await harness.start(it)) == Status.COMPENSATED
        assert world.did[3:] == ["undo_a 1 a1"]


async def test_what_waits_for_its_next_attempt_is_given_up_at_once() -> None:
    world = World()
    world.plan["b"] = [Broken("cable")]
    world.plan["c"] = [Late(0.5, Refused("no"))]
    it, app = saga_of(world, both)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert harness.clock.elapsed_s == 0.5
        assert [event.seq for event in await every(harness, handle, e.StepAbandoned)] == [2]
        await harness.advance(100)
        assert world.did == ["a 1", "b 1", "c 1", "undo_a 1 a1"]


async def test_what_timed_out_and_waits_for_its_next_attempt_is_undone_with_none() -> None:
    world = World()
    world.plan["b"] = [Late(100)]
    world.plan["c"] = [Late(10.5, Refused("no"))]
    it, app = saga_of(world, both, b={"timeout": 10})
    async with Harness(app) as harness:
        assert await ended(await harness.start(it)) == Status.COMPENSATED
        assert world.did[3:] == ["undo_b 1 None", "undo_a 1 a1"]


async def test_several_failures_at_once_compensate_once() -> None:
    world = World()
    world.plan["b"] = [Late(5, Refused("b says no"))]
    world.plan["c"] = [Late(5, Refused("c says no"))]
    it, app = saga_of(world, both_in_a_group)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[3:] == ["undo_a 1 a1"]


async def test_a_group_with_a_bug_among_its_failures_stalls_and_compensates_nothing() -> None:
    async def body(ctx: SagaContext, do: dict[str, Any]) -> None:
        async def buggy() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                raise TypeError("a bug")

        await ctx.do(do["a"], Order(n=1))
        async with asyncio.TaskGroup() as group:
            group.create_task(buggy())
            group.create_task(ctx.do(do["b"], Order(n=1)))

    world = World()
    world.plan["b"] = [Late(5, Refused("no"))]
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(50)
        assert await handle.status() == Status.STALLED
        assert world.did == ["a 1", "b 1"]
        assert await every(harness, handle, e.CompensationStarted) == []


async def test_steps_that_other_tasks_take_while_they_are_cancelled_are_undone_too() -> None:
    async def body(ctx: SagaContext, do: dict[str, Any]) -> None:
        async def tidy() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                await ctx.do(do["b"], Order(n=2))

        task = asyncio.create_task(tidy())
        await ctx.do(do["a"], Order(n=1))
        assert not task.done()
        raise Refused("no")

    world = World()
    world.plan["b"] = [Broken("cable")]
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        assert await ended(await harness.start(it)) == Status.COMPENSATED
        # With its retries: somebody waits for it.
        assert world.did == ["a 1", "b 2", "b 2", "undo_b 2 b2", "undo_a 1 a1"]


# --- nothing stops an undo


async def test_an_undo_is_retried_by_a_policy_of_its_own() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    world.plan["undo_b"] = [Broken("cable"), Late(1000)]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(30)
        assert await handle.status() == Status.COMPENSATING
        await harness.advance(100)
        # Used up by a timeout: a person decides.
        assert await handle.status() == Status.PARKED
        assert world.did[4:] == ["undo_c 1 c1", "undo_b 1 b1", "undo_b 1 b1"]


async def test_a_cancel_request_does_not_disturb_the_undos() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    world.plan["undo_c"] = [Late(10)]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(5)
        await handle.cancel(who="ann", why="hurry")
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[4:] == ["undo_c 1 c1", "undo_b 1 b1", "undo_a 1 a1"]


async def test_the_deadline_does_not_disturb_the_undos() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    world.plan["undo_c"] = [Late(10)]
    activities = {name: world.activity(name) for name in "abcd"}

    @saga(deadline=5)
    async def it(ctx: SagaContext) -> None:
        await three_steps(ctx, activities)

    async with Harness(app_of(it, activities=activities.values())) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.SagaCompensated)).error.type == "Refused"
        assert world.did[4:] == ["undo_c 1 c1", "undo_b 1 b1", "undo_a 1 a1"]
        assert len(await every(harness, handle, e.TimerFired)) == 1


async def test_a_timeout_of_the_sagas_own_does_not_disturb_the_undos() -> None:
    async def body(ctx: SagaContext, do: dict[str, Any]) -> None:
        async with asyncio.timeout(5):
            await three_steps(ctx, do)

    world = World()
    world.plan["d"] = [Refused("no")]
    world.plan["undo_c"] = [Late(10)]
    it, app = saga_of(world, body)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[4:] == ["undo_c 1 c1", "undo_b 1 b1", "undo_a 1 a1"]
        assert await every(harness, handle, e.TimerFired) == []


async def test_a_crash_in_the_middle_repeats_no_undo_that_is_done() -> None:
    world = World()
    world.plan["d"] = [Refused("no")]
    world.plan["undo_b"] = [Late(10)]
    it, app = saga_of(world, three_steps)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(5)
        await harness.restart()
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[4:] == ["undo_c 1 c1", "undo_b 1 b1", "undo_b 1 b1", "undo_a 1 a1"]
        # The same key on both attempts.
        assert world.keys[5] == world.keys[6] == "it/1/2/undo_b"

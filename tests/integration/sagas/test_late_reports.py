"""Late reports: what arrives after its step was over is on record, and is made good too."""

from __future__ import annotations

from typing import Any

import pytest

from amends import App, Handle, Saga, SagaContext, Status, StepFailed, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.events import AttemptOutcome, ErrorInfo
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    ONCE,
    Broken,
    Late,
    Order,
    Refused,
    World,
    app_of,
    ended,
    names,
    only,
)

pytestmark = pytest.mark.virtual_time


def unknown_then_refused(world: World, **options: Any) -> tuple[Saga[Order, None], App]:
    """Step 1 "z" is completed, step 2 "a" ends unknown, and the saga fails of it."""
    z, a = world.activity("z"), world.activity("a", timeout=10, retry=ONCE, **options)
    world.plan.setdefault("a", [Late(100)])

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await ctx.do(a, order)

    return it, app_of(it, activities=[z, a])


async def report(harness: Harness, handle: Handle[Any], *, seq: int = 2, attempt: int = 1) -> None:
    """The consumer that everybody had given up reports that it happened."""
    message = m.ReportCompleted(
        saga="it", id=handle.id, seq=seq, attempt=attempt, result={"text": "late"}
    )
    await harness.client.send(message)
    await harness.settle()


async def test_a_result_before_the_undo_began_is_what_the_undo_gets() -> None:
    world = World()
    b = world.activity("b")
    a = world.activity("a", timeout=10, retry=ONCE)
    world.plan["a"] = [Late(100)]
    world.plan["undo_b"] = [Late(50)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        failure = None
        try:
            await ctx.do(a, order)
        except StepFailed as unknown:
            failure = unknown
        await ctx.do(b, order)
        raise failure or AssertionError

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        assert world.did == ["a 1", "b 1", "undo_b 1 b1"]
        await report(harness, handle, seq=1)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[3:] == ["undo_a 1 late"]
        late = await only(harness, handle, e.StepReportedLate)
        assert (late.seq, late.completed, late.result) == (1, True, {"text": "late"})


async def test_a_result_while_the_saga_still_runs_is_kept_for_its_compensation() -> None:
    world = World()
    a, b = world.activity("a", timeout=10, retry=ONCE), world.activity("b")
    world.plan["a"] = [Late(100)]
    world.plan["b"] = [Late(50, Refused("no"))]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        try:
            await ctx.do(a, order)
        except StepFailed:
            await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        await report(harness, handle, seq=1)
        assert world.did == ["a 1", "b 1"]
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[2:] == ["undo_a 1 late"]


async def test_a_result_during_the_undo_runs_it_again_with_the_result_before_the_end() -> None:
    world = World()
    world.plan["undo_a"] = [Late(50), Late(50)]
    it, app = unknown_then_refused(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        assert world.did[2:] == ["undo_a 1 None"]
        await report(harness, handle)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[2:] == ["undo_a 1 None", "undo_a 1 late", "undo_z 1 z1"]
        assert (await names(harness, handle))[-1] == "SagaCompensated"


async def test_a_result_after_the_end_runs_the_undo_again_with_it() -> None:
    world = World()
    it, app = unknown_then_refused(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        await report(harness, handle)
        assert world.did[2:] == ["undo_a 1 None", "undo_z 1 z1", "undo_a 1 late"]
        assert (await names(harness, handle))[-4:] == [
            *("SagaCompensated", "StepReportedLate", "StepScheduled", "StepCompleted"),
        ]
        assert await handle.status() == Status.COMPENSATED
        assert await ended(handle) == Status.COMPENSATED


async def test_a_second_copy_of_a_late_result_does_nothing() -> None:
    world = World()
    it, app = unknown_then_refused(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await report(harness, handle)
        before = await names(harness, handle)
        await report(harness, handle)
        await report(harness, handle, attempt=2)
        assert await names(harness, handle) == before
        assert world.did.count("undo_a 1 late") == 1


async def test_an_undo_after_the_end_that_uses_up_its_attempts_parks_the_instance() -> None:
    world = World()
    world.plan["undo_a"] = [None, Broken("1"), Broken("2")]
    it, app = unknown_then_refused(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await report(harness, handle)
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        assert await ended(handle) == Status.COMPENSATED
        await handle.resolve("retry", who="ann", why="the line is back")
        await harness.settle()
        assert await handle.status() == Status.COMPENSATED
        assert world.did.count("undo_a 1 late") == 3


async def test_a_step_that_failed_and_then_reports_that_it_happened_is_undone_as_well() -> None:
    """Attempt 1 vanished for the engine, attempt 2 was refused, then attempt 1 reports."""
    world = World()
    world.plan["a"] = [Late(100), Refused("twice")]
    z, a = world.activity("z"), world.activity("a", timeout=10)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[z, a])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["z 1", "a 1", "a 1", "undo_z 1 z1"]
        await report(harness, handle)
        assert world.did[4:] == ["undo_a 1 late"]


async def test_it_is_undone_also_when_there_had_been_nothing_to_undo() -> None:
    world = World()
    world.plan["a"] = [Late(100), Refused("twice")]
    a = world.activity("a", timeout=10)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.FAILED
        await report(harness, handle, seq=1)
        assert world.did[2:] == ["undo_a 1 late"]
        assert await handle.status() == Status.FAILED


async def test_a_late_failure_is_on_record_and_undoes_nothing() -> None:
    world = World()
    it, app = unknown_then_refused(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        message = m.ReportFailed(
            saga="it",
            id=handle.id,
            seq=2,
            attempt=1,
            outcome=AttemptOutcome.FAILED,
            error=ErrorInfo(type="Refused", message="no", declared=True),
        )
        for _ in range(2):
            await harness.client.send(message)
            await harness.settle()
        late = await only(harness, handle, e.StepReportedLate)
        assert not late.completed
        assert late.error is not None
        assert late.error.type == "Refused"
        assert world.did[2:] == ["undo_a 1 None", "undo_z 1 z1"]


async def test_a_saga_that_goes_on_without_a_step_has_it_undone_and_again_when_it_reports() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", timeout=10, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepFailed:
            return "without"
        return "with"

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == "without"
        assert world.did == ["a 1", "undo_a 1 None"]
        await report(harness, handle, seq=1)
        assert (await names(harness, handle))[-3:] == [
            *("StepReportedLate", "StepScheduled", "StepCompleted")
        ]
        assert world.did == ["a 1", "undo_a 1 None", "undo_a 1 late"]
        assert await handle.status() == Status.COMPLETED


async def test_a_result_during_an_undo_before_the_completion_runs_it_again_with_the_result() -> (
    None
):
    world = World()
    world.plan["a"], world.plan["undo_a"] = [Late(100)], [Late(50)]
    a = world.activity("a", timeout=10, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepFailed:
            return "without"
        return "with"

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        assert world.did == ["a 1", "undo_a 1 None"]
        await report(harness, handle, seq=1)
        assert await handle.result() == "without"
        await harness.settle()
        assert world.did == ["a 1", "undo_a 1 None", "undo_a 1 late"]


@pytest.mark.parametrize("ended_as", ["failed", "skipped"])
async def test_an_effect_that_a_completed_saga_never_learnt_of_is_undone(ended_as: str) -> None:
    """Attempt 1 times out; then attempt 2 is refused, or a person says to go on without it."""
    world = World()
    world.plan["a"] = [Late(100), Refused("twice") if ended_as == "failed" else Late(100)]
    a = world.activity("a", timeout=10, on_unknown="park")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepFailed:
            return "without"
        return "with"

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        if ended_as == "skipped":
            await handle.resolve("skip", who="ann", why="it never came")
        await handle.result()
        assert world.did == ["a 1", "a 1"]
        await report(harness, handle, seq=1)
        assert world.did[2:] == ["undo_a 1 late"]
        assert await handle.status() == Status.COMPLETED


async def test_a_late_result_of_a_step_that_a_person_skipped_is_undone_with_the_saga() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a, b = world.activity("a", timeout=10, retry=ONCE, on_unknown="park"), world.activity("b")
    world.plan["b"] = [Late(50, Refused("no"))]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(20)
        await handle.resolve("skip", who="ann", why="it never came")
        await harness.settle()
        await report(harness, handle, seq=1)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["a 1", "b 1", "undo_a 1 late"]


async def test_a_late_result_waits_for_code_that_agrees_with_the_end() -> None:
    """An effect stands that somebody must undo: that is worth a stall, even after the end."""
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", timeout=10, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepFailed:
            return "without"
        return "with"

    @saga(name="it")
    async def other(ctx: SagaContext, order: Order) -> str:
        return ctx.id

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await handle.result()
        await harness.restart(app_of(other, activities=[a]))
        await report(harness, handle, seq=1)
        assert await handle.status() == Status.STALLED
        assert world.did == ["a 1", "undo_a 1 None"]
        await harness.restart(app_of(it, activities=[a]))
        await harness.advance(600)
        assert await handle.status() == Status.COMPLETED
        assert world.did == ["a 1", "undo_a 1 None", "undo_a 1 late"]

"""Unknown outcomes: the probe decides, else the undo runs with None, else a person is asked."""

from __future__ import annotations

from typing import Any

import pytest

from amends import (
    App,
    DidNotHappen,
    Happened,
    Saga,
    SagaContext,
    Status,
    StepFailed,
    StepUnknown,
    activity_context,
    saga,
)
from amends.domain import events as e
from amends.domain import messages as m
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


def one_step(world: World, *, pivot: bool = False, **options: Any) -> tuple[Saga[Order, str], App]:
    a = world.activity("a", timeout=10, retry=ONCE, **options)

    @saga(name="one")
    async def one(ctx: SagaContext, order: Order) -> str:
        receipt = await ctx.do(a, order, pivot=pivot)
        return getattr(receipt, "text", "skipped")

    return one, app_of(one, activities=[a])


async def test_it_happened_so_the_step_is_completed_with_the_result_that_the_probe_gives() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Happened(Receipt(text="found"))]
    one, app = one_step(world, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await handle.result() == "found"
        assert await names(harness, handle) == [
            *("SagaStarted", "StepScheduled", "StepAttemptFailed", "StepUnknown", "StepScheduled"),
            *("StepCompleted", "StepCompleted", "SagaCompleted"),
        ]
        step, probe = await every(harness, handle, e.StepScheduled)
        assert (probe.activity, probe.kind, probe.of) == ("probe_a", e.StepKind.PROBE, step.seq)
        assert (await only(harness, handle, e.StepUnknown)).then is e.AfterUnknown.PROBE
        assert world.did == ["a 1", "probe_a 1"]


async def test_what_a_probe_found_is_undone_with_its_result() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Happened(Receipt(text="found"))]
    a = world.activity("a", timeout=10, retry=ONCE, probe=True)

    @saga
    async def fails(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        raise Refused("no")

    async with Harness(app_of(fails, activities=[a])) as harness:
        assert await ended(await harness.start(fails, Order(n=1))) == Status.COMPENSATED
        assert world.did == ["a 1", "probe_a 1", "undo_a 1 found"]


async def test_it_did_not_happen_so_the_step_failed_and_nothing_is_undone() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [DidNotHappen()]
    one, app = one_step(world, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.FAILED
        failed = await only(harness, handle, e.StepFailed)
        assert (failed.seq, failed.error.type) == (1, "TimeoutError")
        assert world.did == ["a 1", "probe_a 1"]


async def test_a_probe_that_fails_leaves_the_outcome_unknown_and_the_undo_runs_with_none() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Broken("cable")]
    one, app = one_step(world, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.StepFailed)).seq == 2
        asked, decided = await every(harness, handle, e.StepUnknown)
        assert (asked.then, decided.then) == (e.AfterUnknown.PROBE, e.AfterUnknown.RAISE)
        assert world.did == ["a 1", "probe_a 1", "undo_a 1 None"]


async def test_a_probe_is_retried_like_its_activity() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    world.plan["probe_a"] = [Broken("cable"), DidNotHappen()]
    a = world.activity("a", timeout=10, probe=True)

    @saga
    async def asks(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepUnknown:
            return "unknown"
        except StepFailed:
            return "failed"
        return "completed"

    async with Harness(app_of(asks, activities=[a])) as harness:
        assert await harness.run(asks, Order(n=1)) == "failed"
        assert world.did == ["a 1", "a 1", "probe_a 1", "probe_a 1"]


async def test_an_answer_that_is_none_is_no_answer() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = ["perhaps"]
    one, app = one_step(world, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        failed = await only(harness, handle, e.StepFailed)
        assert "Happened(result) or DidNotHappen()" in failed.error.message


async def test_a_timeout_that_the_activity_raises_itself_is_its_own_word_and_not_probed() -> None:
    world = World()
    world.plan["a"] = [TimeoutError("the bank took too long")]
    one, app = one_step(world, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.FAILED
        assert world.did == ["a 1"]


async def test_the_key_of_the_step_is_the_origin_key_of_its_probe() -> None:
    seen: list[object] = []
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", timeout=10, retry=ONCE)

    @a.probe
    async def was_done(order: Order) -> Happened[Receipt] | DidNotHappen:
        seen.append((order, activity_context().origin_key))
        return Happened(Receipt(text="done"))

    @saga
    async def does(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(does, activities=[a])) as harness:
        await harness.run(does, Order(n=5), id="x")
        assert seen == [(Order(n=5), "does/x/1")]
        assert world.keys == ["does/x/1"]


async def test_a_result_that_comes_while_the_probe_is_asked_decides() -> None:
    world = World()
    world.plan["a"] = [Late(1e6)]
    world.plan["probe_a"] = [Late(5, DidNotHappen())]
    one, app = one_step(world, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.advance(12)
        assert world.did == ["a 1", "probe_a 1"]
        await report(harness, handle.id, 1, "late")
        assert await handle.result() == "late"
        await harness.advance(100)
        assert await handle.status() == Status.COMPLETED
        assert await every(harness, handle, e.StepFailed) == []


async def report(harness: Harness, id: str, seq: int, text: str) -> None:
    """What a consumer reports whom everybody had given up."""
    message = m.ReportCompleted(saga="one", id=id, seq=seq, attempt=1, result={"text": text})
    await harness.client.send(message)


# --- asking a person


async def test_an_unknown_outcome_parks_if_the_activity_says_so() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    one, app = one_step(world, on_unknown="park")
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.advance(1000)
        assert await handle.status() == Status.PARKED
        assert (await only(harness, handle, e.StepUnknown)).then is e.AfterUnknown.PARK
        await handle.resolve("complete", who="ann", why="saw it", result={"text": "by hand"})
        assert await handle.result() == "by hand"


async def test_it_parks_also_when_the_probe_cannot_tell() -> None:
    world = World()
    world.plan["a"], world.plan["probe_a"] = [Late(100)], [Broken("1"), Broken("2")]
    a = world.activity("a", probe=True, timeout=10, retry=ONCE, on_unknown="park")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        unknown = await every(harness, handle, e.StepUnknown)
        assert [fact.then for fact in unknown] == [e.AfterUnknown.PROBE, e.AfterUnknown.PARK]


async def test_a_pivot_whose_outcome_is_unknown_is_never_guessed_at() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    one, app = one_step(world, pivot=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.advance(1000)
        assert await handle.status() == Status.PARKED
        assert world.did == ["a 1"]
        await handle.resolve("skip", who="ann", why="the bank says no")
        assert await handle.result() == "skipped"


async def test_a_pivot_with_a_probe_is_probed() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Happened(Receipt(text="found"))]
    one, app = one_step(world, pivot=True, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await handle.result() == "found"
        assert (await handle.state()).pivot_passed


async def test_a_pivot_whose_probe_fails_parks_and_can_be_retried() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Broken("cable")]
    one, app = one_step(world, pivot=True, probe=True)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.advance(1000)
        assert await handle.status() == Status.PARKED
        await handle.resolve("retry", who="ann", why="the line is back")
        assert await handle.result() == "a1"
        assert world.did == ["a 1", "probe_a 1", "a 1"]


async def test_a_parked_step_that_reports_after_all_goes_on_by_itself() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    one, app = one_step(world, on_unknown="park")
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.advance(50)
        assert await handle.status() == Status.PARKED
        await report(harness, handle.id, 1, "late")
        assert await handle.result() == "late"


async def test_a_retry_by_a_person_has_all_its_time_and_attempts_again() -> None:
    world = World()
    world.plan["a"] = [Late(1000), Broken("1"), Late(20)]
    a = world.activity("a", timeout=None, total_timeout=30, on_unknown="park")

    @saga(name="one")
    async def one(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(one, activities=[a])) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.advance(500)
        assert await handle.status() == Status.PARKED
        await handle.resolve("retry", who="ann", why="try again")
        assert await handle.result() == Receipt(text="a1")
        assert world.did == ["a 1"] * 3

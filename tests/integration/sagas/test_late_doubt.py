"""Late doubt: an attempt ran twice, and after one run had refused the other one left it open.

A refusal says that there was no effect, so nothing is undone. When the second run then times out
or vanishes, its effect may stand after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from amends import (
    App,
    DidNotHappen,
    Handle,
    Happened,
    InstanceId,
    Saga,
    SagaContext,
    Status,
    StepFailed,
    saga,
)
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.events import AttemptOutcome, ErrorInfo
from amends.errors import ActionRefused
from amends.testing.harness import Harness
from amends.testing.invariants import check_journal, check_replay
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
    names,
    only,
)

pytestmark = pytest.mark.virtual_time


@asynccontextmanager
async def checked(app: App) -> AsyncIterator[Harness]:
    """A harness whose one journal keeps the rules, and replays at each of its versions."""
    async with Harness(app) as harness:
        yield harness
        records = await harness.client.journal(InstanceId("it", "1"))
        check_journal(app, records)
        check_replay(app, records)


UNSURE = (AttemptOutcome.TIMED_OUT, AttemptOutcome.VANISHED)


async def doubt(
    harness: Harness,
    handle: Handle[Any],
    *,
    outcome: AttemptOutcome = AttemptOutcome.TIMED_OUT,
    attempt: int = 1,
    seq: int = 2,
) -> None:
    """The other run of an attempt ends without anybody knowing what it did."""
    await harness.client.send(
        m.ReportFailed(
            saga="it",
            id=handle.id,
            seq=seq,
            attempt=attempt,
            outcome=outcome,
            error=ErrorInfo(type="TimeoutError", message="the other run"),
        )
    )
    await harness.settle()


async def late_success(harness: Harness, handle: Handle[Any], *, text: str = "wired") -> None:
    """The other run of the attempt reports that it did happen."""
    await harness.client.send(
        m.ReportCompleted(saga="it", id=handle.id, seq=2, attempt=1, result={"text": text})
    )
    await harness.settle()


def refused(world: World, *, pivot: bool = False, **options: Any) -> tuple[Saga[Order, None], App]:
    """Step 1 "z" is completed, step 2 "a" refused, and the saga fails of it."""
    z, a = world.activity("z"), world.activity("a", **options)
    world.plan.setdefault("a", [Refused("no")])

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await ctx.do(a, order, pivot=pivot)

    return it, app_of(it, activities=[z, a])


# --- by itself


@pytest.mark.parametrize("outcome", UNSURE)
async def test_a_step_that_failed_and_then_may_have_happened_is_undone_after_the_end(
    outcome: AttemptOutcome,
) -> None:
    world = World()
    it, app = refused(world)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["z 1", "a 1", "undo_z 1 z1"]
        await doubt(harness, handle, outcome=outcome)
        assert world.did[3:] == ["undo_a 1 None"]
        assert (await names(harness, handle))[-5:] == [
            *("SagaCompensated", "StepReportedLate", "StepUnknown", "StepScheduled"),
            "StepCompleted",
        ]
        late = await only(harness, handle, e.StepReportedLate)
        assert (late.completed, late.outcome) == (False, outcome)
        assert await handle.status() == Status.COMPENSATED


async def test_copies_of_that_report_do_nothing_and_a_result_still_counts() -> None:
    world = World()
    it, app = refused(world)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await doubt(harness, handle)
        before = await names(harness, handle)
        for outcome in UNSURE:
            await doubt(harness, handle, outcome=outcome)
        assert await names(harness, handle) == before
        await late_success(harness, handle, text="late")
        assert world.did[3:] == ["undo_a 1 None", "undo_a 1 late"]


async def test_a_doubt_before_the_undos_begin_is_undone_in_its_place() -> None:
    world = World()
    world.plan["b"] = [Late(50)]
    z, a, b = world.activity("z"), world.activity("a"), world.activity("b")
    world.plan["a"] = [Refused("no")]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await asyncio.gather(ctx.do(a, order), ctx.do(b, order))

    async with checked(app_of(it, activities=[z, a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        assert "CompensationStarted" in await names(harness, handle)
        await doubt(harness, handle)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[3:] == ["undo_b 1 b1", "undo_a 1 None", "undo_z 1 z1"]


async def test_a_doubt_while_others_are_undone_is_undone_before_the_end() -> None:
    world = World()
    world.plan["undo_z"] = [Late(30)]
    it, app = refused(world)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await doubt(harness, handle)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[2:] == ["undo_z 1 z1", "undo_a 1 None"]
        assert (await names(harness, handle))[-1] == "SagaCompensated"


@pytest.mark.parametrize("told", ["it failed", "nobody knows"])
@pytest.mark.parametrize("happened", [False, True], ids=["in doubt", "it happened"])
async def test_what_a_saga_went_on_without_is_undone_before_it_completes(
    told: str, happened: bool
) -> None:
    """It was told that the step was not done, and goes another way: the money would move twice."""
    world = World()
    world.plan["a"] = [Refused("no") if told == "it failed" else Late(100)]
    world.plan["b"] = [Late(30)]
    z, b = world.activity("z"), world.activity("b")
    a = world.activity("a", timeout=5, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(z, order)
        try:
            return await ctx.do(a, order)
        except StepFailed:
            return await ctx.do(b, order)

    async with checked(app_of(it, activities=[z, a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        if happened:
            await late_success(harness, handle, text="late")
        else:
            await doubt(harness, handle)
        assert await handle.result() == Receipt(text="b1")
        assert world.did[3:] == [f"undo_a 1 {'late' if happened else None}"]
        assert (await names(harness, handle))[-1] == "SagaCompleted"


async def test_a_doubt_about_an_attempt_that_was_repeated_makes_the_step_unknown() -> None:
    """One run of attempt 1 broke, the other timed out, and attempt 2 broke as well."""
    world = World()
    world.plan["a"] = [Broken("1"), Late(30, Broken("2"))]
    it, app = refused(world)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        assert world.did == ["z 1", "a 1", "a 1"]
        for _ in range(2):
            await doubt(harness, handle)
        assert await ended(handle) == Status.COMPENSATED
        await only(harness, handle, e.StepReportedLate)
        await only(harness, handle, e.StepUnknown)
        assert world.did[3:] == ["undo_a 1 None", "undo_z 1 z1"]


async def test_a_refusal_settles_the_doubt_of_attempts_before_it_but_not_of_its_own() -> None:
    world = World()
    world.plan["a"] = [Late(100), Refused("no")]
    it, app = refused(world, timeout=10)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["z 1", "a 1", "a 1", "undo_z 1 z1"]
        await doubt(harness, handle, attempt=1)  # a copy of what is on record
        assert world.did[4:] == []
        await doubt(harness, handle, attempt=2)
        assert world.did[4:] == ["undo_a 1 None"]


async def test_what_has_no_undo_is_only_on_record() -> None:
    world = World()
    it, app = refused(world, undo=False, probe=True, on_unknown="park")
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        await doubt(harness, handle)
        assert (await names(harness, handle))[-1] == "StepReportedLate"
        assert await handle.status() == Status.COMPENSATED
        assert world.did[3:] == []


async def test_after_a_termination_it_is_only_on_record() -> None:
    world = World()
    world.plan["a"] = [Refused("no")]
    world.plan["undo_z"] = [Late(30)]
    it, app = refused(world, probe=True)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await handle.terminate(who="ann", why="by hand")
        await doubt(harness, handle)
        await harness.advance(100)
        assert (await names(harness, handle))[-1] == "StepReportedLate"
        assert "undo_a 1 None" not in world.did


# --- by the policies for unknown outcomes


@pytest.mark.parametrize("at", ["after the end", "while it compensates"])
@pytest.mark.parametrize(
    ("answer", "undone"),
    [(Happened(Receipt(text="found")), ["undo_a 1 found"]), (DidNotHappen(), [])],
    ids=["it happened", "it did not"],
)
async def test_a_probe_is_asked(answer: object, undone: list[str], at: str) -> None:
    world = World()
    world.plan["probe_a"] = [Late(5, answer)]
    world.plan["undo_z"] = [Late(30)]
    it, app = refused(world, probe=True)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        if at == "after the end":
            await ended(handle)
        await doubt(harness, handle)
        assert await ended(handle) == Status.COMPENSATED
        await harness.advance(100)
        assert world.did[2:] == ["undo_z 1 z1", "probe_a 1", *undone]
        assert await handle.status() == Status.COMPENSATED
        await doubt(harness, handle)
        assert world.did.count("probe_a 1") == 1


async def test_a_probe_that_cannot_tell_has_it_undone() -> None:
    world = World()
    world.plan["probe_a"] = [Refused("the line is dead")]
    it, app = refused(world, probe=True)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await doubt(harness, handle)
        assert world.did[3:] == ["probe_a 1", "undo_a 1 None"]


@pytest.mark.parametrize("at", ["after the end", "while it compensates"])
@pytest.mark.parametrize(
    ("resolution", "undone"), [("skip", []), ("complete", ["undo_a 1 by hand"])]
)
async def test_a_person_is_asked(resolution: str, undone: list[str], at: str) -> None:
    world = World()
    world.plan["undo_z"] = [Late(30)]
    it, app = refused(world, on_unknown="park")
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        if at == "after the end":
            await ended(handle)
        await doubt(harness, handle)
        await harness.advance(1000)
        assert await handle.status() == Status.PARKED
        assert world.did[2:] == ["undo_z 1 z1"]
        with pytest.raises(ActionRefused, match="went on without it"):
            await handle.resolve("retry", who="ann", why="once more")
        result = {"text": "by hand"} if resolution == "complete" else None
        await handle.resolve(resolution, who="ann", why="asked the bank", result=result)
        assert await ended(handle) == Status.COMPENSATED
        await harness.settle()
        assert await handle.status() == Status.COMPENSATED
        assert world.did[3:] == undone


async def test_a_probe_that_looked_while_the_attempt_still_ran_is_asked_again() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [DidNotHappen(), Happened(Receipt(text="found"))]
    it, app = refused(world, probe=True, total_timeout=20)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(16)
        # By the clock of whoever delivers it the time is over; the attempt has four more seconds.
        await harness.client.send(m.ExpireStep(saga="it", id=handle.id, seq=2))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["z 1", "a 1", "probe_a 1", "undo_z 1 z1"]
        await harness.advance(100)
        assert world.did[4:] == ["probe_a 1", "undo_a 1 found"]
        assert await handle.status() == Status.COMPENSATED


# --- the pivot


async def test_a_refused_pivot_that_happened_after_all_parks_when_nothing_can_undo_it() -> None:
    world = World()
    it, app = refused(world, pivot=True, undo=False)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        await late_success(harness, handle)
        assert await handle.status() == Status.PARKED
        assert (await names(harness, handle))[-2:] == ["StepReportedLate", "StepParked"]
        parked = await only(harness, handle, e.StepParked)
        assert "has no undo" in parked.error.message
        assert world.did == ["z 1", "a 1", "undo_z 1 z1"]
        with pytest.raises(ActionRefused, match="went on without it"):
            await handle.resolve("retry", who="ann", why="once more")
        await handle.resolve("skip", who="ann", why="called the money back")
        await harness.settle()
        assert await handle.status() == Status.COMPENSATED
        await late_success(harness, handle)
        assert await handle.status() == Status.COMPENSATED
        assert await ended(handle) == Status.COMPENSATED


async def test_a_refused_pivot_that_happened_after_all_is_undone_if_it_can_be() -> None:
    world = World()
    it, app = refused(world, pivot=True)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await late_success(harness, handle)
        assert world.did[3:] == ["undo_a 1 wired"]
        assert await handle.status() == Status.COMPENSATED


async def test_a_pivot_that_happened_while_its_saga_goes_another_way_parks_at_once() -> None:
    world = World()
    world.plan["a"] = [Refused("no")]
    world.plan["b"] = [Late(30)]
    z, a, b = world.activity("z"), world.activity("a", undo=False), world.activity("b")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(z, order)
        try:
            return await ctx.do(a, order, pivot=True)
        except StepFailed:
            return await ctx.do(b, order)

    async with checked(app_of(it, activities=[z, a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await late_success(harness, handle)
        assert await handle.status() == Status.PARKED
        assert await handle.result() == Receipt(text="b1")
        assert await handle.status() == Status.PARKED
        await handle.resolve("skip", who="ann", why="called the money back")
        await harness.settle()
        assert await handle.status() == Status.COMPLETED


async def test_nothing_is_undone_while_a_person_looks_at_a_pivot_that_happened() -> None:
    world = World()
    world.plan["b"] = [Late(50)]
    world.plan["a"] = [Refused("no")]
    z, a, b = world.activity("z"), world.activity("a", undo=False), world.activity("b")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await asyncio.gather(ctx.do(a, order, pivot=True), ctx.do(b, order))

    async with checked(app_of(it, activities=[z, a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        await late_success(harness, handle)
        await harness.advance(1000)
        assert await handle.status() == Status.PARKED
        assert world.did == ["z 1", "a 1", "b 1"]
        await handle.resolve("skip", who="ann", why="called the money back")
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[3:] == ["undo_b 1 b1", "undo_z 1 z1"]


@pytest.mark.parametrize("undo", [False, True])
async def test_a_doubt_about_a_refused_pivot_is_not_guessed_at(undo: bool) -> None:
    world = World()
    it, app = refused(world, pivot=True, undo=undo)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await doubt(harness, handle)
        assert await handle.status() == Status.PARKED
        assert world.did[3:] == []
        result = {"text": "by hand"}
        await handle.resolve("complete", who="ann", why="the bank has it", result=result)
        await harness.settle()
        assert await handle.status() == Status.COMPENSATED
        assert world.did[3:] == (["undo_a 1 by hand"] if undo else [])


async def test_a_refused_pivot_that_a_probe_finds_is_undone_or_parks() -> None:
    world = World()
    world.plan["probe_a"] = [Happened(Receipt(text="found"))]
    it, app = refused(world, pivot=True, undo=False, probe=True)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await doubt(harness, handle)
        assert world.did[3:] == ["probe_a 1"]
        assert await handle.status() == Status.PARKED
        await handle.resolve("skip", who="ann", why="called the money back")
        await harness.settle()
        assert await handle.status() == Status.COMPENSATED


async def test_a_refused_pivot_in_doubt_that_then_reports_that_it_happened_is_for_a_person() -> (
    None
):
    world = World()
    it, app = refused(world, pivot=True, undo=False)
    async with checked(app) as harness:
        handle = await harness.start(it, Order(n=1))
        await ended(handle)
        await doubt(harness, handle)
        await late_success(harness, handle)
        assert (await names(harness, handle))[-2:] == ["StepReportedLate", "StepParked"]
        assert await handle.status() == Status.PARKED
        await handle.resolve("skip", who="ann", why="called the money back")
        await harness.settle()
        assert await handle.status() == Status.COMPENSATED

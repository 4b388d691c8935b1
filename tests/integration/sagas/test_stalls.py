"""Bugs, other releases, bad input and odd clocks: what stalls goes on later with all its time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from amends import Retry, SagaContext, Settings, Signal, Status, activity, saga
from amends.broker.mail import to_inbox
from amends.domain import events as e
from amends.domain import messages as m
from amends.sagas.replay import replay
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


# --- time


@pytest.mark.parametrize("pivot", [False, True], ids=["a step", "a pivot"])
@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({"total_timeout": 60}, []),
        ({"retry": Retry(max_elapsed_s=60, max_attempts=None, jitter=0.0)}, [Broken("once")]),
    ],
    ids=["its total timeout", "the time for its attempts"],
)
async def test_the_time_that_was_lost_in_a_stall_is_not_the_time_of_the_next_step(
    options: dict[str, Any], plan: list[object], pivot: bool
) -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b", **options)
    world.plan["b"] = list(plan)

    @saga(name="it")
    async def with_a_bug(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        raise TypeError("a bug")

    @saga(name="it")
    async def corrected(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        return await ctx.do(b, order, pivot=pivot)

    async with Harness(app_of(with_a_bug, activities=[a, b])) as harness:
        handle = await harness.start(with_a_bug, Order(n=1))
        await harness.advance(3600)
        assert await handle.status() == Status.STALLED
        await harness.restart(app_of(corrected, activities=[a, b]))
        await harness.advance(1000)
        assert await handle.status() == Status.COMPLETED
        assert "SagaResumed" in await names(harness, handle)
        assert world.did == ["a 1", *["b 1"] * (len(plan) + 1)]


@pytest.mark.parametrize("cache_max", [0, 10], ids=["replayed", "cached"])
async def test_a_step_after_a_stall_has_its_time_and_no_more(cache_max: int) -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b", total_timeout=60)
    world.plan["b"] = [Late(1000)]

    @saga(name="it")
    async def with_a_bug(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        raise TypeError("a bug")

    @saga(name="it")
    async def corrected(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        return await ctx.do(b, order)

    settings = Settings(store="memory://", cache_max=cache_max)
    async with Harness(app_of(with_a_bug, activities=[a, b]), settings=settings) as harness:
        handle = await harness.start(with_a_bug, Order(n=1))
        await harness.advance(3600)
        await harness.restart(app_of(corrected, activities=[a, b]))
        assert await ended(handle) == Status.COMPENSATED
        resumed = await only(harness, handle, e.SagaResumed)
        unknown = await only(harness, handle, e.StepUnknown)
        assert unknown.at - resumed.at == timedelta(seconds=60)
        assert world.did == ["a 1", "b 1", "undo_b 1 None", "undo_a 1 a1"]


async def test_an_attempt_that_runs_is_unknown_also_if_the_clock_steps_back_behind_it() -> None:
    world = World()
    z = world.activity("z")
    three_times = Retry(max_attempts=3, initial_s=10, jitter=0.0)
    a = world.activity("a", retry=three_times, timeout=30)
    world.plan["a"] = [Broken("once"), Late(1000)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[z, a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10.5)
        assert world.did == ["z 1", "a 1", "a 1"]
        harness.clock.start -= timedelta(seconds=2)
        await handle.cancel(who="ann", why="wrong order")
        assert await ended(handle) == Status.CANCELLED
        assert world.did[3:] == ["undo_a 1 None", "undo_z 1 z1"]


async def test_the_present_moment_is_written_alike_when_it_is_replayed() -> None:
    notes: list[str] = []

    @activity
    async def note(text: str) -> None:
        notes.append(text)

    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        await asyncio.sleep(5)
        await ctx.do(note, f"{ctx.now()!r} {ctx.now()}")
        await asyncio.sleep(5)

    async with Harness(app_of(it, activities=[note])) as harness:
        handle = await harness.start(it)
        await harness.advance(100)
        assert await handle.status() == Status.COMPLETED
        assert "SagaStalled" not in await names(harness, handle)
        assert len(notes) == 1


# --- code


async def test_code_that_wants_more_than_is_on_record_stalls_until_the_code_is_right() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")
    world.plan["a"] = [Late(100)]

    @saga(name="it")
    async def before(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    @saga(name="it")
    async def after(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(ctx.do(a, order), ctx.do(b, order))

    async with Harness(app_of(before, activities=[a, b])) as harness:
        handle = await harness.start(before, Order(n=1))
        await harness.settle()
        await harness.restart(app_of(after, activities=[a, b]))
        await harness.settle()
        assert await handle.status() == Status.STALLED
        error = (await only(harness, handle, e.SagaStalled)).error
        assert error.type == "DeterminismError"
        assert "the journal has nothing more, but the code wants step b" in error.message
        # The step that is on record comes to its end; no later look takes the other one over.
        await harness.advance(10_000)
        assert await handle.status() == Status.STALLED
        assert (await names(harness, handle)).count("StepScheduled") == 1
        await harness.restart(app_of(before, activities=[a, b]))
        assert await ended(handle) == "completed"
        assert "b 1" not in world.did


@pytest.mark.parametrize("after_a_bug", [False, True])
async def test_an_input_whose_decisions_are_on_record_leads_to_no_more_after_any_stall(
    after_a_bug: bool,
) -> None:
    """What was decided while the code was wrong, or before it was, stays decided."""
    world = World()
    a, b, c = world.activity("a"), world.activity("b"), world.activity("c")
    go = Signal("go", int)

    @saga(name="it")
    async def before(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        if await ctx.receive(go) and after_a_bug:
            raise TypeError("a bug")
        await ctx.do(c, order)

    @saga(name="it")
    async def wants_more(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        extra = asyncio.create_task(ctx.do(b, order))
        await ctx.receive(go)
        await ctx.do(c, order)
        await extra

    @saga(name="it")
    async def right(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.receive(go)
        await ctx.do(c, order)

    async with Harness(app_of(before, activities=[a, b, c])) as harness:
        handle = await harness.start(before, Order(n=1))
        await harness.settle()
        if after_a_bug:
            await handle.signal(go, 1)
            await harness.settle()
        await harness.restart(app_of(wants_more, activities=[a, b, c]))
        if not after_a_bug:
            await handle.signal(go, 1)
        await harness.advance(10_000)
        assert await handle.status() == Status.STALLED
        stalls = await every(harness, handle, e.SagaStalled)
        assert stalls[-1].error.type == "DeterminismError"
        assert "the code wants step b" in stalls[-1].error.message
        await harness.restart(app_of(right, activities=[a, b, c]))
        assert await ended(handle) == "completed"
        assert world.did == ["a 1", "c 1"]


async def test_after_it_went_on_an_instance_is_held_to_its_record_again() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")
    world.plan["a"] = [Late(100)]

    @saga(name="it")
    async def with_a_bug(ctx: SagaContext, order: Order) -> None:
        raise TypeError("a bug")

    @saga(name="it")
    async def right(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    @saga(name="it")
    async def wants_more(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(ctx.do(a, order), ctx.do(b, order))

    async with Harness(app_of(with_a_bug, activities=[a, b])) as harness:
        handle = await harness.start(with_a_bug, Order(n=1))
        await harness.restart(app_of(right, activities=[a, b]))
        await harness.advance(10)
        assert await handle.status() == Status.RUNNING
        await harness.restart(app_of(wants_more, activities=[a, b]))
        await harness.advance(10_000)
        assert await handle.status() == Status.STALLED
        await harness.restart(app_of(right, activities=[a, b]))
        assert await ended(handle) == "completed"
        assert "b 1" not in world.did


async def test_the_decisions_of_the_input_that_broke_the_code_come_and_no_others() -> None:
    """Both inputs came in one turn; the code broke at the second."""
    world = World()
    a, b = world.activity("a"), world.activity("b")
    go = Signal("go", int)

    def release(name: str, *, bug: bool = False) -> Any:
        @saga(name="it")
        async def it(ctx: SagaContext, order: Order) -> None:
            await ctx.receive(go)
            extra = asyncio.create_task(ctx.do(b, order)) if name == "wants more" else None
            await ctx.receive(go)
            if bug:
                raise TypeError("a bug")
            await ctx.do(a, order)
            if extra is not None:
                await extra

        return app_of(it, activities=[a, b])

    async with Harness(release("first", bug=True)) as harness:
        handle = await harness.start(harness.app.sagas["it"], Order(n=1))
        await harness.settle()
        messages = [
            m.DeliverSignal(saga="it", id=handle.id, name="go", payload=number) for number in (1, 2)
        ]
        await harness.client.backend.broker.publish([
            to_inbox(message, uuid4(), partitions=1, correlation_id="c", causation_id="c")
            for message in messages
        ])  # fmt: skip
        await harness.settle()
        stalled = await only(harness, handle, e.SagaStalled)
        assert await names(harness, handle) == [
            *("SagaStarted", "SignalReceived", "SignalReceived", "SagaStalled")
        ]
        assert stalled.since == 2
        # An engine that noted no such place may have broken at any of the inputs before its note.
        records = await handle.journal()
        of_old = [*records[:-1], records[-1]._replace(data=records[-1].data.replace(
            b',"since":2', b''))]  # fmt: skip
        assert len(of_old[-1].data) < len(records[-1].data)
        for older, name in ((records, "right"), (of_old, "right"), (of_old, "wants more")):
            app = release(name)
            execution = replay(app.sagas["it"], handle.instance, older, app.activities)
            assert execution.decisions
            execution.discard()
        await harness.restart(release("wants more"))
        await harness.advance(10_000)
        assert await handle.status() == Status.STALLED
        await harness.restart(release("right"))
        assert await ended(handle) == "completed"
        assert world.did == ["a 1"]


async def test_conditions_that_wake_each_other_for_ever_stall_and_others_go_on() -> None:
    @saga
    async def restless(ctx: SagaContext) -> None:
        turn = [0]

        async def play(mine: int, theirs: int) -> None:
            while True:
                await ctx.wait_until(lambda: turn[0] == mine)
                turn[0] = theirs

        await asyncio.gather(play(0, 1), play(1, 0))

    @saga
    async def other(ctx: SagaContext) -> str:
        await asyncio.sleep(1)
        return "done"

    async with Harness(app_of(restless, other)) as harness:
        handle = await harness.start(restless)
        assert await harness.run(other) == "done"
        assert await handle.status() == Status.STALLED


async def test_a_step_goes_on_in_the_queue_to_which_the_next_release_moved_its_activity() -> None:
    world = World()
    old, new = world.activity("a", queue="old"), world.activity("a", queue="new")
    world.plan["a"] = [Broken("once")]

    @saga(name="it")
    async def before(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(old, order)

    @saga(name="it")
    async def after(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(new, order)

    async with Harness(app_of(before, activities=[old])) as harness:
        handle = await harness.start(before, Order(n=1))
        await harness.settle()
        await harness.restart(app_of(after, activities=[new]))
        await harness.advance(1000)
        assert await handle.status() == Status.COMPLETED
        assert world.did == ["a 1", "a 1"]
        assert await harness.dead_letters() == []


# --- signals


async def test_a_signal_of_the_wrong_shape_is_put_aside_and_the_right_one_is_taken() -> None:
    world = World()
    a = world.activity("a")
    go = Signal("go", Order)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> int:
        await ctx.do(a, order)
        return (await ctx.receive(go)).n

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        before = await names(harness, handle)
        await handle.signal("go", {"n": "seven"})
        await harness.settle()
        assert await names(harness, handle) == before
        assert await handle.status() == Status.RUNNING
        (letter,) = await harness.dead_letters()
        assert letter.message.type == "DeliverSignal"
        assert "signal 'go' carries what it cannot" in letter.detail
        await handle.signal(go, Order(n=2))
        assert await handle.result() == 2


@pytest.mark.parametrize("fails", [False, True], ids=["at its completion", "at its failure"])
async def test_a_bug_in_a_task_that_is_cancelled_at_the_end_stalls(fails: bool) -> None:
    world = World()
    a = world.activity("a")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        async def buggy() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                raise TypeError("a bug")

        left = asyncio.create_task(buggy())
        await ctx.do(a, order)
        if fails:
            raise Refused("no")
        return left.get_name()

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        assert await handle.status() == Status.STALLED
        assert (await every(harness, handle, e.SagaStalled))[0].error.message == "a bug"
        assert world.did == ["a 1"]

"""What an activity may have done is made good, is asked about, or waits for a person."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from amends import Handle, Happened, Retry, SagaContext, Signal, Status, StepFailed, saga
from amends.broker.mail import to_inbox
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.events import AttemptOutcome, ErrorInfo
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    ONCE,
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

#: After its first attempt a step waits so long for the second that its saga gives it up.
SLOWLY = Retry(max_attempts=5, initial_s=100, max_interval_s=100, jitter=0.0)


async def report(harness: Harness, handle: Handle[Any], *, seq: int, text: str = "late") -> None:
    """A consumer that everybody had given up reports that it happened."""
    await harness.client.send(
        m.ReportCompleted(saga="it", id=handle.id, seq=seq, attempt=1, result={"text": text})
    )
    await harness.settle()


# --- what a saga gives up


async def test_a_pivot_that_is_given_up_in_its_backoff_is_probed_and_not_guessed_at() -> None:
    world = World()
    a = world.activity("a")
    wire = world.activity("wire", undo=False, probe=True, timeout=10, retry=SLOWLY)
    world.plan["wire"] = [Late(1000)]
    world.plan["probe_wire"] = [Happened(Receipt(text="wired"))]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        try:
            async with asyncio.timeout(50):
                await ctx.do(wire, order, pivot=True)
        except TimeoutError:
            raise Refused("too slow") from None

    async with Harness(app_of(it, activities=[a, wire])) as harness:
        await harness.start(it, Order(n=1))
        await harness.advance(500)
        assert world.did == ["a 1", "wire 1", "probe_wire 1"]


async def test_a_step_that_is_given_up_in_its_backoff_parks_if_its_activity_says_so() -> None:
    world = World()
    a = world.activity("a", timeout=10, on_unknown="park", retry=SLOWLY)
    world.plan["a"] = [Late(1000)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        try:
            async with asyncio.timeout(50):
                await ctx.do(a, order)
        except TimeoutError:
            raise Refused("too slow") from None

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(500)
        assert await handle.status() == Status.PARKED
        assert world.did == ["a 1"]


@pytest.mark.parametrize(
    ("timeout_s", "undone_with"),
    [(60.0, "a1"), (20.0, "None")],
    ids=["it happens later", "it is never known"],
)
async def test_a_step_that_is_given_up_is_undone_before_the_saga_completes_another_way(
    timeout_s: float, undone_with: str
) -> None:
    world = World()
    a, b = world.activity("a", timeout=timeout_s, retry=ONCE), world.activity("b")
    world.plan["a"] = [Late(30)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        try:
            async with asyncio.timeout(10):
                return await ctx.do(a, order)
        except TimeoutError:
            return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == Receipt(text="b1")
        assert world.did == ["a 1", "b 1", f"undo_a 1 {undone_with}"]
        assert (await names(harness, handle))[-2:] == ["StepCompleted", "SagaCompleted"]


async def test_a_step_whose_outcome_is_unknown_is_undone_when_the_saga_goes_another_way() -> None:
    world = World()
    a, b = world.activity("a", timeout=10, retry=ONCE), world.activity("b")
    world.plan["a"] = [Late(30)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        try:
            return await ctx.do(a, order)
        except StepFailed:
            return await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == Receipt(text="b1")
        assert world.did == ["a 1", "b 1", "undo_a 1 None"]


async def test_a_saga_goes_on_without_a_step_that_nothing_undoes() -> None:
    world = World()
    a = world.activity("a", undo=False, timeout=10, retry=ONCE)
    world.plan["a"] = [Late(30)]

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
        # Nor does it need its code for what comes late.
        await harness.restart(app_of(activities=[a]))
        await report(harness, handle, seq=1)
        assert await handle.status() == Status.COMPLETED


@pytest.mark.parametrize(
    ("timeout_s", "undone_with"), [(20.0, "None"), (60.0, "a1")], ids=["unknown", "it happened"]
)
async def test_what_was_undone_before_a_cancel_is_not_undone_again(
    timeout_s: float, undone_with: str
) -> None:
    """The saga's code had returned, and what it had given up was being undone."""
    world = World()
    a = world.activity("a", timeout=timeout_s, retry=ONCE)
    b, c = world.activity("b"), world.activity("c", timeout=5, retry=ONCE)
    world.plan["a"], world.plan["c"] = [Late(30)], [Late(30)]
    world.plan["undo_c"] = [Late(50)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(b, order)
        with suppress(StepFailed):
            await ctx.do(c, order)
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a, b, c])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(50)
        undone = f"undo_a 1 {undone_with}"
        assert world.did == ["b 1", "c 1", "a 1", undone, "undo_c 1 None"]
        await handle.cancel(who="ann", why="wrong order")
        assert await ended(handle) == Status.CANCELLED
        assert world.did[5:] == ["undo_b 1 b1"]


async def test_a_timeout_that_the_saga_lets_pass_compensates() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b")
    world.plan["b"] = [Late(50)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        async with asyncio.timeout(10):
            await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["a 1", "b 1", "undo_b 1 b1", "undo_a 1 a1"]


# --- late reports and late answers


async def test_a_late_failure_does_not_hide_the_late_result_after_it() -> None:
    """Two consumers ran one attempt: the first says that it failed, the other that it happened."""
    world = World()
    z, a = world.activity("z"), world.activity("a", timeout=10, retry=ONCE)
    world.plan["a"] = [Late(100)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        try:
            await ctx.do(a, order)
        except StepFailed:
            await asyncio.sleep(20)
            raise

    async with Harness(app_of(it, activities=[z, a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(15)
        failure = m.ReportFailed(
            saga="it",
            id=handle.id,
            seq=2,
            attempt=1,
            outcome=AttemptOutcome.VANISHED,
            error=ErrorInfo(type="Gone", message="the consumer is gone"),
        )
        await harness.client.send(failure)
        assert await ended(handle) == Status.COMPENSATED
        await report(harness, handle, seq=2)
        late = await every(harness, handle, e.StepReportedLate)
        assert [fact.completed for fact in late] == [False, True]
        assert world.did == ["z 1", "a 1", "undo_a 1 None", "undo_z 1 z1", "undo_a 1 late"]


async def test_a_probe_that_answers_after_its_step_reported_changes_nothing() -> None:
    world = World()
    z = world.activity("z")
    a = world.activity("a", undo=False, probe=True, timeout=10, retry=ONCE)
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Late(5, Happened(Receipt(text="found")))]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(z, order)
        await ctx.do(a, order)
        raise Refused("no")

    async with Harness(app_of(it, activities=[z, a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(12)
        await report(harness, handle, seq=2)
        assert await ended(handle) == Status.COMPENSATED
        await harness.advance(1000)
        assert world.did == ["z 1", "a 1", "probe_a 1", "undo_z 1 z1"]
        assert await harness.dead_letters() == []


async def test_a_probe_that_answers_late_takes_no_other_message_along() -> None:
    world = World()
    a = world.activity("a", undo=False, probe=True, timeout=10, retry=ONCE)
    go = Signal("go", Order)
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Late(1000)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> int:
        await ctx.do(a, order)
        return (await ctx.receive(go)).n

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(15)
        await report(harness, handle, seq=1)
        answer = {"happened": True, "result": {"text": "found"}}
        messages = [
            m.ReportCompleted(saga="it", id=handle.id, seq=2, attempt=1, result=answer),
            m.DeliverSignal(saga="it", id=handle.id, name="go", payload={"n": 3}),
        ]
        await harness.client.backend.broker.publish([
            to_inbox(message, uuid4(), partitions=1, correlation_id="c", causation_id="c")
            for message in messages
        ])  # fmt: skip
        assert await handle.result() == 3
        assert await harness.dead_letters() == []


# --- undos


async def test_an_undo_that_is_gone_from_the_code_stalls_and_is_run_by_code_that_has_it() -> None:
    world = World()
    a, b = world.activity("a"), world.activity("b", timeout=100, retry=ONCE)
    without_undo = world.activity("a", undo=False)
    world.plan["b"] = [Late(1000), Late(1000)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.do(b, order)

    @saga(name="it")
    async def it_without(ctx: SagaContext, order: Order) -> None:
        await ctx.do(without_undo, order)
        await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await harness.restart(app_of(it_without, activities=[without_undo, b]))
        await harness.advance(1e5)
        assert await handle.status() == Status.STALLED
        assert "undo_a" in (await only(harness, handle, e.SagaStalled)).error.message
        assert await harness.dead_letters() == []
        await harness.restart(app_of(it, activities=[a, b]))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[-1] == "undo_a 1 a1"


async def test_a_cancel_while_the_saga_winds_down_still_compensates() -> None:
    """Its code has returned, and a task that it left over still takes a step."""
    world = World()
    a, b = world.activity("a"), world.activity("b")
    world.plan["b"] = [Late(50)]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        await ctx.do(a, order)

        async def beside() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                await ctx.do(b, order)

        task = asyncio.create_task(beside())
        await asyncio.sleep(1)
        return task.get_name()

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10)
        assert world.did == ["a 1", "b 1"]
        await handle.cancel(who="ann", why="wrong order")
        assert await ended(handle) == Status.CANCELLED
        assert world.did == ["a 1", "b 1", "undo_b 1 b1", "undo_a 1 a1"]


@pytest.mark.parametrize("which", ["undo_activity", "probe_activity"])
async def test_a_saga_takes_no_undo_and_no_probe_as_a_step_of_its_own(which: str) -> None:
    world = World()
    a = world.activity("a", probe=True)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(getattr(a, which), order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        assert await names(harness, handle) == ["SagaStarted", "SagaStalled"]
        error = (await only(harness, handle, e.SagaStalled)).error
        assert error.type == "DefinitionError"
        assert "and a saga never does" in error.message
        assert world.did == []

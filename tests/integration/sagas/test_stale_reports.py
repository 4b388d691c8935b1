"""Stale messages: a report of an attempt, or an expiry, that comes when its step has moved on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amends import Handle, Happened, Retry, Saga, SagaContext, Status, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.events import AttemptOutcome, ErrorInfo
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


def one_step(world: World, **options: Any) -> tuple[Saga[Order, Receipt], Harness]:
    """Step 1 is "a", and the saga's result."""
    a = world.activity("a", **options)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    return it, Harness(app_of(it, activities=[a]))


async def fail(harness: Harness, handle: Handle[Any], outcome: AttemptOutcome) -> None:
    """A consumer reports that attempt 1 of step 1 failed."""
    error = ErrorInfo(type="Gone", message="the consumer is gone")
    await harness.client.send(
        m.ReportFailed(saga="it", id=handle.id, seq=1, attempt=1, outcome=outcome, error=error)
    )
    await harness.settle()


@pytest.mark.parametrize("outcome", [AttemptOutcome.FAILED, AttemptOutcome.VANISHED])
async def test_a_failure_of_a_parked_step_leaves_the_decision_to_the_person(
    outcome: AttemptOutcome,
) -> None:
    world = World()
    world.plan["a"] = [Late(1e6)]
    it, harness = one_step(world, timeout=1000, total_timeout=20, on_unknown="park")
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(16)
        # It may come a little early, by the clock of whoever delivers it.
        await harness.client.send(m.ExpireStep(saga="it", id=handle.id, seq=1))
        await harness.settle()
        before = await names(harness, handle)
        assert before == ["SagaStarted", "StepScheduled", "StepUnknown"]
        await fail(harness, handle, outcome)
        await harness.advance(500)
        after = await names(harness, handle)
        assert [name for name in after if name != "StepReportedLate"] == before
        assert await handle.status() == Status.PARKED
        assert world.did == ["a 1"]


async def test_a_failure_of_a_step_that_is_probed_leaves_the_answer_to_the_probe() -> None:
    world = World()
    world.plan["a"] = [Late(1e6)]
    world.plan["probe_a"] = [Late(30, Happened(Receipt(text="found")))]
    it, harness = one_step(world, timeout=1000, total_timeout=20, probe=True)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(16)
        await harness.client.send(m.ExpireStep(saga="it", id=handle.id, seq=1))
        await harness.settle()
        before = await names(harness, handle)
        assert before == ["SagaStarted", "StepScheduled", "StepUnknown", "StepScheduled"]
        await fail(harness, handle, AttemptOutcome.FAILED)
        assert await names(harness, handle) == before
        assert await handle.result() == Receipt(text="found")
        assert world.did == ["a 1", "probe_a 1"]


async def test_a_second_report_of_an_attempt_that_is_to_be_repeated_repeats_nothing() -> None:
    world = World()
    world.plan["a"] = [Broken("once")]
    it, harness = one_step(world, retry=Retry(max_attempts=5, initial_s=60, jitter=0.0))
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        await fail(harness, handle, AttemptOutcome.VANISHED)
        assert len(await every(harness, handle, e.StepAttemptFailed)) == 1
        await handle.result()
        assert world.did == ["a 1", "a 1"]


async def test_an_attempt_that_fails_after_its_saga_gave_it_up_is_not_repeated() -> None:
    world = World()
    world.plan["a"] = [Late(30, Broken("cable"))]
    a = world.activity("a")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        try:
            async with asyncio.timeout(10):
                await ctx.do(a, order)
        except TimeoutError:
            raise Refused("too slow") from None

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.FAILED
        assert (await only(harness, handle, e.StepAttemptFailed)).retry_at is None
        assert world.did == ["a 1"]


@pytest.mark.parametrize("probe", [False, True], ids=["parked", "probed"])
async def test_a_step_that_somebody_is_asked_about_does_not_expire(probe: bool) -> None:
    world = World()
    world.plan["a"], world.plan["probe_a"] = [Late(1e6)], [Late(40, Happened(Receipt(text="?")))]
    options = {"timeout": 10, "total_timeout": 14, "retry": ONCE, "on_unknown": "park"}
    it, harness = one_step(world, probe=probe, **options)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(11)
        before = await names(harness, handle)
        await harness.advance(5)
        assert await names(harness, handle) == before
        await only(harness, handle, e.StepUnknown)


@pytest.mark.parametrize(
    ("first", "backoff_s", "undone"),
    [(Late(1e6), 48, ["undo_a 1 None"]), (Broken("cable"), 58, [])],
    ids=["it timed out", "it failed"],
)
async def test_an_expiry_in_a_backoff_is_as_sure_as_the_attempts_before_it(
    first: object, backoff_s: float, undone: list[str]
) -> None:
    """It comes a little early, by the clock of whoever delivers it, and so before the retry."""
    world = World()
    world.plan["a"] = [first]
    retry = Retry(max_attempts=2, initial_s=backoff_s, max_interval_s=backoff_s, jitter=0.0)
    it, harness = one_step(world, timeout=10, total_timeout=60, retry=retry)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(56)
        await harness.client.send(m.ExpireStep(saga="it", id=handle.id, seq=1))
        await ended(handle)
        assert world.did == ["a 1", *undone]

"""The test kit does what it says, so that the tests that use it can be believed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from unittest.mock import patch

import pytest

from amends import App, SagaContext, saga
from amends.domain import events as e
from amends.errors import StartUnconfirmed
from amends.testing.clock import EPOCH, Livelock
from amends.testing.crashes import CrashPoints, crash_at_every_point
from amends.testing.faults import FaultRates
from amends.testing.harness import EVERY_TURN_REPLAYS, Harness, Stalled, run_app
from tests.integration.sagas.support import Late, Order, Receipt, World, app_of, every, names


class Trip:
    """A saga of two steps with a year between them."""

    def __init__(self) -> None:
        self.world = World()
        go = self.world.activity("go")
        back = self.world.activity("back")

        @saga(name="trip")
        async def trip(ctx: SagaContext, order: Order) -> Receipt:
            await ctx.do(go, order)
            await asyncio.sleep(365 * 86400)
            return await ctx.do(back, order)

        self.saga = trip
        self.app: App = app_of(trip, activities=[go, back])


def test_a_year_passes_and_a_sync_test_gets_the_result() -> None:
    trip = Trip()

    async def scenario(harness: Harness) -> Receipt:
        receipt = await harness.run(trip.saga, Order(n=1))
        assert harness.now() == EPOCH + timedelta(days=365)
        return receipt

    assert run_app(trip.app, scenario) == Receipt(text="back1")


@pytest.mark.virtual_time
async def test_the_journal_comes_as_typed_events() -> None:
    trip = Trip()
    async with Harness(trip.app) as harness:
        handle = await harness.start(trip.saga, Order(n=1))
        await handle.result()
        assert await names(harness, handle) == [
            *("SagaStarted", "StepScheduled", "StepCompleted"),
            *("TimerStarted", "TimerFired", "StepScheduled", "StepCompleted", "SagaCompleted"),
        ]
        assert handle.id == "1"
        assert [s.activity for s in await every(harness, handle, e.StepScheduled)] == ["go", "back"]


@pytest.mark.virtual_time
async def test_advancing_stops_at_the_moment_and_settling_does_not_move_time() -> None:
    trip = Trip()
    trip.world.plan["go"] = [Late(10)]
    async with Harness(trip.app) as harness:
        await harness.start(trip.saga, Order(n=1))
        await harness.settle()
        assert harness.now() == EPOCH
        await harness.advance(10)
        await harness.settle()
        assert harness.now() == EPOCH + timedelta(seconds=10)
        assert trip.world.did == ["go 1"]
        await harness.advance(365 * 86400)
        await harness.settle()
        assert trip.world.did == ["go 1", "back 1"]


@pytest.mark.virtual_time
async def test_after_a_crash_nothing_happens_until_another_engine_runs() -> None:
    trip = Trip()
    trip.world.plan["go"] = [Late(10)]
    async with Harness(trip.app) as harness:
        handle = await harness.start(trip.saga, Order(n=1))
        await harness.settle()
        await harness.crash()
        before = await names(harness, handle)
        await harness.advance(1000)
        assert await names(harness, handle) == before
        with pytest.raises(StartUnconfirmed):
            await harness.start(trip.saga, Order(n=2))
        await harness.restart()
        assert await handle.result() == Receipt(text="back1")
        # The attempt that the crash cut short was run again.
        assert trip.world.did.count("go 1") == 2


@pytest.mark.virtual_time
async def test_what_was_stopped_gracefully_finished_what_it_had_begun() -> None:
    trip = Trip()
    trip.world.plan["go"] = [Late(10)]
    async with Harness(trip.app) as harness:
        handle = await harness.start(trip.saga, Order(n=1))
        await harness.settle()
        await harness.stop_engines()
        assert await names(harness, handle) == [
            *("SagaStarted", "StepScheduled", "StepCompleted", "TimerStarted"),
        ]


def test_a_saga_survives_a_crash_at_every_point() -> None:
    crashed: list[bool] = []

    def scenario(points: CrashPoints) -> None:
        trip = Trip()

        async def main(harness: Harness) -> Receipt:
            return await harness.run(trip.saga, Order(n=1))

        assert run_app(trip.app, main, points=points) == Receipt(text="back1")
        crashed.append(points.is_dead)

    points = crash_at_every_point(scenario)
    assert crashed == [True] * points + [False]
    assert points > 20


@pytest.mark.parametrize("seed", range(5))
def test_a_saga_survives_an_unreliable_store_and_broker(seed: int) -> None:
    trip = Trip()
    rates = FaultRates(error_before=0.2, error_after=0.2, duplicate=0.2, redeliver=0.2, reorder=0.5)

    async def main(harness: Harness) -> Receipt:
        return await harness.run(trip.saga, Order(n=1))

    assert run_app(trip.app, main, rates=rates, seed=seed) == Receipt(text="back1")


@pytest.mark.virtual_time
async def test_waiting_for_a_stalled_saga_raises_its_traceback_instead_of_going_on_for_ever() -> (
    None
):
    @saga(name="it")
    async def buggy(ctx: SagaContext, order: Order) -> str:
        return order + 1  # type: ignore[operator,return-value]

    @saga(name="it")
    async def fixed(ctx: SagaContext, order: Order) -> str:
        return "fixed"

    async with Harness(app_of(buggy)) as harness:
        handle = await harness.start(buggy, Order(n=1))
        for _ in range(2):
            with pytest.raises(Stalled, match=r"(?s)it/1 is stalled.*return order \+ 1"):
                await handle.result()
        await harness.restart(app_of(fixed))
        assert await handle.result() == "fixed"


@pytest.mark.virtual_time
async def test_others_do_not_hear_of_it() -> None:
    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        if order.n:
            raise TypeError("a bug")
        await asyncio.sleep(1e6)
        return "done"

    async with Harness(app_of(it)) as harness:
        await harness.start(it, Order(n=1))
        assert await harness.run(it, Order(n=0)) == "done"


def test_a_saga_that_repeats_itself_without_end_and_without_waiting_is_a_livelock() -> None:
    world = World()
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        while True:
            await ctx.do(a, order)

    async def scenario(harness: Harness) -> None:
        await harness.run(it, Order(n=1))

    settings = EVERY_TURN_REPLAYS.model_copy(update={"cache_max": 10})
    with patch("amends.testing.clock.ROUNDS_MAX", 10_000), pytest.raises(Livelock):
        run_app(app_of(it, activities=[a]), scenario, settings=settings)

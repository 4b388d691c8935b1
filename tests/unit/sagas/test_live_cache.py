"""Which live instances stay in memory: what each waits for, and what its replay would cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from amends import SagaContext, Signal, activity, saga
from amends.domain import events as e
from amends.domain.ids import InstanceId
from amends.sagas.cache import LiveCache
from amends.sagas.execution import SagaExecution
from amends.sagas.state import InstanceState
from amends.sagas.turn import Live

NOW = datetime(2024, 5, 1, tzinfo=UTC)
DAY_S = 86_400.0

ping = Signal("ping", int)
Body = Callable[[SagaContext], Awaitable[object]]


@activity
async def step(_: int) -> None:
    """Never run here: what counts is that a saga waits for it."""


def cache(places: int = 100) -> LiveCache:
    return LiveCache(places_max=places, wait_s_per_event=10)


def live(body: Body, *, id: str = "x", events: int = 2) -> Live:
    """An instance that has begun, and whose journal is so long."""

    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        await body(ctx)

    state = InstanceState(InstanceId("it", id))
    execution = SagaExecution(it, state, {step.name: step})
    execution.feed(e.SagaStarted(saga="it", id=id, input=None, at=NOW))
    state.version = events - 1
    return Live(state, execution, None)


def is_live(instance: Live) -> bool:
    return instance.execution is not None


async def sleeps(ctx: SagaContext) -> None:
    await asyncio.sleep(DAY_S)


async def listens(ctx: SagaContext) -> None:
    await ctx.receive(ping)


async def listens_for_a_day(ctx: SagaContext) -> None:
    await asyncio.wait_for(ctx.receive(ping), DAY_S)


async def sleeps_with_a_handler(ctx: SagaContext) -> None:
    ctx.on(ping, print)
    await asyncio.sleep(DAY_S)


async def sleeps_after_listening(ctx: SagaContext) -> None:
    try:
        async with asyncio.timeout(0):
            await ctx.receive(ping)
    except TimeoutError:
        await asyncio.sleep(DAY_S)


async def waits_for_a_condition(ctx: SagaContext) -> None:
    await asyncio.gather(ctx.wait_until(lambda: False), asyncio.sleep(DAY_S))


async def does_a_step(ctx: SagaContext) -> None:
    await asyncio.gather(ctx.do(step, 1), asyncio.sleep(DAY_S))


def does_steps(count: int) -> Body:
    async def body(ctx: SagaContext) -> None:
        await asyncio.gather(*(ctx.do(step, n) for n in range(count)))

    return body


@pytest.mark.parametrize("body", [sleeps, sleeps_after_listening])
def test_what_waits_only_for_a_far_timer_is_dropped(body: Body) -> None:
    kept, sleeper = cache(), live(body)
    kept.put(sleeper)
    assert len(kept) == 0
    assert not is_live(sleeper)


@pytest.mark.parametrize(
    "body",
    [listens, listens_for_a_day, sleeps_with_a_handler, waits_for_a_condition, does_a_step],
)
def test_what_may_be_wanted_at_any_moment_is_kept(body: Body) -> None:
    kept, busy = cache(), live(body)
    kept.put(busy)
    assert kept.take(busy.state.instance) is busy
    assert is_live(busy)


@pytest.mark.parametrize(("events", "stays"), [(8_639, False), (8_640, True)])
def test_the_longer_the_journal_the_farther_a_timer_may_be(events: int, stays: bool) -> None:
    kept, sleeper = cache(), live(sleeps, events=events)
    kept.put(sleeper)
    assert is_live(sleeper) is stays


@pytest.mark.parametrize(("hours", "stays"), [(0.001, True), (1, False)])
def test_a_backoff_is_waited_for_like_a_timer(hours: float, stays: bool) -> None:
    kept, failing = cache(), live(does_steps(1), events=3)
    assert failing.execution is not None
    failed = e.StepAttemptFailed(
        seq=1,
        attempt=1,
        outcome=e.AttemptOutcome.FAILED,
        error=e.ErrorInfo(type="OSError", message="no"),
        retry_at=NOW + timedelta(hours=hours),
        at=NOW,
    )
    failing.execution.feed(failed)
    kept.put(failing)
    assert is_live(failing) is stays


def test_what_was_used_longest_ago_is_dropped_first() -> None:
    kept = cache(places=2)
    a, b, c = (live(listens, id=id) for id in "abc")
    kept.put(a)
    kept.put(b)
    kept.put(kept.take(a.state.instance) or c)
    kept.put(c)
    assert [is_live(each) for each in (a, b, c)] == [True, False, True]


@pytest.mark.parametrize(("events", "outlives"), [(2, 1), (33, 3), (65, 5), (1_025, 13)])
def test_a_long_journal_gives_second_chances(events: int, outlives: int) -> None:
    kept, long = cache(places=2), live(listens, id="long", events=events)
    kept.put(long)
    others = 0
    kept.put(live(listens, id="other"))
    while is_live(long):
        kept.put(live(listens, id=str(others)))
        others += 1
    assert others == outlives


def test_who_waits_for_much_takes_the_place_of_several() -> None:
    kept = cache(places=100)
    for id in range(90):
        kept.put(live(listens, id=str(id)))
    wide = live(does_steps(60), id="wide")
    kept.put(wide)
    assert len(kept) == 100 - 21 + 1
    kept.take(wide.state.instance)
    for id in range(20):
        kept.put(live(listens, id=f"more {id}"))
    assert len(kept) == 99


def test_no_instance_is_too_wide_to_be_kept() -> None:
    kept = cache(places=8)
    wides = [live(does_steps(1000), id=str(id)) for id in range(5)]
    for wide in wides:
        kept.put(wide)
    assert [is_live(wide) for wide in wides] == [False, True, True, True, True]


def test_nothing_is_kept_where_there_is_no_place() -> None:
    kept, busy = cache(places=0), live(listens, events=1000)
    kept.put(busy)
    assert len(kept) == 0
    assert not is_live(busy)


def test_clearing_drops_everything() -> None:
    kept = cache()
    instances = [live(listens, id=str(id)) for id in range(3)]
    for instance in instances:
        kept.put(instance)
    kept.clear()
    assert len(kept) == 0
    assert not any(map(is_live, instances))

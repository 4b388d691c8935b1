"""Timeouts with one timer for all."""

from __future__ import annotations

import asyncio
import random

import pytest

from amends.domain.deadlines import Deadlines

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines()


async def test_what_is_done_in_time_is_not_disturbed(deadlines: Deadlines) -> None:
    with deadlines.within(2) as deadline:
        await asyncio.sleep(1)
    await asyncio.sleep(10)
    assert not deadline.expired


async def test_what_takes_too_long_is_cancelled(deadlines: Deadlines) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    deadline = deadlines.within(2)
    with pytest.raises(TimeoutError), deadline:
        await asyncio.sleep(100)
    assert deadline.expired
    assert loop.time() == began + 2
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_no_deadline_is_none(deadlines: Deadlines) -> None:
    with deadlines.within(None) as deadline:
        await asyncio.sleep(1e6)
    assert not deadline.expired


async def test_a_deadline_that_is_past_ends_the_first_wait(deadlines: Deadlines) -> None:
    with pytest.raises(TimeoutError), deadlines.within(-1):
        await asyncio.sleep(100)


async def test_each_of_many_ends_at_its_own_moment(deadlines: Deadlines) -> None:
    loop = asyncio.get_running_loop()
    draw = random.Random(7)

    async def wait() -> tuple[float, float]:
        await asyncio.sleep(draw.uniform(0, 10))
        began, seconds, work = loop.time(), draw.uniform(0, 10), draw.uniform(0, 10)
        try:
            with deadlines.within(seconds):
                await asyncio.sleep(work)
        except TimeoutError:
            assert seconds <= work
        else:
            assert work <= seconds
        return loop.time() - began, min(seconds, work)

    for took, wanted in await asyncio.gather(*(wait() for _ in range(500))):
        assert took == pytest.approx(wanted, abs=1e-5)


async def test_a_cancellation_from_outside_stays_one(deadlines: Deadlines) -> None:
    async def wait() -> None:
        with deadlines.within(5):
            await asyncio.sleep(100)

    task = asyncio.create_task(wait())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_in_the_same_moment_wins(deadlines: Deadlines) -> None:
    async def wait() -> None:
        with deadlines.within(5):
            await asyncio.sleep(100)

    task = asyncio.create_task(wait())
    asyncio.get_running_loop().call_later(5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_deadlines_nest(deadlines: Deadlines) -> None:
    with deadlines.within(10) as outer:
        with pytest.raises(TimeoutError), deadlines.within(1):
            await asyncio.sleep(100)
        await asyncio.sleep(1)
    assert not outer.expired
    with pytest.raises(TimeoutError), deadlines.within(1), deadlines.within(10):
        await asyncio.sleep(100)


async def test_an_error_at_the_end_of_the_time_stays_itself(deadlines: Deadlines) -> None:
    async def tidy_up_and_fail() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise ValueError("own") from None

    deadline = deadlines.within(1)
    with pytest.raises(ValueError, match="own"), deadline:
        await tidy_up_and_fail()
    assert deadline.expired


async def test_nothing_is_left_behind(deadlines: Deadlines) -> None:
    for _ in range(10):
        with deadlines.within(60):
            await asyncio.sleep(1)
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]

import asyncio
from datetime import datetime, timedelta

import pytest

from amends.domain.bell import Bell
from amends.testing.clock import EPOCH, ManualClock

LATER = EPOCH + timedelta(seconds=10)


async def test_a_ring_wakes_all_that_wait_in_their_order() -> None:
    bell, woken = Bell(), list[int]()

    async def wait(n: int) -> None:
        await bell.wait()
        woken.append(n)

    waiting = [asyncio.ensure_future(wait(n)) for n in range(3)]
    await asyncio.sleep(0)
    bell.ring()
    await asyncio.gather(*waiting)
    assert woken == [0, 1, 2]


async def test_a_ring_is_not_remembered() -> None:
    bell = Bell()
    bell.ring()
    waiting = asyncio.ensure_future(bell.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    bell.ring()
    await waiting


async def test_whoever_gave_up_is_not_woken() -> None:
    bell = Bell()
    given_up = asyncio.ensure_future(bell.wait())
    await asyncio.sleep(0)
    given_up.cancel()
    bell.ring()
    with pytest.raises(asyncio.CancelledError):
        await given_up


async def test_a_ring_or_the_moment_ends_the_wait() -> None:
    bell, clock = Bell(), ManualClock()
    rung = asyncio.ensure_future(bell.wait_until(clock, LATER))
    await asyncio.sleep(0)
    bell.ring()
    await rung
    assert clock.now() == EPOCH
    due = asyncio.ensure_future(bell.wait_until(clock, LATER))
    await asyncio.sleep(0)
    # Its timer is a task, which begins after it.
    await asyncio.sleep(0)
    await clock.advance(10)
    await due


async def test_a_clock_that_fails_is_heard_of() -> None:
    class BrokenClock(ManualClock):
        async def sleep_until(self, when: datetime) -> None:
            raise OSError(f"cannot wait for {when}")

    with pytest.raises(OSError, match="cannot wait"):
        await Bell().wait_until(BrokenClock(), LATER)


def test_a_waiter_of_a_loop_that_is_gone_is_passed_over() -> None:
    bell = Bell()
    dead = asyncio.new_event_loop()
    waiter = dead.create_task(bell.wait())
    dead.run_until_complete(asyncio.sleep(0))
    dead.close()

    async def others_live() -> None:
        waiting = asyncio.ensure_future(bell.wait())
        await asyncio.sleep(0)
        bell.ring()
        await waiting

    asyncio.run(others_live())
    assert not waiter.done()
    # It can be neither finished nor cancelled any more; asyncio would complain of that.
    waiter._log_destroy_pending = False  # type: ignore[attr-defined]

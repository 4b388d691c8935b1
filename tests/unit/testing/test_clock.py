import asyncio
import socket
import threading
import time
from datetime import timedelta

import pytest

from amends.errors import UsageError
from amends.testing.clock import (
    EPOCH,
    Deadlock,
    ManualClock,
    VirtualClock,
    VirtualTimeLoop,
    run_virtual,
    virtual_clock,
)

YEAR_S = 365 * 86400


class TestVirtualTime:
    pytestmark = pytest.mark.virtual_time

    async def test_centuries_pass_at_once_and_to_the_microsecond(self, clock: VirtualClock) -> None:
        began = time.perf_counter()
        for _ in range(200):
            await asyncio.sleep(YEAR_S)
        assert clock.now() == EPOCH + timedelta(seconds=200 * YEAR_S)
        await clock.sleep_until(when := clock.now() + timedelta(microseconds=3))
        assert clock.now() == when
        assert time.perf_counter() - began < 1

    async def test_what_is_due_happens_in_its_order_and_at_its_moment(
        self, clock: VirtualClock
    ) -> None:
        seen: list[tuple[str, float]] = []

        async def note(name: str, *pauses_s: float) -> None:
            for pause_s in pauses_s:
                await asyncio.sleep(pause_s)
                seen.append((name, clock.elapsed_s))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(note("a", 3, 3))
            tasks.create_task(note("b", 1, 4))
            tasks.create_task(note("c", 3))
            await clock.advance(4)
            seen.append(("advanced", clock.elapsed_s))
        assert seen == [("b", 1), ("a", 3), ("c", 3), ("advanced", 4), ("b", 5), ("a", 6)]

    async def test_timers_of_one_moment_fire_in_the_order_in_which_they_were_made(self) -> None:
        loop, fired = asyncio.get_running_loop(), list[int]()
        given_up = [loop.call_later(5, fired.append, -1) for _ in range(20)]
        for number in range(50):
            loop.call_later(1, fired.append, number)
            given_up[number % 20].cancel()
        await asyncio.sleep(2)
        assert fired == list(range(50))

    async def test_timeouts_are_virtual(self, clock: VirtualClock) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(YEAR_S):
                await asyncio.Event().wait()
        assert clock.elapsed_s == YEAR_S

    async def test_time_stands_still_while_a_thread_works(self, clock: VirtualClock) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(time.sleep, 0.05)
        assert clock.elapsed_s == 0

    async def test_io_that_is_ready_goes_before_time(self, clock: VirtualClock) -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.send(b"x")
        async with asyncio.timeout(1):
            assert await reader.read(1) == b"x"
        assert clock.elapsed_s == 0
        writer.close()
        await writer.wait_closed()
        theirs.close()

    async def test_a_moment_that_is_past_is_not_waited_for(self, clock: VirtualClock) -> None:
        await clock.sleep_until(EPOCH - timedelta(days=1))
        assert clock.now() == EPOCH

    async def test_a_clock_refuses_a_loop_that_it_does_not_drive(self) -> None:
        other = VirtualClock()
        with pytest.raises(UsageError, match="does not drive"):
            await other.sleep_until(EPOCH + timedelta(seconds=1))


async def wait_for_nothing() -> None:
    await asyncio.Event().wait()


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def main() -> None:
        await asyncio.sleep(5)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait_for_nothing(), name="the forgotten one")

    with pytest.raises(Deadlock) as caught:
        run_virtual(main())
    assert "2026-01-01T00:00:05" in str(caught.value)
    assert "the forgotten one in wait_for_nothing" in str(caught.value)
    assert "test_clock.py" in str(caught.value)


def test_io_may_be_all_that_is_left() -> None:
    async def main() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        # A thread that the loop knows nothing of stands for another process.
        answer = threading.Timer(0.05, theirs.send, [b"x"])
        answer.start()
        try:
            return await reader.read(1)
        finally:
            answer.join()
            theirs.close()
            writer.close()
            await writer.wait_closed()

    assert run_virtual(main()) == b"x"


def test_time_goes_on_from_one_loop_to_the_next() -> None:
    clock = VirtualClock()
    run_virtual(asyncio.sleep(10), clock=clock)
    run_virtual(asyncio.sleep(5), clock=clock)
    assert clock.now() == EPOCH + timedelta(seconds=15)


def test_the_result_comes_back() -> None:
    async def main() -> float:
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_a_thread_may_be_all_that_is_left() -> None:
    assert run_virtual(asyncio.to_thread(lambda: 7)) == 7


async def test_no_virtual_clock_on_a_real_loop() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    with pytest.raises(UsageError):
        virtual_clock()


class TestManualClock:
    async def test_it_moves_only_when_told_and_wakes_the_earliest_first(self) -> None:
        clock = ManualClock()
        woken: list[str] = []

        async def wake(name: str, after_s: float) -> None:
            await clock.sleep_until(EPOCH + timedelta(seconds=after_s))
            woken.append(name)

        late = asyncio.create_task(wake("late", 3))
        later = asyncio.create_task(wake("later", 9))
        early = asyncio.create_task(wake("early", 1))
        given_up = asyncio.create_task(wake("given up", 2))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        await clock.advance(5)
        await asyncio.gather(late, early)
        assert woken == ["early", "late"]
        assert not later.done()
        assert clock.now() == EPOCH + timedelta(seconds=5)
        await clock.advance(4)
        await later

    async def test_a_moment_that_is_past_is_not_waited_for(self) -> None:
        await ManualClock().sleep_until(EPOCH)

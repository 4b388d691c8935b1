"""Time for tests: an event loop that skips waiting, and a clock that is set by hand.

In pytest (with pytest-asyncio) a marker puts single tests and their fixtures on virtual time::

    # conftest.py
    def pytest_asyncio_loop_factories(config, item):
        virtual = item.get_closest_marker("virtual_time") is not None
        return {"virtual": VirtualTimeLoop} if virtual else {"real": asyncio.new_event_loop}


    @pytest.fixture
    async def clock():
        return virtual_clock()


    @pytest.mark.virtual_time
    async def test_a_year_passes(clock):
        await asyncio.sleep(365 * 86400)
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, TypeVar, TypeVarTuple

from amends.errors import AmendsError, UsageError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

ROUNDS_MAX: Final = 1_000_000
"""Rounds of the event loop at one moment of virtual time, before it is a `Livelock`."""

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When virtual time begins, unless a test says otherwise."""


class Deadlock(AmendsError):
    """Every task waits, and nothing is left in this event loop that could wake one."""


class Livelock(AmendsError):
    """The event loop goes round and round, and no time passes."""


class VirtualClock:
    """Implements `Clock` on virtual time: it moves when the loop that it drives has nothing to do.

    It may drive one loop after another, so that time goes on over a simulated crash.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self.start = start
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        """The present moment of virtual time."""
        return self.start + timedelta(seconds=self.elapsed_s)

    async def sleep_until(self, when: datetime) -> None:
        """Return when virtual time has reached `when`. Raises UsageError on any other loop."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop) or loop.clock is not self:
            raise UsageError(
                "this VirtualClock does not drive the running event loop, so waiting on it would "
                "never end; use run_virtual(..., clock=clock), or the clock of the loop"
            )
        # Once is not always enough: a moment is whole microseconds, and loop time is not.
        while (left_s := (when - self.now()).total_seconds()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)

    async def advance(self, seconds: float) -> None:
        """Let time pass; what becomes due meanwhile happens at its moment and in its order."""
        await self.sleep_until(self.now() + timedelta(seconds=seconds))

    async def settle(self) -> None:
        """Return when nothing is left to do at this moment: all that runs waits for time or I/O."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        await loop.rest()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in which waiting takes no time.

    Whenever nothing is ready and something is scheduled, `time()` jumps to that moment; decades
    pass in milliseconds, in the order in which they would have passed. I/O that is ready goes
    first. While a function runs in an executor, time stands still and the loop waits for it;
    threads that the loop did not start itself it cannot see, unless it is told: `stand_still_while`.

    When every task waits and neither time nor I/O could wake one, the loop raises `Deadlock`,
    which names the tasks, instead of hanging; and `Livelock` when no time passes any more.
    """

    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self._threads_busy = 0
        self._busy: list[Callable[[], bool]] = []
        self._resting: list[asyncio.Future[None]] = []
        self._timer_numbers = count()
        super().__init__(_TimeSkippingSelector(self))
        # Timers are due within this many seconds. asyncio's own choice, a nanosecond, vanishes
        # in the rounding of a float after some months, and no timer would ever be due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds since the clock's start."""
        return self.clock.elapsed_s

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio. Timers of one moment fire in the order in which they were made, which is
        nothing that asyncio's own heap would promise.
        """
        self._check_closed()  # type: ignore[attr-defined]
        timer = _OrderedTimer(when, callback, args, self, context)
        timer.number = next(self._timer_numbers)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    async def rest(self) -> None:
        """Return when nothing else is ready, before time moves on."""
        self._resting.append(self.create_future())
        await self._resting[-1]

    def stand_still_while(self, busy: Callable[[], bool]) -> None:
        """Let time stand still while this says so: a thread is at work, and will wake the loop."""
        self._busy.append(busy)

    def _waits_for_threads(self) -> bool:
        return self._threads_busy > 0 or any(busy() for busy in self._busy)

    def run_in_executor(
        self, executor: Any, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """See asyncio. Virtual time stands still until the function returns."""
        future = super().run_in_executor(executor, func, *args)
        self._threads_busy += 1
        future.add_done_callback(self._thread_returned)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """See asyncio, which does this in a thread."""
        self._threads_busy += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._threads_busy -= 1

    def _thread_returned(self, _: asyncio.Future[Any]) -> None:
        self._threads_busy -= 1

    def _wake_resting(self) -> bool:
        woken = [future for future in self._resting if not future.done()]
        self._resting.clear()
        for future in woken:
            future.set_result(None)
        return bool(woken)

    def _next_timer(self) -> float | None:
        """When the next timer is due; asyncio has no public way to ask."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return scheduled[0].when() if scheduled else None

    def _deadlock(self) -> Deadlock:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        waiting = "".join(f"\n  {_describe(task)}" for task in tasks)
        return Deadlock(
            f"at {self.clock.now().isoformat()} every task waits, and no timer, I/O or executor "
            f"is left that could wake one:{waiting or ' there is none, only a bare future'}"
        )


class _OrderedTimer(asyncio.TimerHandle):
    __slots__ = ("number",)
    number: int

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _OrderedTimer):
            return NotImplemented
        return (self.when(), self.number) < (other.when(), other.number)


class _TimeSkippingSelector(selectors.BaseSelector):
    """Polls for I/O, and moves virtual time where another selector would block."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            self._count_round()
            return ready
        if self._loop._waits_for_threads():
            return self._real.select(None)
        if self._loop._wake_resting():
            return ready
        when = self._loop._next_timer()
        if when is not None:
            if when > self._loop.clock.elapsed_s:
                self._loop.clock.elapsed_s = when
                self._rounds = 0
            return ready
        # The loop itself listens on one socket, through which threads wake it.
        if len(self._real.get_map()) > 1:
            return self._real.select(None)
        raise self._loop._deadlock()

    def _count_round(self) -> None:
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            self._rounds = 0
            raise Livelock(
                f"{ROUNDS_MAX:,} rounds of the event loop at {self._loop.clock.now().isoformat()}: "
                "something is repeated without end, and without waiting in between"
            )

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


def _describe(task: asyncio.Task[Any]) -> str:
    """Where a task waits, for a person."""
    frames = task.get_stack()
    if not frames:
        return task.get_name()
    frame = frames[-1]
    code = frame.f_code
    return f"{task.get_name()} in {code.co_name} ({code.co_filename}:{frame.f_lineno})"


def virtual_clock() -> VirtualClock:
    """The clock of the running loop. Raises UsageError when that is not a `VirtualTimeLoop`."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise UsageError("the running event loop is not a VirtualTimeLoop")
    return loop.clock


def run_virtual(main: Coroutine[Any, Any, T], *, clock: VirtualClock | None = None) -> T:
    """Run a coroutine to its end in virtual time, as `asyncio.run` does in real time.

    With a `clock` that was used before, time goes on from where it stood.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock)) as runner:
        return runner.run(main)


class ManualClock:
    """Implements `Clock` on any event loop: time moves when the test says so, and only then.

    For backends with threads, which virtual time cannot see. Not for several threads at once:
    wait and advance on one event loop; `now` may be read anywhere.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = start
        self._waiters: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> datetime:
        """The moment that was set."""
        return self._now

    async def sleep_until(self, when: datetime) -> None:
        """Return when the clock was set to `when` or later."""
        if when > self._now:
            waiter = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiters, (when, next(self._numbers), waiter))
            await waiter

    async def advance(self, seconds: float) -> None:
        """Set the clock forward in one jump, and wake whoever is due, earliest first.

        It returns at once; the woken run later and all find the new time.
        """
        self._now += timedelta(seconds=seconds)
        while self._waiters and self._waiters[0][0] <= self._now:
            waiter = heapq.heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)

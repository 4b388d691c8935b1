"""The deterministic event loop: asyncio without a clock, a selector or threads.

It runs callbacks first in, first out, until none is ready (*quiescence*). Its time is set from
outside, from the input that the saga is handling. Its timers are decisions of the saga: they go
to a `TimerSink`, and their coming due is an input like any other.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final, NoReturn, Protocol, TypeVar
from zlib import crc32

from amends.errors import NotAllowedInSaga

_T = TypeVar("_T")

#: A saga that is still busy after so many callbacks waits for nothing that could ever happen.
CALLBACKS_MAX: Final = 100_000
#: How often a coroutine that is thrown away may refuse to end.
CLOSE_TRIES_MAX: Final = 100


class TimerSink(Protocol):
    """Who hears of the loop's timers."""

    def timer_started(self, due_s: float) -> int:
        """A timer was started for a moment of loop time; returns its sequence number."""
        ...

    def timer_cancelled(self, seq: int) -> None:
        """A timer that has not fired is not wanted any more."""
        ...


class SagaTask(asyncio.Task[_T]):
    """A task whose hash depends on the instance and its number only, so that a set of tasks has
    the same order on every replay.
    """

    _number: int

    def __init__(self, coro: Any, *, number: int, loop: SagaLoop, context: Context | None) -> None:
        self._number = number  # asyncio hashes the task while it initialises it
        super().__init__(coro, loop=loop, name="saga", context=context)

    def __hash__(self) -> int:
        return self._number


class SagaFuture(asyncio.Future[_T]):
    """A future with a deterministic hash, for the same reason."""

    _number: int

    def __init__(self, *, number: int, loop: SagaLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Timer(asyncio.TimerHandle):
    __slots__ = ("seq",)
    seq: int


class SagaLoop(asyncio.AbstractEventLoop):
    """One saga instance's own event loop. Not thread-safe; runs only inside `run_ready`."""

    #: Recognised by `amends.sagas.as_completed`.
    is_saga_loop: Final = True

    def __init__(self, instance: str, sink: TimerSink) -> None:
        self._sink = sink
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: dict[int, _Timer] = {}
        self._tasks: list[SagaTask[Any]] = []
        self._prune_at = 64
        self._closing: set[SagaTask[Any]] = set()
        # Small numbers alone would collide across instances in asyncio's own registries.
        self._numbers = crc32(instance.encode()) << 24
        self._running = False
        self._discarded = False
        self._callbacks_left = CALLBACKS_MAX
        self.now_s = 0.0
        self.errors: list[BaseException] = []

    # --- driven by the engine

    def run_ready(self) -> None:
        """Run to quiescence. Raises NotAllowedInSaga when the saga never comes to rest.

        Must be called outside any task: Python 3.14 keeps one running task per thread.
        """
        outer = events._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_generator)
        events._set_running_loop(self)
        # Cyclic garbage is found at any moment: what is done then would differ between replays.
        collects_garbage = gc.isenabled()
        gc.disable()
        self._running = True
        try:
            if self._discarded:
                self._close_tasks()
            else:
                self._run_ready()
        finally:
            self._running = False
            if collects_garbage:
                gc.enable()
            events._set_running_loop(outer)
            sys.set_asyncgen_hooks(*hooks)

    def begin_activation(self) -> None:
        """One more input: the saga may be busy again, for so long."""
        self._callbacks_left = CALLBACKS_MAX

    def _run_ready(self) -> None:
        ready = self._ready
        while ready:
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
            self._callbacks_left -= 1
            if self._callbacks_left <= 0:
                self._never_rests()

    def fire(self, seq: int) -> None:
        """The timer is due; a timer that is no longer wanted is passed over."""
        timer = self._timers.pop(seq, None)
        if timer is not None:
            self._ready.append(timer)

    def unfinished_tasks(self) -> list[SagaTask[Any]]:
        """The tasks that are not done, in the order in which they were made."""
        return [task for task in self._tasks if not task.done()]

    def is_closing(self, task: SagaTask[Any]) -> bool:
        """Whether the task only closes an async generator, and ends by itself."""
        return task in self._closing

    def unheard_errors(self) -> list[BaseException]:
        """What tasks raised that nobody has awaited, in the order in which they were made."""
        unheard = [task for task in self._tasks if _is_unheard(task)]
        return [error for task in unheard if (error := task.exception()) is not None]

    def discard(self) -> None:
        """Drop everything: the instance leaves the cache or has ended.

        Python would close the coroutines when it frees them, at any time and on any loop, and
        run what they have in `finally`. So that is done here, where it reaches nothing.
        """
        self._discarded = True
        self._ready.clear()
        self._timers.clear()
        if self.unfinished_tasks():
            self.run_ready()
            self._ready.clear()
        self._tasks.clear()

    def _close_tasks(self) -> None:
        for task in self.unfinished_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            for _ in range(CLOSE_TRIES_MAX):
                try:
                    coroutine.close()
                    break
                except RuntimeError:
                    continue  # it awaits something on its way out, and is asked again
                except (Exception, asyncio.CancelledError, GeneratorExit, SystemExit):
                    break
            _let_go(task)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An async generator was left early: what it has in `finally` belongs to the saga."""
        if self._running and not self._discarded:
            task: SagaTask[None] = self.create_task(generator.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _never_rests(self) -> NoReturn:
        self._ready.clear()
        raise NotAllowedInSaga(
            f"the saga ran {CALLBACKS_MAX:,} callbacks without coming to rest. A loop around "
            "asyncio.sleep(0), or tasks that wake each other for ever, wait for nothing: use ctx.wait_until(condition), or asyncio.sleep "
            "with a duration"
        )

    # --- what asyncio asks of a loop

    def time(self) -> float:
        return self.now_s

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Debug mode reads the clock; a saga's loop has none."""

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        if when <= self.now_s:
            timer.seq = 0
            self._ready.append(timer)
        else:
            timer.seq = self._sink.timer_started(when)
            self._timers[timer.seq] = timer
        return timer

    def _timer_handle_cancelled(self, handle: _Timer) -> None:
        if self._timers.pop(handle.seq, None) is not None:
            self._sink.timer_cancelled(handle.seq)

    def create_future(self) -> SagaFuture[Any]:
        self._numbers += 1
        return SagaFuture(number=self._numbers, loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: object = None,
        context: Context | None = None,
        **_: Any,
    ) -> SagaTask[_T]:
        self._numbers += 1
        task: SagaTask[_T] = SagaTask(coro, number=self._numbers, loop=self, context=context)
        if name is not None:
            task.set_name(name)
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [each for each in self._tasks if not each.done() or _is_unheard(each)]
            self._prune_at = max(64, 2 * len(self._tasks))
        return task

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # What tasks and futures say when they are freed comes at any moment; see unheard_errors.
        if "future" not in context and "task" not in context:
            self.errors.append(context.get("exception") or RuntimeError(context["message"]))


def _is_unheard(task: asyncio.Task[Any]) -> bool:
    return task.done() and bool(task._log_traceback)


def _let_go(task: Any) -> None:
    """A task that will never run again, what it awaits, and who wants to know of its end hold one
    another, and would wait for the garbage collector.
    """
    awaited = task._fut_waiter
    if awaited is not None:
        _forget_callbacks(awaited)
        awaited.cancel()  # and with it what it gathers
    _forget_callbacks(task)


def _forget_callbacks(future: Any) -> None:
    for callback, _ in future._callbacks or ():
        future.remove_done_callback(callback)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: SagaLoop, *args: Any, **kwargs: Any) -> NoReturn:
        error = NotAllowedInSaga(
            f"loop.{name}() reaches outside the saga and could not be replayed; do it in an "
            "activity: await ctx.do(activity, input)"
        )
        self.errors.append(error)  # also for a saga that swallows it
        raise error

    refused.__name__ = name
    return refused


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in SagaLoop.__dict__:
        setattr(SagaLoop, _name, _refuse(_name))

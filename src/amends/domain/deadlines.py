"""Timeouts for many short waits, with one timer of the event loop for all of them."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadline:
    """`with deadlines.within(30) as deadline:` raises TimeoutError when the time is over.

    It means what `asyncio.timeout` means: the task is cancelled, and its cancellation becomes a
    TimeoutError unless somebody else cancelled it, too. `expired` tells whether it came to that.
    """

    __slots__ = ("_cancelling", "_deadlines", "_task", "expired", "when")

    def __init__(self, deadlines: Deadlines, when: float | None) -> None:
        self._deadlines = deadlines
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.when = when
        self.expired = False

    def __enter__(self) -> Deadline:
        if self.when is not None:
            self._task = asyncio.current_task()
            assert self._task is not None, "only a task can be timed out"
            self._cancelling = self._task.cancelling()
            self._deadlines.add(self, self.when)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is None:
            return
        self._deadlines.discard(self)
        is_ours = self.expired and self._task.uncancel() <= self._cancelling
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """The time is over."""
        assert self._task is not None
        self.expired = True
        self._task.cancel()


class Deadlines:
    """Who waits, and until when. Belongs to the event loop in which it is used.

    Nearly all waits end long before their time: so each costs an entry in a dict, and only when
    the earliest of them might be due is looked at them all.
    """

    def __init__(self) -> None:
        self._due: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_tidying = False

    def within(self, seconds: float | None) -> Deadline:
        """A deadline so many seconds from now; None for none."""
        if seconds is None:
            return Deadline(self, None)
        return Deadline(self, asyncio.get_running_loop().time() + seconds)

    def add(self, deadline: Deadline, when: float) -> None:
        """Somebody begins to wait."""
        self._due[deadline] = when
        if self._timer is None or when < self._timer.when():
            self._look_at(when)

    def discard(self, deadline: Deadline) -> None:
        """Somebody has stopped waiting."""
        self._due.pop(deadline, None)
        if not self._due and not self._is_tidying:
            # Not at once: the next one often comes in the same pass of the event loop.
            self._is_tidying = True
            asyncio.get_running_loop().call_soon(self._tidy)

    def _tidy(self) -> None:
        self._is_tidying = False
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for deadline in [each for each, when in self._due.items() if when <= now]:
            del self._due[deadline]
            deadline.expire()
        if self._due:
            self._look_at(min(self._due.values()))

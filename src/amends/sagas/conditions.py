"""Conditions over the saga's own variables that its code waits for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

from amends.sagas.loop import SagaFuture, SagaLoop


class _Condition:
    """What somebody in the saga waits for, looked at with the context variables of its task."""

    __slots__ = ("_context", "_holds", "future")

    def __init__(self, holds: Callable[[], bool], future: SagaFuture[None]) -> None:
        self._holds = holds
        self._context = copy_context()
        self.future = future

    def look(self) -> bool:
        """Wake who waits, if it holds, or if looking fails: then with the error."""
        try:
            holds = self._context.run(self._holds)
        except Exception as error:
            self.future.set_exception(error)
            return True
        if holds:
            self.future.set_result(None)
        return holds


class Conditions:
    """The conditions of one execution, in the order in which somebody began to wait for them."""

    def __init__(self) -> None:
        self._waiting: list[_Condition] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, holds: Callable[[], bool], future: SagaFuture[None]) -> SagaFuture[None]:
        """Wait for a condition: `future` is done when it holds, perhaps at once."""
        condition = _Condition(holds, future)
        if not condition.look():
            self._waiting.append(condition)
        return future

    def release(self, loop: SagaLoop) -> bool:
        """Wake who waits for what holds now, one after the other: what the first one does may
        take from the next what it waits for. False if nothing held.
        """
        released = False
        for condition in list(self._waiting):
            if not condition.future.done() and not condition.look():
                continue
            self._waiting.remove(condition)
            loop.run_ready()
            released = True
        return released

    def clear(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()

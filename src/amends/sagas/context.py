"""What saga code can ask for: steps, domain events, signals, time, randomness."""

from __future__ import annotations

import random
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from uuid import UUID

from pydantic import BaseModel

from amends.activities.definition import Activity
from amends.domain.ids import InstanceId
from amends.sagas.signals import Signal

if TYPE_CHECKING:
    from amends.sagas.execution import SagaExecution

I = TypeVar("I")
R = TypeVar("R")
T = TypeVar("T")


class StepCall(Coroutine[Any, Any, R]):
    """A step that is scheduled when it is awaited: directly, by gather, or as a task of its own
    (`group.create_task(ctx.do(…))`).
    """

    __slots__ = ("_activity", "_coroutine", "_execution", "_input", "_pivot")

    def __init__(
        self, execution: SagaExecution, activity: Activity[Any, R], input: Any, pivot: bool
    ) -> None:
        self._execution = execution
        self._activity = activity
        self._input = input
        self._pivot = pivot
        self._coroutine: Coroutine[Any, Any, R] | None = None

    def _begun(self) -> Coroutine[Any, Any, R]:
        if self._coroutine is None:
            self._coroutine = self._execution.run_step(
                self._activity, self._input, pivot=self._pivot
            )
        return self._coroutine

    def __await__(self) -> Generator[Any, None, R]:
        return self._begun().__await__()

    def send(self, value: Any, /) -> Any:
        """See `collections.abc.Coroutine`; asyncio calls it."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """See `collections.abc.Coroutine`; asyncio calls it."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """See `collections.abc.Coroutine`; asyncio calls it."""
        self._begun().close()

    def __del__(self) -> None:
        if self._coroutine is None and not self._execution.discarded:
            warnings.warn(
                f"ctx.do({self._activity.name}, …) was never awaited, so the step never ran",
                RuntimeWarning,
                stacklevel=2,
            )


class SagaContext:
    """A saga's only way out. Everything it gives is the same on every replay."""

    def __init__(self, execution: SagaExecution) -> None:
        self._execution = execution
        self._random: random.Random | None = None

    @property
    def instance(self) -> InstanceId:
        """The name of this instance."""
        return self._execution.instance

    @property
    def id(self) -> str:
        """The id that this instance was started under."""
        return self._execution.instance.id

    @overload
    def do(self, activity: Activity[None, R], /, *, pivot: bool = False) -> StepCall[R]: ...
    @overload
    def do(self, activity: Activity[I, R], input: I, /, *, pivot: bool = False) -> StepCall[R]: ...
    def do(
        self, activity: Activity[Any, R], input: Any = None, /, *, pivot: bool = False
    ) -> StepCall[R]:
        """Run an activity as a durable step: `receipt = await ctx.do(withdraw, Withdraw(…))`.

        The step's undo, if its activity has one, is on record before the step runs.
        `pivot=True` makes it the point of no return: once it is completed, the saga only goes
        forward, and steps after it succeed or wait for a person.

        Raises, when awaited:
            StepFailed: the effect did not happen, and no attempt is left.
            StepUnknown: the effect may have happened, and no attempt is left.
            InvalidPayload, PayloadTooLarge: the input does not fit; nothing was scheduled.
            NotRegistered: the application lacks the activity; nothing was scheduled.
        """
        return StepCall(self._execution, activity, input, pivot)

    def emit(self, event: BaseModel) -> None:
        """Put a domain event of your own on record, in the same append as this turn's decisions
        (or, if they are more than one append holds, in the order in which they were taken).

        Raises InvalidPayload, PayloadTooLarge.
        """
        self._execution.emit(event)

    async def receive(self, signal: Signal[T]) -> T:
        """The next signal of a kind, in order of arrival; waits for it."""
        raw = await self._execution.next_signal(signal.name)
        return cast(T, signal.payload.from_json_value(raw))

    def on(self, signal: Signal[T], handler: Callable[[T], None]) -> None:
        """Call `handler` for every signal of a kind, those that came before included.

        It takes signals away from `receive`. Use it with `wait_until`.
        """
        self._execution.on_signal(
            signal.name, lambda raw: handler(cast(T, signal.payload.from_json_value(raw)))
        )

    def wait_until(self, condition: Callable[[], bool]) -> Awaitable[None]:
        """Wait until a condition over the saga's own variables holds.

        It is looked at whenever the saga has come to rest; it must be quick and change nothing.
        """
        return self._execution.wait_until(condition)

    async def sleep_until(self, when: datetime) -> None:
        """Sleep until a moment, which may be years ahead; past moments return at once."""
        await self._execution.sleep_until(when)

    def now(self) -> datetime:
        """The time of the input that the saga is handling, in UTC."""
        return self._execution.now()

    @property
    def random(self) -> random.Random:
        """A random source of this instance's own; not for secrets."""
        if self._random is None:
            self._random = random.Random(str(self._execution.instance))
        return self._random

    def uuid(self) -> UUID:
        """A new UUID (version 4 in form), drawn from `random`."""
        return UUID(int=self.random.getrandbits(128), version=4)

"""What an activity is: a function with effects, its queue, its policies, its undo and its probe."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from types import EllipsisType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

from amends.domain.events import StepKind
from amends.domain.ids import check_name
from amends.domain.payload import Payload
from amends.domain.retry import Retry
from amends.domain.signature import Signature, admits_or_none, read_signature
from amends.errors import DefinitionError

I = TypeVar("I")
R = TypeVar("R")

OnUnknown = Literal["raise", "park"]

ATTEMPT_TIMEOUT_S = 60.0
DEFAULT_RETRY = Retry()
#: An undo must happen: it is tried for some hours before a person is asked.
UNDO_RETRY = Retry(max_attempts=20, max_interval_s=900.0)


class Happened(Generic[R]):
    """A probe's answer: the effect happened, and this was its result."""

    __slots__ = ("result",)

    def __init__(self, result: R) -> None:
        self.result = result


class DidNotHappen:
    """A probe's answer: the effect did not happen, and will not happen any more."""

    __slots__ = ()


_Answer: TypeAlias = Awaitable[Happened[R] | DidNotHappen] | Happened[R] | DidNotHappen


class Activity(Generic[I, R]):
    """A function with effects that sagas call as a step: `await ctx.do(activity, input)`.

    Its effect happens at least once per step; `activity_context().idempotency_key`, the same on
    every attempt, makes it once. Call the activity itself to run the bare function, in a test
    say.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None,
        queue: str,
        retry: Retry,
        timeout_s: float | None,
        total_timeout_s: float | None,
        on_unknown: OnUnknown = "raise",
        undo_failed: bool = False,
        kind: StepKind = StepKind.STEP,
        origin: Activity[Any, Any] | None = None,
        frame_locals: dict[str, Any] | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        self.queue = queue
        self.retry = retry
        self.timeout_s = timeout_s
        self.total_timeout_s = total_timeout_s
        self.on_unknown = on_unknown
        self.undo_failed = undo_failed
        self.kind = kind
        self.origin = origin
        self.undo_activity: Activity[Any, Any] | None = None
        self.probe_activity: Activity[Any, Any] | None = None
        self.is_async = inspect.iscoroutinefunction(fn)
        check_name("activity", self.name)
        check_name("queue", queue)
        for what, seconds in (("timeout", timeout_s), ("total_timeout", total_timeout_s)):
            if seconds is not None and seconds <= 0:
                raise DefinitionError(f"activity {self.name!r}: {what} must be above 0 seconds")
        self._signature: Signature | None = read_signature(fn, frame_locals)
        self._input: Payload[Any] | None = None
        self._result: Payload[Any] | None = None
        self._check_parameters()

    def __call__(self, *args: Any) -> Any:
        """Run the bare function, without the engine."""
        return self.fn(*args)

    def __repr__(self) -> str:
        return f"<activity {self.name}>"

    # --- types

    @property
    def signature(self) -> Signature:
        """Parameters and types of the function. Raises DefinitionError while a name is undefined."""
        if self._signature is None:
            self._signature = read_signature(self.fn, None, must=True)
        return cast(Signature, self._signature)

    @property
    def input(self) -> Payload[Any]:
        """The type of the input; None for an activity without one."""
        if self._input is None:
            types = self.signature.parameter_types
            self._input = Payload(types[0] if types else type(None))
        return self._input

    @property
    def result(self) -> Payload[Any]:
        """The type of the result; of a probe, that of the step it is about."""
        if self.kind is StepKind.PROBE and self.origin is not None:
            return self.origin.result
        if self._result is None:
            self._result = Payload(self.signature.result_type)
        return self._result

    def check(self) -> None:
        """Resolve every type. Raises DefinitionError with what is wrong."""
        _ = self.input
        if self.kind is not StepKind.PROBE:
            _ = self.result
        for other in (self.undo_activity, self.probe_activity):
            if other is not None:
                other.check()
        if self.kind is StepKind.UNDO:
            self._check_undo_types()

    def arguments(self, input: Any, result: Any) -> list[Any]:
        """The decoded arguments of the function, from JSON values. Raises InvalidPayload."""
        origin = self.origin or self
        wanted = len(self.signature.parameter_types)
        if self.kind is not StepKind.UNDO:
            return [origin.input.from_json_value(input)] if wanted else []
        undone = None if result is None else origin.result.from_json_value(result)
        return [origin.input.from_json_value(input), undone]

    # --- pairing

    @overload
    def undo(self, fn: Callable[[I, R | None], Awaitable[None] | None], /) -> Undo: ...
    @overload
    def undo(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = ATTEMPT_TIMEOUT_S,
    ) -> Callable[[Callable[[I, R | None], Awaitable[None] | None]], Undo]: ...
    def undo(
        self,
        fn: Callable[[I, R | None], Awaitable[None] | None] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = ATTEMPT_TIMEOUT_S,
    ) -> Any:
        """Pair this activity with what makes it good: `undo(input, result)`.

        `result` is None when nobody knows whether the effect happened: undoing what never
        happened must be safe. It is retried by `retry` (default: 20 attempts over some hours),
        and parks the saga for a person when that is used up.
        """
        frame_locals = sys._getframe(1).f_locals

        def pair(fn: Callable[[I, R | None], Awaitable[None] | None]) -> Undo:
            if self.undo_activity is not None:
                raise DefinitionError(f"activity {self.name!r} has an undo already")
            undo = Undo(
                fn,
                name=name,
                queue=queue or self.queue,
                retry=retry or UNDO_RETRY,
                timeout_s=timeout,
                total_timeout_s=None,
                kind=StepKind.UNDO,
                origin=self,
                frame_locals=frame_locals,
            )
            self.undo_activity = undo
            return undo

        return pair if fn is None else pair(fn)

    @overload
    def probe(self, fn: Callable[[I], _Answer[R]], /) -> Activity[I, Any]: ...
    @overload
    def probe(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: Retry | None = None,
        timeout: float | EllipsisType | None = ...,
    ) -> Callable[[Callable[[I], _Answer[R]]], Activity[I, Any]]: ...
    def probe(
        self,
        fn: Callable[[I], _Answer[R]] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: Retry | None = None,
        timeout: float | EllipsisType | None = ...,
    ) -> Any:
        """Pair this activity with a question to the outside: did it happen?

        It is asked when the outcome is unknown, with the idempotency key of the step in
        `activity_context().origin_key`, and answers `Happened(result)` or `DidNotHappen()`.
        Its queue, retries and timeout are those of the activity, unless it is given its own.
        """
        frame_locals = sys._getframe(1).f_locals

        def pair(fn: Callable[[I], _Answer[R]]) -> Activity[I, Any]:
            if self.probe_activity is not None:
                raise DefinitionError(f"activity {self.name!r} has a probe already")
            self.probe_activity = Activity(
                fn,
                name=name,
                queue=queue or self.queue,
                retry=retry or self.retry,
                timeout_s=self.timeout_s if timeout is ... else timeout,
                total_timeout_s=None,
                kind=StepKind.PROBE,
                origin=self,
                frame_locals=frame_locals,
            )
            return self.probe_activity

        return pair if fn is None else pair(fn)

    # --- checks

    def _check_parameters(self) -> None:
        parameters = inspect.signature(self.fn).parameters
        names = [name for name, parameter in parameters.items() if parameter.kind in _POSITIONAL]
        if self.kind is StepKind.UNDO:
            if len(names) != 2 or any(map(_is_never_given, parameters.values())):
                raise DefinitionError(
                    f"undo {self.name!r} of {_name(self.origin)!r} takes "
                    f"({', '.join(map(str, parameters.values()))}); it must take two: the input "
                    "of the step, and its result or None"
                )
        elif len(names) > 1 or len(parameters) != len(names):
            raise DefinitionError(
                f"{self.kind} {self.name!r} takes ({', '.join(names)}); an activity takes one "
                "input (a pydantic model, say) or none"
            )

    def _check_undo_types(self) -> None:
        assert self.origin is not None
        wanted = [*(self.origin.signature.parameter_types[:1] or (type(None),))]
        found = self.signature.parameter_types
        if found[0] != wanted[0]:
            raise DefinitionError(
                f"undo {self.name!r} takes {found[0]!r} first, but {self.origin.name!r}, which "
                f"it undoes, takes {wanted[0]!r}"
            )
        result = self.origin.signature.result_type
        if not admits_or_none(found[1], result):
            raise DefinitionError(
                f"undo {self.name!r} must take `result: {_shown(result)} | None` and takes "
                f"{_shown(found[1])}: None is what it gets when nobody knows whether the effect "
                "happened"
            )


class Undo(Activity[Any, None]):
    """An activity that makes another one good. Sagas do not call it; compensation does."""


def _name(activity: Activity[Any, Any] | None) -> str:
    return activity.name if activity is not None else "?"


def _shown(tp: Any) -> str:
    return getattr(tp, "__name__", None) or str(tp)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_never_given(parameter: inspect.Parameter) -> bool:
    """Whether a parameter asks for what the engine does not give."""
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        return parameter.default is inspect.Parameter.empty
    return parameter.kind is inspect.Parameter.VAR_POSITIONAL


class _ActivityDecorator:
    """The type of `activity(...)` with options: takes async and sync functions alike."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @overload
    def __call__(self, fn: Callable[[I], Awaitable[R]]) -> Activity[I, R]: ...
    @overload
    def __call__(self, fn: Callable[[], Awaitable[R]]) -> Activity[None, R]: ...
    @overload
    def __call__(self, fn: Callable[[I], R]) -> Activity[I, R]: ...
    @overload
    def __call__(self, fn: Callable[[], R]) -> Activity[None, R]: ...
    def __call__(self, fn: Callable[..., Any]) -> Activity[Any, Any]:
        return Activity(fn, frame_locals=sys._getframe(1).f_locals, **self._options)


@overload
def activity(fn: Callable[[I], Awaitable[R]], /) -> Activity[I, R]: ...
@overload
def activity(fn: Callable[[], Awaitable[R]], /) -> Activity[None, R]: ...
@overload
def activity(fn: Callable[[I], R], /) -> Activity[I, R]: ...
@overload
def activity(fn: Callable[[], R], /) -> Activity[None, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    queue: str = "default",
    retry: Retry = DEFAULT_RETRY,
    timeout: float | None = ATTEMPT_TIMEOUT_S,
    total_timeout: float | None = None,
    on_unknown: OnUnknown = "raise",
    undo_failed: bool = False,
) -> _ActivityDecorator: ...
def activity(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str = "default",
    retry: Retry = DEFAULT_RETRY,
    timeout: float | None = ATTEMPT_TIMEOUT_S,
    total_timeout: float | None = None,
    on_unknown: OnUnknown = "raise",
    undo_failed: bool = False,
) -> Any:
    """Declare an activity. A plain function runs in a thread.

    Args:
        fn: the function: one input, or none, and a result that JSON can carry.
        name: its name on the journal; default: the function's.
        queue: the command queue whose consumers run it.
        retry: when and how often an attempt that failed is repeated.
        timeout: seconds that one attempt may take; then its outcome is unknown.
        total_timeout: seconds that all attempts together may take, waiting included.
        on_unknown: what happens when the outcome stays unknown: "raise" `StepUnknown` in the
            saga (so that its undo runs), or "park" the saga until a person decides.
        undo_failed: run the undo also when the step *failed*, for effects that can half happen.

    Raises:
        DefinitionError: the signature or an option does not fit.
    """
    options: dict[str, Any] = {
        "name": name,
        "queue": queue,
        "retry": retry,
        "timeout_s": timeout,
        "total_timeout_s": total_timeout,
        "on_unknown": on_unknown,
        "undo_failed": undo_failed,
    }
    if fn is None:
        return _ActivityDecorator(options)
    return Activity(fn, frame_locals=sys._getframe(1).f_locals, **options)

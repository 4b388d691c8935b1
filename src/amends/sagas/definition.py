"""What a saga is: an `async def` over a `SagaContext` and one input, and its policies."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Literal, TypeVar, cast, overload

from pydantic import BaseModel

from amends.domain.codec import EncodedEvent, EventRegistry, event_name
from amends.domain.ids import check_name
from amends.domain.named import named_by
from amends.domain.payload import Payload
from amends.domain.signature import Signature, read_signature
from amends.errors import DefinitionError
from amends.sagas.context import SagaContext
from amends.sagas.journal import RESERVED_TYPES
from amends.sagas.lint import check_source
from amends.sagas.signals import Signal

I = TypeVar("I")
R = TypeVar("R")

Compensate = Literal["in_reverse", "in_parallel"]


class Saga(Generic[I, R]):
    """A workflow that is compensated when it fails. Made by `@saga`; started by a client."""

    def __init__(
        self,
        fn: Callable[[SagaContext, I], Coroutine[Any, Any, R]],
        *,
        name: str | None,
        deadline_s: float | None,
        compensate: Compensate,
        frame_locals: dict[str, Any] | None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        self.deadline_s = deadline_s
        self.compensate: Compensate = compensate
        check_name("saga", self.name)
        if not inspect.iscoroutinefunction(fn):
            raise DefinitionError(f"saga {self.name!r} must be an `async def`")
        if deadline_s is not None and deadline_s <= 0:
            raise DefinitionError(f"saga {self.name!r}: deadline must be above 0 seconds")
        self._parameters = list(inspect.signature(fn).parameters.values())
        if len(self._parameters) not in (1, 2):
            raise DefinitionError(
                f"saga {self.name!r} takes {len(self._parameters)} parameters; it must take a "
                "SagaContext and at most one input (a pydantic model, say)"
            )
        self._signature = read_signature(fn, frame_locals)
        self._input: Payload[Any] | None = None
        self._result: Payload[Any] | None = None
        self._events = EventRegistry()
        self.signals: dict[str, Signal[Any]] = {}
        """The signals that its own source names: what is sent is checked against their types."""

    def __repr__(self) -> str:
        return f"<saga {self.name}>"

    @property
    def signature(self) -> Signature:
        """The function's types. Raises DefinitionError while a name in them is undefined."""
        if self._signature is None:
            self._signature = read_signature(self.fn, None, must=True)
        return cast(Signature, self._signature)

    @property
    def input(self) -> Payload[Any]:
        """The type of the input; None for a saga without one."""
        if self._input is None:
            types = self.signature.parameter_types
            self._input = Payload(types[1] if len(types) > 1 else type(None))
        return self._input

    @property
    def result(self) -> Payload[Any]:
        """The type of the result."""
        if self._result is None:
            self._result = Payload(self.signature.result_type)
        return self._result

    def check(self) -> None:
        """Resolve every type, and read the source for what a replay could not repeat.

        Raises DefinitionError and NotAllowedInSaga with what is wrong. Done when the saga joins
        an application and not before: only then is everything defined that it calls.
        """
        _ = self.input, self.result
        check_source(self.fn)
        signals = (named for named in named_by(self.fn) if isinstance(named, Signal))
        self.signals = {signal.name: signal for signal in signals}

    def encode_event(self, event: BaseModel) -> EncodedEvent:
        """A domain event that the saga emits. Raises DefinitionError, InvalidPayload."""
        if type(event) not in self._events:
            if event_name(type(event)).type in RESERVED_TYPES:
                raise DefinitionError(
                    f"{type(event).__name__} is a name of the journal's own; give the event "
                    "another: @event(name=…)"
                )
            self._events.add(type(event))
        return self._events.encode(event)

    def call(self, ctx: SagaContext, input: Any) -> Coroutine[Any, Any, Any]:
        """The coroutine of one execution, from the JSON value of the input."""
        if len(self._parameters) == 1:
            return cast(Any, self.fn)(ctx)  # type: ignore[no-any-return]
        return self.fn(ctx, self.input.from_json_value(input))


class _SagaDecorator:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @overload
    def __call__(self, fn: Callable[[SagaContext, I], Coroutine[Any, Any, R]]) -> Saga[I, R]: ...
    @overload
    def __call__(self, fn: Callable[[SagaContext], Coroutine[Any, Any, R]]) -> Saga[None, R]: ...
    def __call__(self, fn: Callable[..., Any]) -> Saga[Any, Any]:
        return Saga(fn, frame_locals=sys._getframe(1).f_locals, **self._options)


@overload
def saga(fn: Callable[[SagaContext, I], Coroutine[Any, Any, R]], /) -> Saga[I, R]: ...
@overload
def saga(fn: Callable[[SagaContext], Coroutine[Any, Any, R]], /) -> Saga[None, R]: ...
@overload
def saga(
    *,
    name: str | None = None,
    deadline: float | None = None,
    compensate: Compensate = "in_reverse",
) -> _SagaDecorator: ...
def saga(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    deadline: float | None = None,
    compensate: Compensate = "in_reverse",
) -> Any:
    """Declare a saga.

    Args:
        fn: `async def fn(ctx: SagaContext, input: Input) -> Result`.
        name: its name in journals and on the command line; default: the function's.
        deadline: seconds from its start after which it is compensated (until its pivot).
        compensate: undo step by step "in_reverse" (last in, first out), or all "in_parallel".

    Raises:
        DefinitionError: the signature or an option does not fit.
    """
    options: dict[str, Any] = {"name": name, "deadline_s": deadline, "compensate": compensate}
    if fn is None:
        return _SagaDecorator(options)
    return Saga(fn, frame_locals=sys._getframe(1).f_locals, **options)

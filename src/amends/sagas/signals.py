"""Signals: typed messages that reach a running saga from outside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Generic, TypeVar, overload

from amends.domain.ids import check_name
from amends.domain.payload import Payload

T = TypeVar("T")


class Signal(Generic[T]):
    """A kind of message that a saga can receive: `approved = Signal("approved", Approval)`.

    Signals are kept until the saga asks for them, in the order in which they arrived.
    """

    @overload
    def __init__(self, name: str, type: type[T]) -> None: ...
    @overload
    def __init__(self: Signal[Any], name: str, type: object) -> None: ...
    def __init__(self, name: str, type: Any) -> None:
        check_name("signal", name)
        self.name = name
        self.type = type
        self._payload: Payload[Any] | None = None

    @property
    def payload(self) -> Payload[Any]:
        """The type of what it carries."""
        if self._payload is None:
            self._payload = Payload(self.type)
        return self._payload

    def __repr__(self) -> str:
        return f"<signal {self.name}>"


class SignalBox:
    """The signals of one execution: kept until the saga takes them, in order of arrival."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._context = context
        self._kept: dict[str, deque[Any]] = {}
        self._receivers: dict[str, deque[asyncio.Future[Any]]] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {}

    @property
    def is_listening(self) -> bool:
        """Whether the saga waits for a signal, or has a handler for one."""
        return bool(self._handlers) or any(self._receivers.values())

    def put(self, name: str, payload: Any) -> None:
        """A signal arrived: to its handler, else to who waits longest, else it is kept."""
        if not self._hand_over(name, payload):
            self._kept.setdefault(name, deque()).append(payload)

    def _hand_over(self, name: str, payload: Any) -> bool:
        handler = self._handlers.get(name)
        if handler is not None:
            self._loop.call_soon(handler, payload, context=self._context)
            return True
        receivers = self._receivers.get(name)
        while receivers:
            future = receivers.popleft()
            if not future.done():
                future.set_result(payload)
                return True
        return False

    async def next(self, name: str) -> Any:
        """The payload of the next signal of a name.

        A signal that was handed to a receiver which was cancelled in the same moment goes to the
        next one, or back to the front.
        """
        kept = self._kept.get(name)
        if kept:
            return kept.popleft()
        future = self._loop.create_future()
        receivers = self._receivers.setdefault(name, deque())
        receivers.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future in receivers:
                receivers.remove(future)
            elif not future.cancelled():
                payload = future.result()
                if not self._hand_over(name, payload):
                    self._kept.setdefault(name, deque()).appendleft(payload)
            raise

    def on(self, name: str, handler: Callable[[Any], None]) -> None:
        """Hand every signal of a name to `handler`, those that were kept included."""
        self._handlers[name] = handler
        for payload in self._kept.pop(name, ()):
            handler(payload)

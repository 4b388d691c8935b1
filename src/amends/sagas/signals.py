"""Signals: typed messages that reach a running saga from outside."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from amends.domain.ids import check_name
from amends.domain.payload import Payload

T = TypeVar("T")


class Signal(Generic[T]):
    """A kind of message that a saga can receive: `approved = Signal("approved", Approval)`.

    Signals are kept until the saga asks for them, in the order in which they arrived.
    """

    def __init__(self, name: str, type: type[T]) -> None:
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

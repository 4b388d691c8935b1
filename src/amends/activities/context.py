"""What an activity can know about the attempt that it is."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from amends.domain.ids import InstanceId
from amends.errors import UsageError


@dataclass(frozen=True, slots=True)
class ActivityContext:
    """One attempt of one step.

    `idempotency_key` is the same on every attempt of the step, and on every undo of one step
    (there can be two, when a result came late): hand it to the outside world, so
    that the effect happens once. `origin_key` is, for an undo or a probe, the idempotency key of
    the step that it is about. `deadline` is when this attempt will be given up (None: never).
    """

    instance: InstanceId
    activity: str
    seq: int
    attempt: int
    idempotency_key: str
    origin_key: str | None
    deadline: datetime | None
    correlation_id: str
    command_id: str
    repositories: object = None
    """Behind `amends.aggregates`; None without an engine."""


_current: ContextVar[ActivityContext | None] = ContextVar("amends_activity", default=None)


def activity_context() -> ActivityContext:
    """The attempt that the calling activity is. Raises UsageError outside an activity."""
    context = _current.get()
    if context is None:
        raise UsageError("activity_context() is only there inside an activity that a step runs")
    return context


def set_activity_context(context: ActivityContext | None) -> None:
    """Set it for the running task and what it starts; the consumer and tests do."""
    _current.set(context)

"""The one word for where a saga instance stands."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from amends.domain import events as e


class Status(StrEnum):
    """Where an instance stands."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    PARKED = "parked"
    STALLED = "stalled"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"

    @property
    def is_final(self) -> bool:
        """Whether the instance has ended."""
        return self in FINAL_STATUSES


FINAL_STATUSES: Final = frozenset(
    (Status.COMPLETED, Status.COMPENSATED, Status.FAILED, Status.CANCELLED, Status.TERMINATED)
)


def status_of(*, final: Status | None, parked: bool, stalled: bool, compensating: bool) -> Status:
    """The one word for an instance that ended so (or not yet), has a parked step, and so on."""
    if final is Status.TERMINATED:
        return final
    # What a late report asks for after the end may park or stall as well.
    if parked:
        return Status.PARKED
    if stalled:
        return Status.STALLED
    if final is not None:
        return final
    return Status.COMPENSATING if compensating else Status.RUNNING


class Ending(NamedTuple):
    """How an instance ended: with a result (a JSON value), or for a reason."""

    status: Status
    result: Any = None
    error: e.ErrorInfo | None = None


def ending_of(event: e.JournalEvent) -> Ending | None:
    """The ending that an event of a journal is, or None if it is another event."""
    if isinstance(event, e.SagaCompleted):
        return Ending(Status.COMPLETED, result=event.result)
    if isinstance(event, e.SagaCompensated):
        return Ending(Status.COMPENSATED, error=event.error)
    if isinstance(event, e.SagaFailed):
        return Ending(Status.FAILED, error=event.error)
    if isinstance(event, e.SagaCancelled):
        return Ending(Status.CANCELLED)
    if isinstance(event, e.SagaTerminated):
        reason = e.ErrorInfo(type="Terminated", message=f"by {event.who}: {event.why}")
        return Ending(Status.TERMINATED, error=reason)
    return None


_AFTER_THE_END: Final = (
    e.StepReportedLate,
    e.StepScheduled,
    e.StepCompleted,
    e.StepAttemptFailed,
    e.StepRetried,
    e.StepAbandoned,
    e.StepFailed,
    e.StepUnknown,
    e.StepParked,
    e.StepResolved,
    e.SagaStalled,
    e.SagaResumed,
    e.TurnSplit,
)


def may_follow_the_end(event: e.JournalEvent) -> bool:
    """Whether a journal may hold the event after its final one: late reports, and the undos that
    they ask for, but nothing that only a running saga decides or takes in.
    """
    if isinstance(event, e.StepScheduled):
        return event.kind is not e.StepKind.STEP
    return isinstance(event, _AFTER_THE_END)

"""The events of a saga's journal: facts, in the past tense.

*Input events* reached the saga from outside; replay feeds them to the code. *Output events* are
decisions of the code; replay compares them. *Notes* are the engine's own and neither. A domain
event that a saga emits stands in the journal under its own type; `DomainEventEmitted` is its form
in memory.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class JournalEvent(BaseModel):
    """Base of everything that stands in a journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputEvent(JournalEvent):
    """A fact that reached the saga from outside. `at` is the saga's time while it handles it;
    it never goes back within a journal.
    """

    at: datetime


class OutputEvent(JournalEvent):
    """A decision that the saga took. `seq` numbers its decisions from 1; 0 is the saga itself."""

    seq: int


class Note(JournalEvent):
    """Something the engine wrote down for people; replay passes over it."""

    at: datetime


class ErrorInfo(BaseModel):
    """An error that crossed a process: its class name, its text, and where it was raised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    message: str
    traceback: str | None = None
    declared: bool = False
    """Whether it is a `Failure`: a refusal by the business, which is never retried."""


class StepKind(StrEnum):
    """What a step is for."""

    STEP = "step"
    UNDO = "undo"
    PROBE = "probe"


class AttemptOutcome(StrEnum):
    """How one attempt ended without a result."""

    FAILED = "failed"
    TIMED_OUT = "timed_out"
    VANISHED = "vanished"


class AfterUnknown(StrEnum):
    """What happens to a step whose outcome is unknown."""

    PROBE = "probe"
    RAISE = "raise"
    PARK = "park"


class Resolution(StrEnum):
    """What a person decided about a parked step."""

    RETRY = "retry"
    SKIP = "skip"
    COMPLETE = "complete"


CompensationReason = Literal["failed", "cancelled", "deadline"]

# --- inputs ------------------------------------------------------------------------------------


class SagaStarted(InputEvent):
    """The first event of every journal."""

    saga: str
    id: str
    input: Any
    deadline: datetime | None = None


class StepCompleted(InputEvent):
    """An attempt reported a result; the step is over."""

    seq: int
    attempt: int
    result: Any = None


class StepAttemptFailed(InputEvent):
    """An attempt ended without a result. `retry_at` is when the next one is due; None means that
    there will be none, and the event after this one says how the step ended.
    """

    seq: int
    attempt: int
    outcome: AttemptOutcome
    error: ErrorInfo
    retry_at: datetime | None = None


class StepRetried(InputEvent):
    """The backoff is over, and the next attempt was asked for. From here on it may be running."""

    seq: int
    attempt: int


class StepFailed(InputEvent):
    """The step is over: its activity or its probe said that the effect did not happen."""

    seq: int
    error: ErrorInfo


class StepUnknown(InputEvent):
    """The step is over for now: its effect may or may not have happened. After a late report,
    also of a step that had failed.
    """

    seq: int
    error: ErrorInfo
    then: AfterUnknown


class StepParked(InputEvent):
    """The step waits for a person's decision. It may have been over already: a pivot that was
    refused and happened after all.
    """

    seq: int
    error: ErrorInfo


class StepResolved(InputEvent):
    """A person decided about a parked step."""

    seq: int
    resolution: Resolution
    who: str
    why: str
    result: Any = None


class StepReportedLate(InputEvent):
    """An attempt reported after it, or its step, was over.

    `completed` says whether the effect happened; `outcome` is there when nobody knows.
    """

    seq: int
    attempt: int
    completed: bool
    result: Any = None
    error: ErrorInfo | None = None
    outcome: AttemptOutcome | None = None


class TimerFired(InputEvent):
    """A timer came due; `seq` 0 is the deadline of the whole saga."""

    seq: int


class SignalReceived(InputEvent):
    """A message from outside."""

    name: str
    payload: Any = None


class CancelRequested(InputEvent):
    """Somebody asked for the saga to be cancelled, which compensates it."""

    who: str
    why: str


class SagaTerminated(InputEvent):
    """An operator ended the saga on the spot: nothing was undone."""

    who: str
    why: str


# --- outputs -----------------------------------------------------------------------------------


class StepScheduled(OutputEvent):
    """The saga asked for an activity to be run.

    `undo` names the activity that makes the effect good: it is on record before the step runs.
    An undo or a probe names the step it is `of`, and takes its input from there.
    """

    activity: str
    queue: str
    kind: StepKind = StepKind.STEP
    of: int | None = None
    input: Any = None
    undo: str | None = None
    undo_failed: bool = False
    pivot: bool = False
    deadline: datetime | None = None


class StepAbandoned(OutputEvent):
    """The saga stopped waiting for a step (a timeout or a cancellation inside the saga)."""


class TimerStarted(OutputEvent):
    """The saga waits for a moment."""

    due: datetime


class TimerCancelled(OutputEvent):
    """The saga no longer waits for a moment."""


class DomainEventEmitted(OutputEvent):
    """A domain event of the user's own. In the store it stands under its own type."""

    type: str
    schema_version: int
    data: Any


class CompensationStarted(OutputEvent):
    """From here on the saga makes good what it did."""

    reason: CompensationReason
    error: ErrorInfo | None = None


class SagaCompleted(OutputEvent):
    """The saga reached its end and has a result."""

    result: Any = None


class SagaCompensated(OutputEvent):
    """The saga failed, and everything it had done was made good."""

    error: ErrorInfo


class SagaFailed(OutputEvent):
    """The saga failed, and there was nothing to undo."""

    error: ErrorInfo


class SagaCancelled(OutputEvent):
    """The saga was cancelled, and everything it had done was made good."""

    undone: int


# --- notes -------------------------------------------------------------------------------------


class SagaStalled(Note):
    """The saga's code is wrong: nothing is compensated; it is tried again with backoff.

    `since` is the version of the first event whose decisions are not on record, and those of
    what follows are not either: they come when the saga goes on. It is None on further notes
    about the same stall.
    """

    error: ErrorInfo
    since: int | None = None


class SagaResumed(Note):
    """The saga went on after it had been stalled."""


class TurnSplit(Note):
    """The turn's decisions go on in the next append: they are more than one holds."""


FINAL_EVENTS: tuple[type[JournalEvent], ...] = (
    SagaCompleted,
    SagaCompensated,
    SagaFailed,
    SagaCancelled,
    SagaTerminated,
)

JOURNAL_EVENTS: tuple[type[JournalEvent], ...] = (
    SagaStarted,
    StepCompleted,
    StepAttemptFailed,
    StepRetried,
    StepFailed,
    StepUnknown,
    StepParked,
    StepResolved,
    StepReportedLate,
    TimerFired,
    SignalReceived,
    CancelRequested,
    SagaTerminated,
    StepScheduled,
    StepAbandoned,
    TimerStarted,
    TimerCancelled,
    CompensationStarted,
    SagaCompleted,
    SagaCompensated,
    SagaFailed,
    SagaCancelled,
    SagaStalled,
    SagaResumed,
    TurnSplit,
)
"""Every type that stands in a journal under its class name."""

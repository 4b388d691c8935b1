"""One step of an instance, as its journal tells of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from amends.domain import events as e


class Outcome(StrEnum):
    """How a step ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


class StepState:
    """One step: what was asked, and what came of it so far."""

    __slots__ = (
        "abandoned",
        "attempts_before",
        "deadline",
        "doubtful",
        "error",
        "failed_attempts",
        "given",
        "input",
        "last_outcome",
        "late",
        "outcome",
        "parked",
        "probing",
        "renewals",
        "result",
        "retry_at",
        "scheduled",
        "told",
        "tried_since",
        "undo_given",
        "undo_scheduled",
        "unsure_attempts",
    )

    def __init__(self, scheduled: e.StepScheduled, at: datetime) -> None:
        self.scheduled = scheduled
        self.tried_since = at
        self.deadline = scheduled.deadline
        """When its attempts must be over. A person's `retry` gives it all its time again."""
        self.input: Any = scheduled.input
        self.given: Any = None
        """For an undo: the result of the step it undoes, as known when it was scheduled."""
        self.failed_attempts = 0
        self.last_outcome: e.AttemptOutcome | None = None
        self.attempts_before = 0
        """Attempts that a person's `retry` wrote off; the retry policy starts anew after them."""
        self.renewals = 0
        """How often a person's `retry` gave it all its attempts and its time again."""
        self.retry_at: datetime | None = None
        self.doubtful = False
        """Whether an attempt ended without anybody knowing if the effect happened."""
        self.unsure_attempts: frozenset[int] = frozenset()
        """Those that reported so. A second such report of one attempt is taken for a copy."""
        self.parked = False
        self.probing = False
        self.abandoned = False
        self.outcome: Outcome | None = None
        self.told: Outcome | None = None
        """What the saga was told of it, once it was. It goes on from there, whatever a late report
        says: that can only be made good.
        """
        self.result: Any = None
        self.error: e.ErrorInfo | None = None
        self.late = False
        self.undo_scheduled = False
        self.undo_given = False
        """Whether an undo was scheduled, and whether it knew the result."""

    def adopt(self, recorded: e.StepScheduled) -> None:
        """Keep to the policies that are on record, whatever today's code says of them."""
        self.scheduled = recorded
        self.deadline = recorded.deadline
        if recorded.of is None:
            self.input = recorded.input

    def begin_again(self, scheduled: e.StepScheduled, at: datetime) -> None:
        """It was decided while the saga was stalled, and only now is it asked for."""
        self.adopt(scheduled)
        self.tried_since = at

    @property
    def seq(self) -> int:
        """The step's number."""
        return self.scheduled.seq

    @property
    def kind(self) -> e.StepKind:
        """What the step is for."""
        return self.scheduled.kind

    @property
    def is_open(self) -> bool:
        """Whether the step may still be running or is waiting for its next attempt."""
        return self.outcome is None

    @property
    def attempt(self) -> int:
        """The number of the attempt that is running or due next."""
        return self.failed_attempts + 1

    @property
    def is_in_backoff(self) -> bool:
        """Whether no attempt can be running: the next one was not asked for yet."""
        return self.retry_at is not None

    @property
    def is_unwanted(self) -> bool:
        """Whether the saga went on without this step, whose effect may stand, and something can
        make it good: it gave the step up, or was told that it was not done.
        """
        if self.scheduled.undo is None or self.kind is not e.StepKind.STEP:
            return False
        went_on = self.abandoned or self.told not in (None, Outcome.COMPLETED)
        return went_on and self.outcome in (None, Outcome.UNKNOWN, Outcome.COMPLETED)

    @property
    def may_surprise(self) -> bool:
        """Whether a late report could say that an effect stands, or may, which nobody counts on
        and something or somebody should make good.
        """
        if self.kind is not e.StepKind.STEP or self.outcome is Outcome.COMPLETED:
            return False
        return self.scheduled.undo is not None or self.scheduled.pivot

    @property
    def is_undone(self) -> bool:
        """Whether an undo was scheduled that knew all that is known."""
        return self.undo_scheduled and (self.undo_given or self.outcome is not Outcome.COMPLETED)

    def has_recorded(self, attempt: int, outcome: e.AttemptOutcome) -> bool:
        """Whether a report that says so is a copy. Two runs of one attempt may end differently:
        that the later one failed for sure is worth knowing when the other timed out, and that it
        timed out, when the other failed.
        """
        if outcome is not e.AttemptOutcome.FAILED and attempt not in self.unsure_attempts:
            return False
        last = (self.failed_attempts, self.last_outcome)
        return attempt < self.failed_attempts or (attempt, outcome) == last

    def ended_unsure(self, attempt: int) -> None:
        """Nobody knows what this attempt did."""
        self.doubtful = True
        self.unsure_attempts |= {attempt}

    @property
    def needs_undo(self) -> bool:
        """Whether the effect happened or may have happened, and something can make it good."""
        if self.scheduled.undo is None or self.kind is not e.StepKind.STEP:
            return False
        if self.outcome is Outcome.FAILED:
            return self.scheduled.undo_failed
        return self.outcome in (Outcome.COMPLETED, Outcome.UNKNOWN)

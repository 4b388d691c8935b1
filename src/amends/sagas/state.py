"""What a journal says of its instance: a fold over the events, without the saga's code.

Whoever needs to know where an instance stands (the engine, the re-drive after a crash, the
command line) reads it here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from amends.domain import events as e
from amends.domain.ids import InstanceId
from amends.domain.status import Status, ending_of, status_of
from amends.errors import InvalidJournal
from amends.sagas.step import Outcome, StepState


class InstanceState:
    """Where one instance stands, event by event. `version` is its journal's last version that is
    on record, -1 before the first.
    """

    __slots__ = (
        "at",
        "cancel_requested",
        "compensating",
        "correlation_id",
        "deadline_passed",
        "error",
        "final",
        "instance",
        "is_split",
        "message_marks",
        "pivot_passed",
        "result",
        "resumed_at",
        "stalled",
        "started",
        "steps",
        "timers",
        "version",
    )

    def __init__(self, instance: InstanceId) -> None:
        self.instance = instance
        self.version = -1
        self.correlation_id = ""
        self.started: e.SagaStarted | None = None
        self.at: datetime = _BEGINNING
        self.steps: dict[int, StepState] = {}
        self.timers: dict[int, datetime] = {}
        self.message_marks: set[int] = set()
        """Of those messages which nothing but their id tells from a copy."""
        self.cancel_requested = False
        self.deadline_passed = False
        self.compensating = False
        self.pivot_passed = False
        self.stalled: e.ErrorInfo | None = None
        self.resumed_at: datetime = _BEGINNING
        self.is_split = False
        """Whether the journal ends within the decisions of a turn."""
        self.final: Status | None = None
        self.result: Any = None
        self.error: e.ErrorInfo | None = None

    @property
    def status(self) -> Status:
        """The one word for where the instance stands."""
        return status_of(
            final=self.final,
            parked=any(step.parked for step in self.steps.values()),
            stalled=self.stalled is not None,
            compensating=self.compensating,
        )

    def open_steps(self) -> list[StepState]:
        """The steps that are not over, by number."""
        return [step for step in self.steps.values() if step.outcome is None]

    @property
    def is_settled(self) -> bool:
        """Whether no step, other than an undo, is open, or waits for a person."""
        return not any(
            (step.outcome is None or step.parked) and step.kind is not e.StepKind.UNDO
            for step in self.steps.values()
        )

    def apply(self, event: e.JournalEvent) -> None:
        """Take one more event. Raises InvalidJournal when no engine can have written it here."""
        if self.started is None and not isinstance(event, e.SagaStarted):
            raise InvalidJournal(
                f"the journal of {self.instance} begins with {type(event).__name__} and not with "
                "SagaStarted: its beginning is missing"
            )
        if isinstance(event, e.InputEvent):
            if event.at < self.at:
                raise InvalidJournal(
                    f"the journal of {self.instance} goes back in time at "
                    f"{type(event).__name__}: from {self.at} to {event.at}"
                )
            self.at = event.at
        _APPLY[type(event)](self, event)

    def step(self, seq: int) -> StepState:
        """The step of a number. Raises InvalidJournal when it was never scheduled."""
        try:
            return self.steps[seq]
        except KeyError:
            raise InvalidJournal(
                f"the journal of {self.instance} has a report on step {seq}, which it never "
                "scheduled or had closed: events are missing or doubled"
            ) from None

    # --- one method per event

    def _started(self, event: e.SagaStarted) -> None:
        if self.started is not None:
            raise InvalidJournal(f"the journal of {self.instance} has SagaStarted twice")
        self.started = event

    def _step_scheduled(self, event: e.StepScheduled) -> None:
        if event.seq in self.steps:
            raise InvalidJournal(f"the journal of {self.instance} schedules step {event.seq} twice")
        step = self.steps[event.seq] = StepState(event, max(self.at, self.resumed_at))
        if event.of is None:
            return
        origin = self.step(event.of)
        step.input = origin.input
        if event.kind is e.StepKind.UNDO:
            step.given = origin.result
            origin.undo_scheduled = True
            origin.undo_given = origin.outcome is Outcome.COMPLETED

    def _step_completed(self, event: e.StepCompleted) -> None:
        self._close(self.step(event.seq), Outcome.COMPLETED, result=event.result)

    def _attempt_failed(self, event: e.StepAttemptFailed) -> None:
        step = self.step(event.seq)
        step.failed_attempts = event.attempt
        step.last_outcome = event.outcome
        step.error = event.error
        step.retry_at = event.retry_at
        if event.outcome is not e.AttemptOutcome.FAILED:
            step.ended_unsure(event.attempt)

    def _step_retried(self, event: e.StepRetried) -> None:
        self.step(event.seq).retry_at = None

    def _step_failed(self, event: e.StepFailed) -> None:
        step = self.step(event.seq)
        step.error = event.error
        self._close(step, Outcome.FAILED)

    def _step_unknown(self, event: e.StepUnknown) -> None:
        step = self.step(event.seq)
        step.error = event.error
        step.doubtful = True
        step.retry_at = None
        step.probing = event.then is e.AfterUnknown.PROBE
        step.parked = event.then is e.AfterUnknown.PARK
        step.outcome = None  # it may have failed before
        if event.then is e.AfterUnknown.RAISE:
            self._close(step, Outcome.UNKNOWN)

    def _step_parked(self, event: e.StepParked) -> None:
        step = self.step(event.seq)
        step.error = event.error
        step.retry_at = None
        step.parked, step.probing = True, False

    def _step_resolved(self, event: e.StepResolved) -> None:
        step = self.step(event.seq)
        step.parked = False
        if event.resolution is e.Resolution.RETRY:
            step.renewals += 1
            step.attempts_before = step.failed_attempts
            if step.deadline is not None:
                step.deadline += self.at - step.tried_since
            step.tried_since = self.at
        elif event.resolution is e.Resolution.SKIP:
            if step.is_open:
                self._close(step, Outcome.SKIPPED)
        else:
            self._close(step, Outcome.COMPLETED, result=event.result)

    def _step_abandoned(self, event: e.StepAbandoned) -> None:
        step = self.steps.get(event.seq)
        if step is None:
            return
        step.abandoned = True

    def _reported_late(self, event: e.StepReportedLate) -> None:
        step = self.step(event.seq)
        step.late = True
        if event.outcome is not None:
            step.ended_unsure(event.attempt)
        if event.completed:
            step.outcome = Outcome.COMPLETED
            step.result = event.result
            step.parked = step.probing = False

    def _close(self, step: StepState, outcome: Outcome, *, result: Any = None) -> None:
        step.outcome = outcome
        step.told = step.told or outcome
        step.result = result
        step.parked = step.probing = False
        step.retry_at = None
        if step.told is Outcome.COMPLETED and step.scheduled.pivot:
            self.pivot_passed = True
        if outcome is Outcome.COMPLETED and step.scheduled.undo is None:
            # Nothing can ask for it again; a long journal must not make a large state.
            del self.steps[step.seq]

    def _timer_started(self, event: e.TimerStarted) -> None:
        self.timers[event.seq] = event.due

    def _timer_ended(self, event: e.TimerFired | e.TimerCancelled) -> None:
        if event.seq == 0:
            self.deadline_passed = True
        else:
            self.timers.pop(event.seq, None)

    def _cancel_requested(self, event: e.CancelRequested) -> None:
        self.cancel_requested = True

    def _compensation_started(self, event: e.CompensationStarted) -> None:
        self.compensating = True
        self.error = event.error

    def _ended(self, event: e.JournalEvent) -> None:
        ending = ending_of(event)
        assert ending is not None
        self.final, self.result = ending.status, ending.result
        self.error = ending.error or self.error

    def _stalled(self, event: e.SagaStalled) -> None:
        self.stalled = event.error

    def asked_for(self, seq: int) -> None:
        """A step is on record: not before that was it asked for, however long ago it was decided."""
        step = self.steps.get(seq)
        if step is not None:
            step.tried_since = max(step.tried_since, self.resumed_at)

    def _resumed(self, event: e.SagaResumed) -> None:
        self.resumed_at = event.at
        self.stalled = None

    def _ignore(self, event: e.JournalEvent) -> None:
        """The event changes nothing here."""


_BEGINNING = datetime.fromisoformat("0001-01-01T00:00:00+00:00")

_APPLY: Final[dict[type[e.JournalEvent], Callable[[InstanceState, Any], None]]] = {
    e.SagaStarted: InstanceState._started,
    e.StepScheduled: InstanceState._step_scheduled,
    e.StepCompleted: InstanceState._step_completed,
    e.StepAttemptFailed: InstanceState._attempt_failed,
    e.StepRetried: InstanceState._step_retried,
    e.StepFailed: InstanceState._step_failed,
    e.StepUnknown: InstanceState._step_unknown,
    e.StepParked: InstanceState._step_parked,
    e.StepResolved: InstanceState._step_resolved,
    e.StepReportedLate: InstanceState._reported_late,
    e.StepAbandoned: InstanceState._step_abandoned,
    e.TimerStarted: InstanceState._timer_started,
    e.TimerCancelled: InstanceState._timer_ended,
    e.TimerFired: InstanceState._timer_ended,
    e.SignalReceived: InstanceState._ignore,
    e.CancelRequested: InstanceState._cancel_requested,
    e.DomainEventEmitted: InstanceState._ignore,
    e.CompensationStarted: InstanceState._compensation_started,
    e.SagaCompleted: InstanceState._ended,
    e.SagaCompensated: InstanceState._ended,
    e.SagaFailed: InstanceState._ended,
    e.SagaCancelled: InstanceState._ended,
    e.SagaTerminated: InstanceState._ended,
    e.SagaStalled: InstanceState._stalled,
    e.SagaResumed: InstanceState._resumed,
    e.TurnSplit: InstanceState._ignore,
}

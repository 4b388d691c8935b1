"""What must hold of every journal, whatever happened to the engine that wrote it.

`check_journal` judges a journal by its events alone, with rules of its own: it shares no code
with the engine's state. `check_replay` runs the saga's code against every version of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from amends.app import App
from amends.domain import events as e
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import InstanceId
from amends.errors import DeterminismError
from amends.sagas import journal
from amends.sagas.replay import describe, replay

_REPORTS: Final = (
    e.StepCompleted,
    e.StepAttemptFailed,
    e.StepRetried,
    e.StepFailed,
    e.StepUnknown,
    e.StepParked,
    e.StepResolved,
    e.StepReportedLate,
)
_AFTER_THE_END: Final = (*_REPORTS, e.StepScheduled)


class Violation(AssertionError):
    """A journal, or the world around it, is not as the engine promises."""


class _Step:
    def __init__(self, scheduled: e.StepScheduled) -> None:
        self.scheduled = scheduled
        self.attempt = 0
        self.retry_at: datetime | None = None
        self.is_over = False
        self.happened: bool | None = False
        """None: nobody knows."""
        self.is_parked = False
        self.is_abandoned = False
        self.late = 0
        self.was_told = False
        """Whether the saga knows how it ended: it goes on from there."""
        self.may_reopen = False
        """Whether a late report puts in question what the saga was told."""
        self.undos: list[_Step] = []


class _Journal:
    """The events of one instance, told one by one."""

    def __init__(self, *, in_reverse: bool) -> None:
        self._in_reverse = in_reverse
        self._steps: dict[int, _Step] = {}
        self._timers: dict[int, datetime] = {}
        self._last_seq = 0
        self._at: datetime | None = None
        self._compensating = False
        self._pivoted = False
        self.final: e.JournalEvent | None = None

    def tell(self, version: int, event: e.JournalEvent) -> None:
        _demand((version == 0) == isinstance(event, e.SagaStarted), "SagaStarted is first, once")
        if isinstance(event, e.InputEvent):
            _demand(self._at is None or event.at >= self._at, "time never goes back")
            self._at = event.at
        if isinstance(event, e.FINAL_EVENTS):
            self._end(event)
            return
        if isinstance(event, e.SagaStalled | e.SagaResumed | e.TurnSplit):
            return
        if self.final is not None:
            _demand(isinstance(event, _AFTER_THE_END), "after the end there are late reports only")
        if isinstance(event, e.StepScheduled):
            self._schedule(event)
        elif isinstance(event, _REPORTS):
            step = self._steps.get(event.seq)
            if step is None:
                raise Violation(f"step {event.seq} was never scheduled")
            self._report(step, event)
        elif isinstance(event, e.StepAbandoned):
            self._abandon(self._steps[event.seq])
        elif isinstance(event, e.TimerStarted | e.TimerCancelled | e.TimerFired):
            self._timer(event)
        elif isinstance(event, e.DomainEventEmitted):
            self._number(event.seq)
        elif isinstance(event, e.CompensationStarted):
            _demand(not self._compensating, "compensation starts once")
            _demand(not self._pivoted, "nothing is compensated after a pivot")
            self._compensating = True

    def _number(self, seq: int) -> None:
        _demand(seq == self._last_seq + 1, f"decision {seq} follows decision {self._last_seq}")
        self._last_seq = seq

    # --- steps

    def _schedule(self, event: e.StepScheduled) -> None:
        self._number(event.seq)
        step = self._steps[event.seq] = _Step(event)
        if event.kind is e.StepKind.UNDO:
            assert event.of is not None
            self._check_undo(self._steps[event.of], event)
            self._steps[event.of].undos.append(step)
        elif event.kind is e.StepKind.STEP:
            # A saga's own `finally` may still ask for steps while it winds down.
            _demand(self.final is None, "no step begins after the end")

    def _check_undo(self, origin: _Step, undo: e.StepScheduled) -> None:
        _demand(undo.activity == origin.scheduled.undo, "an undo is the one that was registered")
        may_happen = origin.happened is not False or origin.scheduled.undo_failed
        _demand(may_happen, f"step {undo.of} had no effect, so there is nothing to undo")
        _demand(
            len(origin.undos) <= origin.late,
            f"step {undo.of} is undone once, and once more if late",
        )
        if not self._compensating:
            given_up = origin.is_abandoned or origin.happened is None or origin.late
            _demand(bool(given_up), "before compensation only what was given up is undone")
        if origin.late or not self._compensating:
            return
        regular = [step for step in self._steps.values() if step.scheduled.kind is e.StepKind.STEP]
        over = all(step.is_over or step.was_told for step in regular)
        _demand(over, "nothing runs while something is undone")
        if self._in_reverse:
            for step in regular:
                if step.scheduled.seq > origin.scheduled.seq and step.happened and not step.late:
                    undone = step.scheduled.undo is None or any(u.is_over for u in step.undos)
                    _demand(undone, f"step {step.scheduled.seq} is undone before step {undo.of}")

    def _report(self, step: _Step, event: Any) -> None:
        if isinstance(event, e.StepReportedLate):
            self._report_late(step, event)
            return
        if step.may_reopen and isinstance(event, e.StepUnknown | e.StepParked):
            step.is_over = False
        step.may_reopen = False
        _demand(not step.is_over, f"step {event.seq} was over already at {type(event).__name__}")
        step.retry_at = None
        if isinstance(event, e.StepRetried):
            _demand(event.attempt == step.attempt + 1, f"the next attempt of step {event.seq}")
            return
        if isinstance(event, e.StepAttemptFailed):
            _demand(event.attempt > step.attempt, f"attempts of step {event.seq} go up")
            step.attempt, step.retry_at = event.attempt, event.retry_at
            if event.outcome is not e.AttemptOutcome.FAILED:
                step.happened = None
        elif isinstance(event, e.StepParked):
            step.is_parked = True
        elif isinstance(event, e.StepResolved):
            self._resolve(step, event)
        elif isinstance(event, e.StepUnknown):
            step.happened = None
            step.is_over = event.then is e.AfterUnknown.RAISE
            step.was_told = step.was_told or step.is_over
            step.is_parked = event.then is e.AfterUnknown.PARK
        else:
            self._close(step, happened=isinstance(event, e.StepCompleted))

    def _report_late(self, step: _Step, event: e.StepReportedLate) -> None:
        doubt = event.outcome is not None
        is_late = step.is_over or step.was_told or self.final is not None
        of_a_past_attempt = doubt and (event.attempt <= step.attempt or step.happened is None)
        _demand(is_late or of_a_past_attempt, "a late report is on what is over")
        _demand(not (doubt and event.completed), "what happened is not in doubt")
        step.late += 1
        if event.completed:
            step.is_over, step.happened, step.is_parked = True, True, False
        elif doubt:
            step.happened = None
        step.may_reopen = step.was_told

    def _resolve(self, step: _Step, event: e.StepResolved) -> None:
        _demand(step.is_parked, "only a parked step is resolved")
        step.is_parked = False
        if step.was_told:
            again = event.resolution is e.Resolution.RETRY
            _demand(not again, "what the saga went on without is not run again")
        if event.resolution is not e.Resolution.RETRY:
            self._close(step, happened=event.resolution is e.Resolution.COMPLETE)

    def _close(self, step: _Step, *, happened: bool) -> None:
        passes = happened and step.scheduled.pivot and not step.was_told
        self._pivoted = self._pivoted or passes
        step.is_over, step.happened, step.is_parked = True, happened, False
        step.was_told = True

    def _abandon(self, step: _Step) -> None:
        step.is_abandoned = True

    # --- the rest

    def _timer(self, event: e.TimerStarted | e.TimerCancelled | e.TimerFired) -> None:
        if isinstance(event, e.TimerStarted):
            self._number(event.seq)
            self._timers[event.seq] = event.due
        elif event.seq or isinstance(event, e.TimerCancelled):
            due = self._timers.pop(event.seq, None)
            if due is None:
                raise Violation(f"timer {event.seq} is not running")
            if isinstance(event, e.TimerFired):
                _demand(event.at >= due, f"timer {event.seq} fires when it is due")

    def _end(self, event: e.JournalEvent) -> None:
        _demand(self.final is None, "an instance ends once")
        undoes = isinstance(event, e.SagaCompensated | e.SagaFailed | e.SagaCancelled)
        if not isinstance(event, e.SagaTerminated):
            _demand(self._compensating == undoes, f"{type(event).__name__} fits what went before")
        self.final = event

    def finish(self) -> None:
        """Judge what is left undone when no more will come."""
        if self.final is None or isinstance(self.final, e.SagaCompleted | e.SagaTerminated):
            return
        for seq, step in self._steps.items():
            if step.scheduled.undo is None or step.is_parked:
                continue
            if step.happened is not False:
                _demand(step.undos != [], f"step {seq} is undone")
                _demand(all(undo.is_over for undo in step.undos), f"the undo of step {seq} is over")


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(f"it does not hold that {what}")


def check_journal(app: App, records: Sequence[RecordedEvent], *, is_done: bool = True) -> None:
    """Judge one instance's journal by its events.

    `is_done` says that no more events are expected, so that whatever happened must be undone by
    now unless the saga completed.

    Raises Violation, InvalidJournal, DecodeError.
    """
    instance = _instance_of(records)
    definition = app.sagas.get(instance.saga)
    told = _Journal(in_reverse=definition is None or definition.compensate == "in_reverse")
    if len({record.id for record in records}) < len(records):
        raise Violation(f"{instance}: an event id occurs twice")
    journal.check_sequence(records)
    for record in records:
        try:
            told.tell(record.version, journal.decode(record))
        except Violation as violation:
            raise Violation(f"{instance} at version {record.version}: {violation}") from None
    if is_done:
        try:
            told.finish()
        except Violation as violation:
            raise Violation(f"{instance} at its end: {violation}") from None


def check_replay(app: App, records: Sequence[RecordedEvent]) -> None:
    """Replay every version of one instance's journal: at each, the code wants exactly what the
    journal has next.

    Raises Violation, and what the code raises in replay. Not for instances that had stalled.
    """
    instance = _instance_of(records)
    for version in range(1, len(records) + 1):
        following = _following(records, version)
        recorded = describe(following) if isinstance(following, e.OutputEvent) else "nothing more"
        wanted = "nothing more"
        try:
            execution = replay(
                app.sagas[instance.saga], instance, records[:version], app.activities
            )
            if execution.decisions:  # the journal says that they are still to come
                wanted = describe(execution.decisions[0])
            execution.discard()
        except DeterminismError as error:
            if error.seq is not None:
                raise
            # It took decisions beyond the end of what it was given.
            wanted = error.wanted
        if wanted != recorded:
            raise Violation(
                f"{instance} after {version} events: the code wants {wanted}, and the journal "
                f"has {recorded}"
            )


def _following(records: Sequence[RecordedEvent], version: int) -> e.JournalEvent | None:
    """What the journal has next: that a turn was split there is nothing that code could want."""
    if version < len(records) and records[version].type == e.TurnSplit.__name__:
        version += 1
    return journal.decode(records[version]) if version < len(records) else None


def _instance_of(records: Sequence[RecordedEvent]) -> InstanceId:
    instance = InstanceId.of_stream(records[0].stream) if records else None
    if instance is None:
        raise Violation("there is no journal")
    return instance

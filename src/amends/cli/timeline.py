"""A journal as a story: one line per event, in the words of a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from amends.cli.render import compact, span, stamp
from amends.domain import events as e
from amends.domain.envelope import RecordedEvent
from amends.errors import DecodeError
from amends.sagas import journal

#: Characters of an input or a result, unless everything is asked for.
VALUE_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Line:
    """One event: when, about which step, what happened, with which values, and how good it is."""

    at: datetime
    seq: int | None
    mark: str
    what: str
    detail: str = ""
    style: str = ""


@dataclass(slots=True)
class _Step:
    scheduled: e.StepScheduled
    at: datetime
    attempts: int = 0


_GOOD: Final = "green"
_BAD: Final = "red"
_UNDO: Final = "yellow"
_WAITS: Final = "bold magenta"
_QUIET: Final = "dim"


class Timeline:
    """Tells a journal event by event; it knows what the events before were."""

    def __init__(self, *, whole: bool = False) -> None:
        self._chars_max = None if whole else VALUE_CHARS_MAX
        self._whole = whole
        self._steps: dict[int, _Step] = {}
        self._began: datetime | None = None
        self._told: tuple[str, str] | None = None

    def lines(self, records: Iterable[RecordedEvent]) -> list[Line]:
        """The lines of events that follow those told before."""
        return [self._line(record) for record in records]

    def _line(self, record: RecordedEvent) -> Line:
        at = record.recorded_at
        self._began = self._began or at
        try:
            event = journal.decode(record)
        except DecodeError as error:
            return Line(at, None, "?", record.type, str(error), _BAD)
        if isinstance(event, e.StepScheduled):
            return self._scheduled(event, at)
        seq = getattr(event, "seq", None)
        step = self._steps.get(seq) if isinstance(seq, int) else None
        if step is not None:
            return self._about_step(event, step, at)
        return self._about_saga(event, at)

    # --- steps

    def _scheduled(self, event: e.StepScheduled, at: datetime) -> Line:
        self._steps[event.seq] = _Step(event, at)
        origin = None if event.of is None else self._steps.get(event.of)
        notes = []
        if event.of is not None and origin is not None:
            notes.append("undoes" if event.kind is e.StepKind.UNDO else "asks about")
            notes.append(f"step {event.of} ({origin.scheduled.activity})")
        if event.pivot:
            notes.append("the point of no return")
        if event.deadline is not None:
            notes.append(f"due by {stamp(event.deadline)}")
        value = "" if event.input is None else self._value(event.input)
        mark, style = {
            e.StepKind.STEP: ("→", ""),
            e.StepKind.UNDO: ("↩", _UNDO),
            e.StepKind.PROBE: ("?", ""),
        }[event.kind]
        what = " ".join([event.activity, *notes])
        return Line(at, event.seq, mark, what, value, style)

    def _about_step(self, event: e.JournalEvent, step: _Step, at: datetime) -> Line:
        name, seq = step.scheduled.activity, step.scheduled.seq
        took = span(at - step.at)
        match event:
            case e.StepCompleted():
                again = f", attempt {event.attempt}" if event.attempt > 1 else ""
                value = "" if event.result is None else self._value(event.result)
                return Line(at, seq, "✓", f"{name} completed ({took}{again})", value, _GOOD)
            case e.StepAttemptFailed():
                return self._attempt_failed(event, step, at)
            case e.StepRetried():
                return Line(at, seq, "→", f"{name} attempt {event.attempt}", "", _QUIET)
            case e.StepFailed():
                return Line(at, seq, "✗", f"{name} failed ({took})", self._error(event.error), _BAD)
            case e.StepUnknown():
                then = {
                    e.AfterUnknown.PROBE: "its probe is asked",
                    e.AfterUnknown.RAISE: "it may have happened",
                    e.AfterUnknown.PARK: "a person must decide",
                }[event.then]
                style = _WAITS if event.then is e.AfterUnknown.PARK else _BAD
                what = f"{name} has an unknown outcome: {then}"
                return Line(at, seq, "?", what, self._error(event.error), style)
            case e.StepParked():
                what = f"{name} is parked: a person must decide"
                return Line(at, seq, "‖", what, self._error(event.error), _WAITS)
            case e.StepResolved():
                value = "" if event.result is None else self._value(event.result)
                what = f"{name} resolved by {event.who}, {event.resolution}: {event.why}"
                return Line(at, seq, "!", what, value)
            case e.StepReportedLate():
                said = "it did happen" if event.completed else "it did not happen"
                if event.outcome is not None:
                    said = "nobody knows whether it happened"
                value = "" if event.result is None else self._value(event.result)
                return Line(at, seq, "…", f"{name} reported late: {said}", value, _BAD)
            case e.StepAbandoned():
                return Line(at, seq, "·", f"{name} is no longer waited for", "", _QUIET)
        return Line(at, seq, "·", type(event).__name__)

    def _attempt_failed(self, event: e.StepAttemptFailed, step: _Step, at: datetime) -> Line:
        word = {
            e.AttemptOutcome.FAILED: "failed",
            e.AttemptOutcome.TIMED_OUT: "timed out",
            e.AttemptOutcome.VANISHED: "vanished",
        }[event.outcome]
        then = "no more attempts"
        if event.retry_at is not None:
            then = f"again in {span(event.retry_at - event.at)}"
        what = f"{step.scheduled.activity} attempt {event.attempt} {word}, {then}"
        return Line(at, event.seq, "×", what, self._error(event.error), _BAD)

    # --- the saga

    def _about_saga(self, event: e.JournalEvent, at: datetime) -> Line:
        if isinstance(event, e.OutputEvent) and not isinstance(event, _ENDS):
            return self._decision(event, at)
        match event:
            case e.SagaStarted():
                until = "" if event.deadline is None else f", to end by {stamp(event.deadline)}"
                value = "" if event.input is None else self._value(event.input)
                return Line(at, None, "●", f"started{until}", value, "bold")
            case e.TimerFired():
                what = "deadline passed" if event.seq == 0 else "timer fired"
                return Line(at, event.seq or None, "◷", what, "", _BAD if event.seq == 0 else "")
            case e.SignalReceived():
                value = "" if event.payload is None else self._value(event.payload)
                return Line(at, None, "»", f"signal {event.name}", value)
            case e.CancelRequested():
                return Line(at, None, "!", f"cancel requested by {event.who}: {event.why}")
            case e.SagaStalled():
                what = "stalled: the code is wrong, nothing was undone"
                return Line(at, None, "‖", what, self._error(event.error), "bold red")
            case e.SagaResumed():
                return Line(at, None, "●", "went on after it had stalled", "", _GOOD)
            case e.TurnSplit():
                return Line(at, None, "·", "more than one append holds: goes on", "", _QUIET)
        return self._end(event, at)

    def _decision(self, event: e.OutputEvent, at: datetime) -> Line:
        seq = event.seq or None
        match event:
            case e.TimerStarted():
                what = f"timer until {stamp(event.due)} (in {span(event.due - at)})"
                return Line(at, seq, "◷", what)
            case e.TimerCancelled():
                return Line(at, seq, "·", "timer cancelled", "", _QUIET)
            case e.DomainEventEmitted():
                return Line(at, seq, "◆", event.type, self._value(event.data), "cyan")
            case e.CompensationStarted():
                because = {
                    "failed": "a failure",
                    "cancelled": "the cancel request",
                    "deadline": "the deadline",
                }[event.reason]
                error = "" if event.error is None else self._error(event.error)
                return Line(at, None, "↩", f"compensation, because of {because}", error, _UNDO)
        return Line(at, seq, "·", type(event).__name__)

    def _end(self, event: e.JournalEvent, at: datetime) -> Line:
        took = span(at - (self._began or at))
        match event:
            case e.SagaCompleted():
                value = "" if event.result is None else self._value(event.result)
                return Line(at, None, "■", f"completed ({took})", value, f"bold {_GOOD}")
            case e.SagaCompensated():
                error = self._error(event.error, again=True)
                return Line(at, None, "■", f"compensated ({took})", error, f"bold {_UNDO}")
            case e.SagaFailed():
                what = f"failed, with nothing to undo ({took})"
                return Line(
                    at, None, "■", what, self._error(event.error, again=True), f"bold {_BAD}"
                )
            case e.SagaCancelled():
                what = f"cancelled, {event.undone} undone ({took})"
                return Line(at, None, "■", what, "", f"bold {_UNDO}")
            case e.SagaTerminated():
                what = f"TERMINATED by {event.who}, nothing was undone: {event.why}"
                return Line(at, None, "■", what, "", f"bold {_BAD}")
        return Line(at, None, "·", type(event).__name__)

    # --- values

    def _value(self, value: Any) -> str:
        return compact(value, self._chars_max)

    def _error(self, error: e.ErrorInfo, *, again: bool = False) -> str:
        """An error; nothing if it was told just before."""
        told, self._told = self._told, (error.type, error.message)
        if told == self._told and not again:
            return ""
        if self._whole and error.traceback:
            return error.traceback.rstrip()
        return f"{error.type}: {error.message}"


_ENDS: Final = (e.SagaCompleted, e.SagaCompensated, e.SagaFailed, e.SagaCancelled)

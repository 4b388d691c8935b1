"""Saga instances at a glance: a small summary of each, folded from its journal.

Nothing is kept between two looks: what is asked for is read from the log when it is asked for,
newest instance first, so that the first page of a long list costs no more than of a short one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import to_json
from typing_extensions import TypedDict

from amends.domain import events as e
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import JOURNAL_PREFIX, InstanceId, Position
from amends.domain.status import Status, ending_of, status_of
from amends.errors import AmendsError, DecodeError, InvalidJournal
from amends.sagas import journal
from amends.stores.port import EventFilter, EventStore

#: Instances that are looked up at a time, and journals read at once.
INSTANCES_PAGE: Final = 32
#: Events of one journal that are in memory at a time.
EVENTS_PAGE: Final = 500

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class OpenStep:
    """A step that is not over: where it stands, and the last error of its attempts."""

    seq: int
    activity: str
    kind: e.StepKind
    failed_attempts: int = 0
    retry_at: datetime | None = None
    parked: bool = False
    told: bool = False
    """Whether the saga was told that it was not done, and went on: only its effect is open."""
    error: e.ErrorInfo | None = None

    @property
    def attempt(self) -> int:
        """The attempt that is running or due next; of a parked step, the last one it had."""
        return max(1, self.failed_attempts + (not self.parked))


def _by_number(step: OpenStep) -> int:
    return step.seq


class SagaSummary:
    """One instance, without its inputs and results. Feed it the journal with `take`."""

    __slots__ = (
        "_at",
        "_compensating",
        "_error",
        "_final",
        "_open",
        "_stalled",
        "_timers",
        "_undone",
        "deadline",
        "events",
        "fault",
        "fields",
        "instance",
        "started_at",
        "updated_at",
    )

    def __init__(self, instance: InstanceId) -> None:
        self.instance = instance
        self.started_at = self.updated_at = _NEVER
        self.events = 0
        self.fault: AmendsError | None = None
        """Why the journal could not be read to its end; all else is then what stands before it."""
        self.deadline: datetime | None = None
        self.fields: dict[str, str] = {}
        """The plain values in its input, by which it can be looked for; see `fields_of`."""
        self._at = _NEVER
        self._open: dict[int, OpenStep] = {}
        self._undone: dict[int, OpenStep] = {}
        """Steps that ended without a result: a late report may open them again."""
        self._timers: dict[int, datetime] = {}
        self._compensating = False
        self._final: Status | None = None
        self._stalled: e.ErrorInfo | None = None
        self._error: e.ErrorInfo | None = None

    # --- what it says

    @property
    def state(self) -> Status:
        """The one word for where the instance stands."""
        return status_of(
            final=self._final,
            parked=bool(self.parked),
            stalled=self._stalled is not None,
            compensating=self._compensating,
        )

    @property
    def ending(self) -> Status | None:
        """How the instance ended, whatever came afterwards."""
        return self._final

    @property
    def parked(self) -> list[OpenStep]:
        """The steps that wait for a person, by number."""
        return sorted((step for step in self._open.values() if step.parked), key=_by_number)

    @property
    def step(self) -> OpenStep | None:
        """The step that the instance is at: a parked one, else the latest that is open."""
        return next(iter(self.parked), None) or max(
            self._open.values(), key=_by_number, default=None
        )

    @property
    def next_timer(self) -> datetime | None:
        """When the next timer of the saga is due."""
        return None if self._final else min(self._timers.values(), default=None)

    @property
    def error(self) -> e.ErrorInfo | None:
        """What is wrong now, or what the instance ended with; None once all went well."""
        step = self.step
        if self._stalled is not None and self._final is not Status.TERMINATED:
            return self._stalled
        if step is not None and step.error is not None:
            return step.error
        return self._error

    # --- the fold

    def take(self, records: Iterable[RecordedEvent]) -> None:
        """Take the journal's next events, up to one that cannot be read: that is the `fault`."""
        try:
            for record in records:
                if self.fault is None:
                    self._apply(record)
        except (DecodeError, InvalidJournal) as error:
            self.fault = error

    def _apply(self, record: RecordedEvent) -> None:
        journal.check_sequence([record], first=self.events)
        event = journal.decode(record)
        self.updated_at = record.recorded_at
        if self.events == 0:
            self.started_at = record.recorded_at
        self.events += 1
        if isinstance(event, e.InputEvent):
            self._at = event.at
        if isinstance(event, e.StepScheduled):
            self._open[event.seq] = OpenStep(event.seq, event.activity, event.kind)
        elif isinstance(event, _ABOUT_STEPS):
            self._apply_to_step(event)
        else:
            self._apply_to_whole(event)

    def _apply_to_step(self, event: _StepEvent) -> None:
        step = self._open.get(event.seq)
        if step is None and isinstance(event, e.StepUnknown | e.StepParked):
            step = self._undone.get(event.seq)  # a late report opens it again
        if step is None:
            return
        if not _is_over(step, event, self._at):
            self._open[event.seq] = step
            return
        self._open.pop(event.seq, None)
        if not isinstance(event, e.StepCompleted):
            step.told = True
            self._undone[event.seq] = step

    def _apply_to_whole(self, event: e.JournalEvent) -> None:
        ending = ending_of(event)
        if ending is not None:
            self._final, self._error = ending.status, ending.error
            return
        match event:
            case e.SagaStarted():
                self.deadline = event.deadline
                self.fields = fields_of(event.input)
            case e.TimerStarted():
                self._timers[event.seq] = event.due
            case e.TimerFired() | e.TimerCancelled():
                self._timers.pop(event.seq, None)
            case e.CompensationStarted():
                self._compensating = True
                self._error = event.error
            case e.SagaStalled():
                self._stalled = event.error
            case e.SagaResumed():
                self._stalled = None

    # --- keeping it between two events

    def folded(self) -> bytes:
        """All that the next event needs, as JSON; without `fields`, and without tracebacks."""
        return to_json(
            {
                "started_at": self.started_at,
                "updated_at": self.updated_at,
                "deadline": self.deadline,
                "events": self.events,
                "at": self._at,
                "fault": None if self.fault is None else str(self.fault),
                "open": [_kept(step) for step in self._open.values()],
                "undone": [_kept(step) for step in self._undone.values()],
                "timers": self._timers,
                "compensating": self._compensating,
                "final": self._final,
                "stalled": _short(self._stalled),
                "error": _short(self._error),
            }
        )

    @classmethod
    def unfolded(cls, instance: InstanceId, folded: str | bytes) -> SagaSummary:
        """A summary from what `folded` gave; it goes on where that one was."""
        kept = _FOLD.validate_json(folded)
        summary = cls(instance)
        summary.started_at, summary.updated_at = kept["started_at"], kept["updated_at"]
        summary.deadline = kept["deadline"]
        summary.events, summary._at = kept["events"], kept["at"]
        summary.fault = None if kept["fault"] is None else InvalidJournal(kept["fault"])
        summary._open = {step.seq: step for step in kept["open"]}
        summary._undone = {step.seq: step for step in kept["undone"]}
        summary._timers = kept["timers"]
        summary._compensating = kept["compensating"]
        summary._final = kept["final"]
        summary._stalled, summary._error = kept["stalled"], kept["error"]
        return summary


class _Fold(TypedDict):
    """What `folded` writes."""

    started_at: datetime
    updated_at: datetime
    deadline: datetime | None
    events: int
    at: datetime
    fault: str | None
    open: list[OpenStep]
    undone: list[OpenStep]
    timers: dict[int, datetime]
    compensating: bool
    final: Status | None
    stalled: e.ErrorInfo | None
    error: e.ErrorInfo | None


_FOLD: Final = TypeAdapter(_Fold)


def _kept(step: OpenStep) -> OpenStep:
    return step if step.error is None else replace(step, error=_short(step.error))


def _short(error: e.ErrorInfo | None) -> e.ErrorInfo | None:
    """An error without its traceback, which `amends show` has."""
    return None if error is None else error.model_copy(update={"traceback": None})


#: Of the plain values of an input, so many are kept, and none that is longer.
FIELDS_MAX: Final = 16
FIELD_CHARS_MAX: Final = 200


def fields_of(input: Any) -> dict[str, str]:
    """What of an input an instance can be looked for by: its own plain values (texts, numbers, true
    and false) by name, as texts; an input that is itself one is called `input`.
    """
    values = input if isinstance(input, dict) else {"input": input}
    plain = (
        (name, value if isinstance(value, str) else to_json(value).decode())
        for name, value in values.items()
        if isinstance(value, str | int | float)
    )
    fitting = [(name, value) for name, value in plain if len(name) + len(value) <= FIELD_CHARS_MAX]
    return dict(fitting[:FIELDS_MAX])


_StepEvent = (
    e.StepCompleted
    | e.StepAttemptFailed
    | e.StepRetried
    | e.StepFailed
    | e.StepUnknown
    | e.StepParked
    | e.StepResolved
    | e.StepReportedLate
    | e.StepAbandoned
)
_ABOUT_STEPS: Final = (
    e.StepCompleted,
    e.StepAttemptFailed,
    e.StepRetried,
    e.StepFailed,
    e.StepUnknown,
    e.StepParked,
    e.StepResolved,
    e.StepReportedLate,
    e.StepAbandoned,
)


def _is_over(step: OpenStep, event: _StepEvent, at: datetime) -> bool:
    """Whether a step is over with this event; if not, what the event says is taken over."""
    match event:
        case e.StepAttemptFailed():
            step.failed_attempts = event.attempt
            step.retry_at = event.retry_at
            step.error = event.error
            return False
        case e.StepRetried():
            step.retry_at = None
            return False
        case e.StepUnknown():
            step.error = event.error
            step.retry_at = None
            step.parked = event.then is e.AfterUnknown.PARK
            return event.then is e.AfterUnknown.RAISE
        case e.StepParked():
            step.error = event.error
            step.retry_at = None
            step.parked = True
            return False
        case e.StepResolved():
            step.parked = False
            return event.resolution is not e.Resolution.RETRY
        case e.StepReportedLate():
            return event.completed
        case e.StepAbandoned():
            return False
    return True


# --- reading -----------------------------------------------------------------------------------


async def newest_first(
    store: EventStore, *, saga: str | None = None, started_before: datetime | None = None
) -> AsyncIterator[SagaSummary]:
    """The instances of the log, the last to be started first.

    Memory is bounded by a page of instances. An instance whose journal cannot be read is among
    them, with its `fault`.
    """
    prefix = JOURNAL_PREFIX if saga is None else InstanceId(saga, "").stream
    filter = EventFilter((prefix,), (e.SagaStarted.__name__,))
    before: Position | None = None
    while page := await store.read_all_backwards(before, filter=filter, limit=INSTANCES_PAGE):
        before = page[-1].position
        wanted = [
            (record.recorded_at, summarise(store, instance))
            for record in page
            if (instance := InstanceId.of_stream(record.stream)) is not None
            and (started_before is None or record.recorded_at < started_before)
        ]
        summaries = await asyncio.gather(*(summary for _, summary in wanted))
        for (started_at, _), summary in zip(wanted, summaries, strict=True):
            # Else its journal was removed since, and perhaps another begun under its name.
            if summary.events and summary.started_at == started_at:
                yield summary


async def summarise(store: EventStore, instance: InstanceId) -> SagaSummary:
    """The summary of one instance, by its journal as it is now."""
    summary = SagaSummary(instance)
    while summary.fault is None and (
        page := await store.read(instance.stream, start=summary.events, limit=EVENTS_PAGE)
    ):
        summary.take(page)
    return summary

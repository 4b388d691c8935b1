"""Replay: from a journal to a live execution, with every recorded decision confirmed.

Inputs drive, outputs confirm: the input events are fed to the code in journal order, each to
quiescence, and the decisions that the code takes are compared, one by one in order, with the
output events on record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from amends.domain import events as e
from amends.domain.envelope import CORRELATION_ID, RecordedEvent, decode_metadata
from amends.domain.ids import InstanceId
from amends.domain.payload import Payload
from amends.errors import AmendsError, DeterminismError
from amends.sagas import journal
from amends.sagas.execution import ActivityMap, SagaExecution
from amends.sagas.state import InstanceState

if TYPE_CHECKING:
    from amends.sagas.definition import Saga

_INPUTS: Final = frozenset(
    cls.__name__ for cls in e.JOURNAL_EVENTS if issubclass(cls, e.InputEvent)
)


def fold(instance: InstanceId, records: Sequence[RecordedEvent]) -> InstanceState:
    """Where an instance stands by its journal, without its code.

    Raises InvalidJournal, DecodeError.
    """
    journal.check_sequence(records)
    state = InstanceState(instance)
    for record in records:
        event = journal.decode(record)
        state.apply(event)
        _note_record(state, record, event)
    return state


def replay(
    definition: Saga[Any, Any],
    instance: InstanceId,
    records: Sequence[RecordedEvent],
    activities: ActivityMap,
) -> SagaExecution:
    """Bring an execution to where its journal ends.

    Its `decisions` then holds those that the code has taken and the journal lacks: none, unless
    the instance is stalled, and then only what follows from inputs that came since; or unless the
    journal ends within the decisions of a turn.

    Raises DeterminismError, SagaBug (what the code raised), InvalidJournal, DecodeError.
    """
    journal.check_sequence(records)
    execution = SagaExecution(definition, InstanceState(instance), activities)
    stalls = _stalls(records)
    is_stalled = False
    try:
        for record in records:
            event = journal.decode(record)
            stalls_here = record.version in stalls
            if stalls_here or isinstance(event, e.InputEvent):
                may_lack = is_stalled or execution.state.is_split
                _check_nothing_more(execution, may_lack=may_lack, at_end=False)
            is_stalled = is_stalled or stalls_here
            if isinstance(event, e.OutputEvent):
                _confirm(execution, event)
            elif isinstance(event, e.InputEvent):
                execution.feed(event)
            else:
                execution.state.apply(event)
                is_stalled = is_stalled and not isinstance(event, e.SagaResumed)
            _note_record(execution.state, record, event)
        may_lack = is_stalled or execution.state.is_split
        _check_nothing_more(execution, may_lack=may_lack, at_end=True)
    except BaseException:
        execution.discard()
        raise
    return execution


def _note_record(state: InstanceState, record: RecordedEvent, event: e.JournalEvent) -> None:
    state.version = record.version
    if record.version == 0:
        state.correlation_id = str(decode_metadata(record).get(CORRELATION_ID, record.id))
    if isinstance(event, e.SignalReceived | e.StepResolved):
        state.message_marks.add(journal.mark_of(record.id))
    elif isinstance(event, e.TurnSplit):
        state.is_split = True
    elif isinstance(event, e.OutputEvent):
        state.is_split = False


def _stalls(records: Sequence[RecordedEvent]) -> set[int]:
    """Where stalls begin: the versions from which on decisions are not on record."""
    found: set[int] = set()
    for index, record in enumerate(records):
        if record.type != e.SagaStalled.__name__:
            continue
        note = journal.decode(record)
        assert isinstance(note, e.SagaStalled)
        if note.since is not None:
            found.add(note.since)
            continue
        # A further note, within its stall; or an older engine wrote it, which broke at one of
        # the inputs before it.
        first = index
        while first > 0 and records[first - 1].type in _INPUTS:
            first -= 1
        found.add(records[first].version)
    return found


def _check_nothing_more(execution: SagaExecution, *, may_lack: bool, at_end: bool) -> None:
    if execution.decisions and not may_lack:
        wanted = execution.decisions[0]
        seq = None if at_end else wanted.seq
        raise DeterminismError(str(execution.instance), seq, "nothing more", describe(wanted))


def _confirm(execution: SagaExecution, recorded: e.OutputEvent) -> None:
    if not execution.decisions:
        raise DeterminismError(
            str(execution.instance), recorded.seq, describe(recorded), "nothing at this point"
        )
    wanted = execution.decisions.popleft()
    if not _same(execution, recorded, wanted):
        raise DeterminismError(
            str(execution.instance), recorded.seq, describe(recorded), describe(wanted)
        )
    if isinstance(recorded, e.StepScheduled):
        execution.state.asked_for(recorded.seq)


def _same(execution: SagaExecution, recorded: e.OutputEvent, wanted: e.OutputEvent) -> bool:
    if recorded == wanted:
        return True
    if type(recorded) is not type(wanted) or recorded.seq != wanted.seq:
        return False
    if isinstance(recorded, e.StepScheduled) and isinstance(wanted, e.StepScheduled):
        return _same_step(execution, recorded, wanted)
    if isinstance(recorded, e.DomainEventEmitted) and isinstance(wanted, e.DomainEventEmitted):
        return recorded.type == wanted.type and (
            recorded.data == wanted.data or recorded.schema_version != wanted.schema_version
        )
    if isinstance(recorded, e.CompensationStarted) and isinstance(wanted, e.CompensationStarted):
        return recorded.reason == wanted.reason
    # How the text of an error or the shape of a result is written may change between releases.
    return isinstance(recorded, e.SagaCompleted | e.SagaCompensated | e.SagaFailed)


def _same_step(
    execution: SagaExecution, recorded: e.StepScheduled, wanted: e.StepScheduled
) -> bool:
    """Policies (queue, undo, pivot, deadline) may change between releases: the recorded ones
    hold. What is done, and with which input, may not.
    """
    if (recorded.activity, recorded.kind, recorded.of) != (
        wanted.activity,
        wanted.kind,
        wanted.of,
    ):
        return False
    if recorded.input != wanted.input:
        activity = execution.activities[recorded.activity]
        if not _same_value(activity.input, recorded.input, wanted.input):
            return False
    execution.state.steps[recorded.seq].adopt(recorded)
    return True


def _same_value(payload: Payload[Any], recorded: Any, wanted: Any) -> bool:
    """Whether two JSON values mean the same to today's type: a field that was added with a
    default since does not make another input.
    """
    try:
        return bool(payload.from_json_value(recorded) == payload.from_json_value(wanted))
    except AmendsError:
        return False


def describe(event: e.JournalEvent) -> str:
    """An event in one short line, for an error message or a timeline."""
    name = type(event).__name__
    if isinstance(event, e.StepScheduled):
        text = to_json(event.input).decode()
        return f"{event.kind} {event.activity}({_short(text)})"
    if isinstance(event, e.DomainEventEmitted):
        return f"event {event.type}({_short(to_json(event.data).decode())})"
    if isinstance(event, e.TimerStarted):
        return f"a timer until {_time(event.due)}"
    return name


def _short(text: str, chars_max: int = 200) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}…"


def _time(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")

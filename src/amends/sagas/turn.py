"""A turn: one pass over one instance. It takes inputs, runs to quiescence, and says what to
append, publish and acknowledge. Pure: it awaits nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from amends.broker.commit import TurnCommit
from amends.broker.port import Delivery, Message
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.envelope import RecordedEvent
from amends.domain.failures import error_info
from amends.domain.ids import NO_STREAM, ExpectedVersion, InstanceId
from amends.domain.status import Status
from amends.domain.unique import new_id_block
from amends.errors import DeterminismError, NotRegistered, PayloadTooLarge
from amends.sagas import journal
from amends.sagas.dispatch import Dispatcher
from amends.sagas.execution import ActivityMap, SagaBug, SagaExecution, SagaMap
from amends.sagas.intake import Intake, Refused
from amends.sagas.replay import fold, replay
from amends.sagas.state import InstanceState
from amends.stores.port import Append

if TYPE_CHECKING:
    pass


#: What a turn puts into one append. EventStoreDB before 25.1 takes 1 MiB; the rest is for a note,
#: which may have a traceback.
APPEND_BYTES_MAX: Final = 896 * 1024
#: What an event takes beside its body: its metadata, its type, its id, and what a store adds.
EVENT_BYTES: Final = 512

WAKE_INITIAL_S: Final = 1.0
WAKE_MAX_S: Final = 300.0

_ENDS_THE_CODE: Final = frozenset((e.SagaCompleted.__name__, e.SagaTerminated.__name__))


class Inbound(NamedTuple):
    """A delivery and the message in it."""

    delivery: Delivery
    message: m.EngineMessage


class Live:
    """An instance in memory. `execution` is missing while its code cannot run (then `bug` says
    why), and when it need not. Without it the instance is not kept in the cache.
    """

    __slots__ = ("bug", "execution", "state")

    def __init__(
        self, state: InstanceState, execution: SagaExecution | None, bug: BaseException | None
    ) -> None:
        self.state = state
        self.execution = execution
        self.bug = bug

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return self.state.final is not None and not self.state.open_steps()

    def discard(self) -> None:
        """Drop it from memory."""
        if self.execution is not None:
            self.execution.discard()
            self.execution = None


class Turn(NamedTuple):
    """The outcome of a turn, which appends `events`.

    `taken` counts the inbound messages that it dealt with; the others want another turn, after a
    reload. If the turn is split, the one whose decisions go on is among them. `refused` are those
    that are to be put aside, and why.
    """

    commit: TurnCommit
    events: Sequence[e.JournalEvent]
    taken: int
    refused: Sequence[tuple[Delivery, str]]


class TurnTaker:
    """Takes turns for the sagas and activities of one application."""

    def __init__(self, sagas: SagaMap, activities: ActivityMap, dispatcher: Dispatcher) -> None:
        self._sagas = sagas
        self._activities = activities
        self._dispatcher = dispatcher
        self._intake = Intake(activities, sagas)

    def begin(self, instance: InstanceId) -> Live:
        """An instance that does not exist yet."""
        state = InstanceState(instance)
        definition = self._sagas.get(instance.saga)
        if definition is None:
            return Live(state, None, self._not_registered(instance))
        return Live(state, SagaExecution(definition, state, self._activities), None)

    def load(self, instance: InstanceId, records: Sequence[RecordedEvent]) -> Live:
        """An instance from its journal. Raises InvalidJournal, DecodeError."""
        if any(record.type in _ENDS_THE_CODE for record in reversed(records)):
            state = fold(instance, records)
            if _is_past_code(state):
                return Live(state, None, None)
        definition = self._sagas.get(instance.saga)
        if definition is None:
            return Live(fold(instance, records), None, self._not_registered(instance))
        try:
            execution = replay(definition, instance, records, self._activities)
        except SagaBug as bug:
            return Live(fold(instance, records), None, bug.cause)
        except DeterminismError as error:
            return Live(fold(instance, records), None, error)
        return Live(execution.state, execution, None)

    def take(self, live: Live, inbound: Sequence[Inbound], now: datetime) -> Turn:
        """Deal with messages in order. `live` is ahead of the journal until the commit is done;
        if the commit fails, throw it away.
        """
        work = _Work(live, now)
        work.resume()
        taken = 0
        cause = inbound[0].delivery.message
        for delivery, message in inbound:
            if work.is_over:
                break
            id = delivery.message.id
            try:
                m.check_size(delivery.message.body)
                admitted = self._intake.admit(live.state, message, id, now)
            except (Refused, PayloadTooLarge) as refusal:
                work.refused.append((delivery, str(refusal)))
                taken += 1
                continue
            if admitted and not work.has_room_for(delivery.message):
                break
            cause = delivery.message
            if not admitted:
                self._redrive(live, message, delivery, work)
                taken += 1
                continue
            if not live.state.correlation_id:
                live.state.correlation_id = cause.correlation_id or str(id)
            work.feed(admitted, id)
            # Until its decisions are all on record, the message is needed: it leads to the rest.
            taken += not work.is_split
        return self._finish(live, work, inbound[:taken], cause)

    def _redrive(
        self, live: Live, message: m.EngineMessage, delivery: Delivery, work: _Work
    ) -> None:
        """See what to publish for a message that changes nothing.

        If it was delivered before, a crash may have come between its append and what followed:
        everything outstanding is published again, once for all such messages of a turn. If not,
        it is a copy or came too late (a timer that was cancelled), and somebody else saw to it.
        """
        if isinstance(message, m.WakeSaga):
            work.redrives |= live.bug is None
        else:
            work.redrives |= delivery.count > 1

    def _finish(
        self, live: Live, work: _Work, taken: Sequence[Inbound], cause_message: Message
    ) -> Turn:
        state = live.state
        deliveries = [delivery for delivery, _ in taken]
        cause = str(cause_message.id)
        # Whoever has ended needs code only for what brings him something new.
        is_needed = state.final is None or work.was_stalled or bool(work.events)
        is_stalled = live.bug is not None and is_needed
        if live.bug is not None and is_stalled:
            work.note_stall(live.bug)
        append = None
        if work.events:
            append = Append(
                state.instance.stream,
                journal.encode_turn(
                    work.events,
                    work.bodies,
                    work.ids,
                    correlation_id=state.correlation_id,
                    causation_id=cause,
                    trace_parent=cause_message.trace_parent,
                ),
                NO_STREAM if state.version < 0 else ExpectedVersion(state.version),
            )
        publish = self._dispatcher.follow_ups(state, work.events, cause)
        if work.redrives:
            publish += self._dispatcher.outstanding(state, cause)
        if is_stalled:
            publish += self._wake(live, work, taken, cause)
        if len(publish) > 1:
            publish = list({message.id: message for message in publish}.values())
        refused = {id(delivery) for delivery, _ in work.refused}
        done = [delivery for delivery in deliveries if id(delivery) not in refused]
        return Turn(TurnCommit(append, publish, done), work.events, len(deliveries), work.refused)

    def _wake(self, live: Live, work: _Work, taken: Sequence[Inbound], cause: str) -> list[Message]:
        """Keep one chain of later looks going while an instance is stalled: it begins with the
        stall, and each look leads to the next.
        """
        looks = [message.try_number for _, message in taken if isinstance(message, m.WakeSaga)]
        if work.was_stalled and not looks:
            return []
        number = max(looks, default=-1) + 1
        delay_s = min(WAKE_MAX_S, WAKE_INITIAL_S * 2.0 ** min(number, 20))
        return [
            self._dispatcher.wake(live.state, number, work.now + timedelta(seconds=delay_s), cause)
        ]

    def _not_registered(self, instance: InstanceId) -> NotRegistered:
        return NotRegistered(
            f"saga {instance.saga!r} is not registered with this application; deploy one that "
            "has it: the instance then goes on by itself"
        )


class _Work:
    """A turn in the making: its events, whether everything outstanding is to be published again,
    and what is to be put aside.
    """

    def __init__(self, live: Live, now: datetime) -> None:
        self.live = live
        self.now = max(now, live.state.at)
        self.was_stalled = live.state.stalled is not None
        self.events: list[e.JournalEvent] = []
        self.bodies: list[bytes] = []
        self.ids: list[UUID] = []
        self.is_split = False
        """Whether decisions are left for the next append."""
        self._is_broken = False
        self._room = APPEND_BYTES_MAX
        self.refused: list[tuple[Delivery, str]] = []
        self.redrives = False
        self._decided = 0
        """Events whose decisions stand behind them; the code broke at the one that follows."""
        self._fresh = new_id_block()

    @property
    def is_over(self) -> bool:
        """Whether another turn must take what comes next."""
        return self.is_split or self._is_broken

    def has_room_for(self, message: Message) -> bool:
        """Whether what a message leads to still fits: a probe's answer stands in two events."""
        return 2 * len(message.body) + 2 * EVENT_BYTES <= self._room

    def resume(self) -> None:
        """Decisions that the code took in replay and the journal lacks: it had stalled, or the
        last append was full.
        """
        live = self.live
        if live.execution is None:
            return
        if live.state.stalled is not None:
            self._add(e.SagaResumed(at=self.now))
            live.state.stalled = None
        live.state.is_split = False
        if live.execution.decisions:
            self._renew(live)
            self._take_decisions(live.execution)

    def _renew(self, live: Live) -> None:
        """The time in which the instance was stalled is not the time of its steps."""
        assert live.execution is not None
        lost = self.now - live.state.at
        renewed: list[e.OutputEvent] = []
        for decision in live.execution.decisions:
            if not isinstance(decision, e.StepScheduled):
                renewed.append(decision)
                continue
            step = decision
            if step.deadline is not None:
                step = step.model_copy(update={"deadline": step.deadline + lost})
            live.state.steps[step.seq].begin_again(step, self.now)
            renewed.append(step)
        live.execution.decisions = deque(renewed)

    def feed(self, admitted: Sequence[e.InputEvent], id: UUID) -> None:
        """Feed the events of one message, until the code breaks."""
        live = self.live
        for number, event in enumerate(admitted):
            if isinstance(event, e.SignalReceived | e.StepResolved):
                mark = journal.message_mark(id)
                live.state.message_marks.add(mark)
                self._add(event, mark)
            else:
                self._add(event)
            if live.execution is None:
                live.state.apply(event)
                continue
            try:
                live.execution.feed(event)
            except SagaBug as bug:
                self._decided = len(self.events) - 1
                self._broke(admitted[number + 1 :], bug)
                return
            self._take_decisions(live.execution, all_of_them=number + 1 < len(admitted))

    def note_stall(self, bug: BaseException) -> None:
        """Put the stall on record, once for each error."""
        info = error_info(bug, with_traceback=True)
        known = self.live.state.stalled
        if known is None:
            since = self.live.state.version + 1 + self._decided
            self._add(e.SagaStalled(at=self.now, error=info, since=since))
        elif _essence(known) != _essence(info):
            self._add(e.SagaStalled(at=self.now, error=info))

    def _broke(self, rest: Sequence[e.InputEvent], bug: SagaBug) -> None:
        for event in rest:
            self._add(event)
        self._is_broken = True
        live = self.live
        live.discard()
        live.bug = bug.cause

    def _take_decisions(self, execution: SagaExecution, *, all_of_them: bool = False) -> None:
        """As many as fit. `all_of_them`: between the events of one message, which belong into one
        append, there are few, and small ones.
        """
        while execution.decisions:
            body = journal.encode_data(execution.decisions[0])
            # Or else there would be no end of splitting.
            assert len(body) < APPEND_BYTES_MAX // 2
            if len(body) + EVENT_BYTES > self._room and not all_of_them:
                self.is_split = True
                self._add(e.TurnSplit(at=self.now))
                return
            self._add(execution.decisions.popleft(), body=body)

    def _add(
        self, event: e.JournalEvent, mark: int | None = None, body: bytes | None = None
    ) -> None:
        self._fresh += 1
        fresh = self._fresh
        if body is None:
            body = journal.encode_data(event)
        self._room -= len(body) + EVENT_BYTES
        self.bodies.append(body)
        self.events.append(event)
        self.ids.append(UUID(int=fresh) if mark is None else journal.marked_id(mark, fresh))


def _essence(error: e.ErrorInfo) -> tuple[str, str]:
    """An error without the addresses in its text, which differ each time."""
    return error.type, re.sub(r"0x[0-9a-fA-F]+", "0x", error.message)


def _is_past_code(state: InstanceState) -> bool:
    """Whether nothing that still arrives can make the saga's code, or its undos, decide anything."""
    if state.final is Status.TERMINATED:
        return True
    if state.stalled is not None or state.is_split:
        return False
    steps = state.steps.values()
    return not any(step.may_surprise or step.kind is e.StepKind.UNDO for step in steps)

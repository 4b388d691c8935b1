"""Which messages follow from a turn, and which are outstanding by the journal.

Message ids are deterministic, so that publishing again what was published already is the same
message to the broker.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from amends.broker.mail import message_id, to_inbox
from amends.broker.port import Message
from amends.broker.topology import command_queue
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.status import Status
from amends.sagas.execution import ActivityMap
from amends.sagas.state import InstanceState
from amends.sagas.step import StepState


class Dispatcher:
    """Writes the messages of instances.

    Without the application's `activities`, commands go to the queues that are on record.
    """

    def __init__(self, partitions: int, activities: ActivityMap | None = None) -> None:
        self._partitions = partitions
        self._activities = activities or {}

    def follow_ups(
        self, state: InstanceState, events: Iterable[e.JournalEvent], cause: str
    ) -> list[Message]:
        """What a turn's events ask for. `state` is the instance's after the turn."""
        messages: list[Message] = []
        for event in events:
            if isinstance(event, e.StepScheduled):
                messages += self._step(state, event.seq, cause)
            elif isinstance(event, e.TimerStarted):
                if event.seq in state.timers:
                    messages.append(self._timer(state, event.seq, event.due, cause))
            elif isinstance(event, e.StepAttemptFailed):
                if event.retry_at is not None and event.seq in state.steps:
                    messages += self._step(state, event.seq, cause, renew_expiry=False)
            elif isinstance(event, e.StepRetried):
                messages += self._step(state, event.seq, cause, renew_expiry=False)
            elif isinstance(event, e.StepAbandoned):
                messages += self._lapse(state, event.seq, cause)
            elif isinstance(event, e.StepResolved):
                if event.resolution is e.Resolution.RETRY:
                    messages += self._step(state, event.seq, cause)
            elif isinstance(event, e.SagaStarted) and event.deadline is not None:
                messages.append(self._timer(state, 0, event.deadline, cause))
        return messages

    def outstanding(self, state: InstanceState, cause: str) -> list[Message]:
        """Everything that the instance waits for and that a message must bring about.

        Publishing it again is always safe, and enough to set the instance going after any loss.
        """
        messages: list[Message] = []
        if state.final is Status.TERMINATED:
            return messages
        for step in state.open_steps():
            messages += self._step(state, step.seq, cause)
            if step.abandoned:
                messages += self._lapse(state, step.seq, cause)
        if state.final is None:
            for seq, due in state.timers.items():
                messages.append(self._timer(state, seq, due, cause))
            started = state.started
            if started is not None and started.deadline is not None and not state.deadline_passed:
                messages.append(self._timer(state, 0, started.deadline, cause))
        if state.stalled is not None or state.is_split:
            messages.append(self.wake(state, 0, state.at, cause))
        return messages

    def wake(self, state: InstanceState, try_number: int, due: datetime, cause: str) -> Message:
        """A later look at an instance that stalled."""
        instance = state.instance
        message = m.WakeSaga(saga=instance.saga, id=instance.id, try_number=try_number)
        id = message_id(instance, "wake", state.version, try_number)
        return self._to_inbox(message, id, state, cause, due)

    def _step(
        self, state: InstanceState, seq: int, cause: str, *, renew_expiry: bool = True
    ) -> list[Message]:
        """What makes a step go on: its command now, or its retry later; and its expiry."""
        step = state.steps.get(seq)
        if step is None or not step.is_open or step.parked or step.probing:
            return []
        instance = state.instance
        if step.retry_at is None:
            messages = [self._command(state, step, cause)]
        else:
            retry = m.RetryStep(saga=instance.saga, id=instance.id, seq=seq, attempt=step.attempt)
            id = message_id(instance, "retry", seq, step.attempt)
            messages = [self._to_inbox(retry, id, state, cause, step.retry_at)]
        if renew_expiry and step.deadline is not None:
            expire = m.ExpireStep(saga=instance.saga, id=instance.id, seq=seq)
            id = message_id(instance, "expire", seq, step.renewals)
            messages.append(self._to_inbox(expire, id, state, cause, step.deadline))
        return messages

    def _lapse(self, state: InstanceState, seq: int, cause: str) -> list[Message]:
        """Nobody waits for a step any more: why should its next attempt be waited for?"""
        step = state.steps.get(seq)
        if step is None or not step.is_open or not step.is_in_backoff:
            return []
        instance = state.instance
        retry = m.RetryStep(saga=instance.saga, id=instance.id, seq=seq, attempt=step.attempt)
        id = message_id(instance, "lapse", seq, step.attempt)
        return [self._to_inbox(retry, id, state, cause, None)]

    def _command(self, state: InstanceState, step: StepState, cause: str) -> Message:
        instance = state.instance
        scheduled = step.scheduled
        command = m.RunStep(
            saga=instance.saga,
            id=instance.id,
            seq=scheduled.seq,
            attempt=step.attempt,
            activity=scheduled.activity,
            of=scheduled.of,
            input=step.input,
            result=step.given,
            deadline=step.deadline,
        )
        # Today's queue: nobody may be left to consume the one on record.
        activity = self._activities.get(scheduled.activity)
        queue = scheduled.queue if activity is None else activity.queue
        return Message(
            message_id(instance, "run", scheduled.seq, step.attempt),
            command_queue(queue),
            "RunStep",
            f"{instance.saga}/{instance.id}/{scheduled.seq}",
            m.encode_message(command),
            state.correlation_id,
            cause,
        )

    def _timer(self, state: InstanceState, seq: int, due: datetime, cause: str) -> Message:
        instance = state.instance
        message = m.FireTimer(saga=instance.saga, id=instance.id, seq=seq)
        id = message_id(instance, "timer", seq)
        return self._to_inbox(message, id, state, cause, due)

    def _to_inbox(
        self,
        message: m.EngineMessage,
        id: UUID,
        state: InstanceState,
        cause: str,
        due: datetime | None,
    ) -> Message:
        return to_inbox(
            message,
            id,
            partitions=self._partitions,
            correlation_id=state.correlation_id,
            causation_id=cause,
            due=due,
        )

"""Intake: what a message means for an instance, as input events.

Policy is decided here, once, and goes on record with the event: whether a failed attempt is
repeated and when, whether an outcome is failed or unknown, whether a person is asked. Replay
reads the decisions back and never takes them again, so policies may change between releases.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from amends.activities.definition import Activity
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.retry import Retry, RetryAt
from amends.domain.status import Status
from amends.errors import InvalidPayload
from amends.sagas.execution import ActivityMap, SagaMap
from amends.sagas.journal import message_mark
from amends.sagas.state import InstanceState
from amends.sagas.step import Outcome, StepState

Events = list[e.InputEvent]

_DEFAULT_RETRY: Final = Retry()

#: A message that is early by less was due by the clock of whoever delivered it.
EARLY_MAX: Final = timedelta(seconds=5)

#: Nothing but its id tells such a message from a copy.
_ONLY_ITS_ID_TELLS: Final = (m.DeliverSignal, m.ResolveStep)


class Refused(Exception):
    """A message that makes sense, but not for this instance now. Never leaves the engine."""


class Intake:
    """Turns messages into input events. An empty answer means that the message changes nothing:
    its effect is on record already, or the instance is past it.
    """

    def __init__(self, activities: ActivityMap, sagas: SagaMap) -> None:
        self._activities = activities
        self._sagas = sagas

    def admit(
        self, state: InstanceState, message: m.EngineMessage, message_id: UUID, now: datetime
    ) -> Events:
        """The events that `message` leads to. `now` is pushed forward to the instance's time.

        Raises Refused for what somebody sent and the instance cannot take: they must hear of it.
        """
        at = max(now, state.at)
        if state.started is None:
            return self._start(message, at)
        if (
            isinstance(message, _ONLY_ITS_ID_TELLS)
            and message_mark(message_id) in state.message_marks
        ):
            return []
        handler = _ADMIT.get(type(message))
        return [] if handler is None else handler(self, state, message, at)

    def _start(self, message: m.EngineMessage, at: datetime) -> Events:
        if not isinstance(message, m.StartSaga):
            return []
        return [
            e.SagaStarted(
                at=at,
                saga=message.saga,
                id=message.id,
                input=message.input,
                deadline=message.deadline,
            )
        ]

    # --- reports of attempts

    def _completed(self, state: InstanceState, message: m.ReportCompleted, at: datetime) -> Events:
        step = state.steps.get(message.seq)
        if step is None or step.outcome is Outcome.COMPLETED:
            return []
        if not step.is_open or step.told or not _is_wanted(state, step):
            return self._happened_after_all(state, step, message.attempt, message.result, at)
        done = e.StepCompleted(
            at=at, seq=message.seq, attempt=message.attempt, result=message.result
        )
        if step.kind is e.StepKind.PROBE:
            return [done, *self._probed(state, step, message.result, at)]
        return [done]

    def _probed(self, state: InstanceState, probe: StepState, answer: Any, at: datetime) -> Events:
        """A probe decides the step that it is about."""
        assert probe.scheduled.of is not None
        origin = state.steps.get(probe.scheduled.of)
        if origin is None or not origin.is_open:
            return []  # its own report was faster
        if answer["happened"]:
            attempt, result = max(1, origin.failed_attempts), answer["result"]
            if origin.told:
                return self._happened_after_all(state, origin, attempt, result, at)
            return [e.StepCompleted(at=at, seq=origin.seq, attempt=attempt, result=result)]
        error = origin.error or e.ErrorInfo(type="DidNotHappen", message="by its probe")
        return [self._give_up_failed(state, origin, error, at)]

    def _failed(self, state: InstanceState, message: m.ReportFailed, at: datetime) -> Events:
        step = state.steps.get(message.seq)
        if step is None or step.has_recorded(message.attempt, message.outcome):
            return []
        is_over = not step.is_open or step.parked or step.probing
        if is_over or message.attempt <= step.failed_attempts:
            return self._failed_late(state, step, message, at)
        retry_at = self._retry_at(state, step, message, at)
        failed = e.StepAttemptFailed(
            at=at,
            seq=step.seq,
            attempt=message.attempt,
            outcome=message.outcome,
            error=message.error,
            retry_at=retry_at,
        )
        if retry_at is not None:
            return [failed]
        unsure = step.doubtful or message.outcome is not e.AttemptOutcome.FAILED
        return [failed, *self._give_up(state, step, message.error, at, unsure=unsure)]

    def _failed_late(
        self, state: InstanceState, step: StepState, message: m.ReportFailed, at: datetime
    ) -> Events:
        """Another run of the attempt ended first. That this one failed for sure changes nothing;
        that nobody knows what it did makes the step unknown, whatever the other one said.
        """
        outcome = None if message.outcome is e.AttemptOutcome.FAILED else message.outcome
        is_news = outcome is not None and message.attempt not in step.unsure_attempts
        if step.outcome is Outcome.UNKNOWN:
            is_news = is_news or not step.late
        if not is_news or step.outcome is Outcome.COMPLETED or step.kind is not e.StepKind.STEP:
            return []
        late = e.StepReportedLate(
            at=at,
            seq=step.seq,
            attempt=message.attempt,
            completed=False,
            error=message.error,
            outcome=outcome,
        )
        is_settled = step.outcome in (Outcome.FAILED, Outcome.SKIPPED)
        if not is_settled or not step.may_surprise or step.undo_scheduled:
            return [late]
        if state.final is Status.TERMINATED:
            return [late]
        return [late, self._unknown(state, step, message.error, at)]

    def _happened_after_all(
        self, state: InstanceState, step: StepState, attempt: int, result: Any, at: datetime
    ) -> Events:
        """Nobody counts on the effect any more. It is undone; a pivot that cannot be is for a
        person, because everything else was undone, or will be, as if it had not happened.
        """
        late = e.StepReportedLate(
            at=at, seq=step.seq, attempt=attempt, completed=True, result=result
        )
        is_stuck = step.told and step.scheduled.pivot and step.scheduled.undo is None
        if not is_stuck or state.final is Status.TERMINATED:
            return [late]
        stands = e.ErrorInfo(
            type="PivotStands",
            message=f"{step.scheduled.activity} happened after the saga was told otherwise; it "
            "has no undo, and what the saga did besides is undone, or will be. See to the effect "
            "by hand, then skip the step; to stop what is left of the undoing, terminate",
        )
        return [late, e.StepParked(at=at, seq=step.seq, error=stands)]

    def _retry_at(
        self, state: InstanceState, step: StepState, message: m.ReportFailed, at: datetime
    ) -> datetime | None:
        error = message.error
        if error.declared or step.abandoned or not _is_wanted(state, step):
            return None
        activity = self._activities.get(step.scheduled.activity)
        policy = _DEFAULT_RETRY if activity is None else activity.retry
        decision = policy.decide(
            attempt=message.attempt - step.attempts_before,
            error_type=error.type,
            elapsed_s=(at - step.tried_since).total_seconds(),
            seed=f"{state.instance}/{step.seq}/{message.attempt}",
        )
        if not isinstance(decision, RetryAt):
            return None
        due = at + timedelta(seconds=decision.delay_s)
        return None if step.deadline is not None and due >= step.deadline else due

    def _retry(self, state: InstanceState, message: m.RetryStep, at: datetime) -> Events:
        """The backoff is over, or nobody wants the next attempt any more."""
        step = state.steps.get(message.seq)
        if step is None or not step.is_in_backoff or step.attempt != message.attempt:
            return []
        assert step.retry_at is not None
        assert step.error is not None
        if step.abandoned or not _is_wanted(state, step):
            return self._give_up(state, step, step.error, at, unsure=step.doubtful)
        return [e.StepRetried(at=max(at, step.retry_at), seq=step.seq, attempt=message.attempt)]

    def _expired(self, state: InstanceState, message: m.ExpireStep, at: datetime) -> Events:
        step = state.steps.get(message.seq)
        if step is None or not step.is_open or step.parked or step.probing:
            return []
        if step.deadline is None or at < step.deadline - EARLY_MAX:
            return []
        at = max(at, step.deadline)
        error = e.ErrorInfo(
            type="TimeoutError",
            message=f"{step.scheduled.activity} was not done within its total timeout",
        )
        unsure = step.doubtful or not step.is_in_backoff
        return self._give_up(state, step, error, at, unsure=unsure)

    # --- no attempt is left

    def _give_up(
        self,
        state: InstanceState,
        step: StepState,
        error: e.ErrorInfo,
        at: datetime,
        *,
        unsure: bool,
    ) -> Events:
        """A refusal is sure; an error after a timeout leaves open whether the first attempt had
        its effect.
        """
        if error.traceback is not None:
            # It stands with the attempt already.
            error = error.model_copy(update={"traceback": None})
        if step.kind is e.StepKind.UNDO and _is_wanted(state, step):
            return [e.StepParked(at=at, seq=step.seq, error=error)]
        if step.kind is e.StepKind.PROBE:
            return self._probe_failed(state, step, error, at)
        if error.declared or not unsure:
            return [self._give_up_failed(state, step, error, at)]
        return [self._unknown(state, step, error, at)]

    def _unknown(
        self, state: InstanceState, step: StepState, error: e.ErrorInfo, at: datetime
    ) -> e.StepUnknown:
        activity = self._activities.get(step.scheduled.activity)
        is_probed = activity is not None and activity.probe_activity is not None
        if is_probed and _is_wanted(state, step):
            then = e.AfterUnknown.PROBE
        else:
            then = self._after_unknown(state, step, activity)
        return e.StepUnknown(at=at, seq=step.seq, error=error, then=then)

    def _probe_failed(
        self, state: InstanceState, probe: StepState, error: e.ErrorInfo, at: datetime
    ) -> Events:
        assert probe.scheduled.of is not None
        origin = state.steps.get(probe.scheduled.of)
        given_up: Events = [e.StepFailed(at=at, seq=probe.seq, error=error)]
        if origin is not None and origin.is_open:
            then = self._after_unknown(
                state, origin, self._activities.get(origin.scheduled.activity)
            )
            given_up.append(
                e.StepUnknown(at=at, seq=origin.seq, error=origin.error or error, then=then)
            )
        return given_up

    def _give_up_failed(
        self, state: InstanceState, step: StepState, error: e.ErrorInfo, at: datetime
    ) -> e.InputEvent:
        is_awaited = not step.abandoned and not step.told
        if state.pivot_passed and state.final is None and is_awaited:
            return e.StepParked(at=at, seq=step.seq, error=error)
        return e.StepFailed(at=at, seq=step.seq, error=error)

    def _after_unknown(
        self, state: InstanceState, step: StepState, activity: Activity[Any, Any] | None
    ) -> e.AfterUnknown:
        """A pivot, and what comes after one, is never guessed at: undoing may be impossible."""
        if not _is_wanted(state, step):
            return e.AfterUnknown.RAISE
        if step.scheduled.pivot:
            return e.AfterUnknown.PARK
        if activity is not None and activity.on_unknown == "park":
            return e.AfterUnknown.PARK
        if state.pivot_passed and not step.abandoned and not step.told:
            return e.AfterUnknown.PARK
        return e.AfterUnknown.RAISE

    # --- everything else

    def _timer(self, state: InstanceState, message: m.FireTimer, at: datetime) -> Events:
        if state.final is not None:
            return []
        if message.seq == 0:
            due = None if state.started is None else state.started.deadline
            if due is None or state.deadline_passed:
                return []
        else:
            due = state.timers.get(message.seq)
            if due is None:
                return []
        return [e.TimerFired(at=max(at, due), seq=message.seq)]

    def _signal(self, state: InstanceState, message: m.DeliverSignal, at: datetime) -> Events:
        if state.final is not None:
            raise Refused(f"signal {message.name!r} came after {state.instance} had ended")
        saga = self._sagas.get(state.instance.saga)
        signal = None if saga is None else saga.signals.get(message.name)
        if signal is not None:
            try:
                signal.payload.from_json_value(message.payload)
            except InvalidPayload as error:
                raise Refused(f"signal {message.name!r} carries what it cannot: {error}") from None
        return [e.SignalReceived(at=at, name=message.name, payload=message.payload)]

    def _cancel(self, state: InstanceState, message: m.CancelSaga, at: datetime) -> Events:
        if state.final is not None or state.cancel_requested:
            return []
        return [e.CancelRequested(at=at, who=message.who, why=message.why)]

    def _terminate(self, state: InstanceState, message: m.TerminateSaga, at: datetime) -> Events:
        if state.final is not None:
            return []
        return [e.SagaTerminated(at=at, who=message.who, why=message.why)]

    def _resolve(self, state: InstanceState, message: m.ResolveStep, at: datetime) -> Events:
        step = state.steps.get(message.seq)
        if step is None or not step.parked or state.final is Status.TERMINATED:
            raise Refused(f"step {message.seq} of {state.instance} is not parked")
        if message.resolution is e.Resolution.RETRY and step.told:
            raise Refused(f"the saga went on without step {message.seq}: it is not run again")
        activity = self._activities.get(step.scheduled.activity)
        if message.resolution is e.Resolution.COMPLETE and step.kind is not e.StepKind.UNDO:
            if activity is None:
                raise Refused(
                    f"activity {step.scheduled.activity!r} is not registered with this "
                    "application, so nobody can say whether the result fits; redrive it where it is"
                )
            try:
                activity.result.from_json_value(message.result)
            except InvalidPayload as error:
                raise Refused(
                    f"the result that {message.who} gave by hand does not fit: {error}"
                ) from None
        return [
            e.StepResolved(
                at=at,
                seq=message.seq,
                resolution=message.resolution,
                who=message.who,
                why=message.why,
                result=message.result,
            )
        ]


def _is_wanted(state: InstanceState, step: StepState) -> bool:
    """Whether anything depends on what comes of a step: once its instance has ended, what a late
    report asked for (an undo, a step that is in doubt again and its probe), and nothing else;
    after a termination, nothing.
    """
    if state.final is None:
        return True
    if state.final is Status.TERMINATED:
        return False
    about = step if step.scheduled.of is None else state.steps.get(step.scheduled.of)
    return step.kind is e.StepKind.UNDO or (about is not None and about.told is not None)


_ADMIT: Final[dict[type[m.EngineMessage], Callable[..., Events]]] = {
    m.ReportCompleted: Intake._completed,
    m.ReportFailed: Intake._failed,
    m.RetryStep: Intake._retry,
    m.ExpireStep: Intake._expired,
    m.FireTimer: Intake._timer,
    m.DeliverSignal: Intake._signal,
    m.CancelSaga: Intake._cancel,
    m.TerminateSaga: Intake._terminate,
    m.ResolveStep: Intake._resolve,
}

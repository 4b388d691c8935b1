"""One live execution of a saga's code: inputs in, decisions out.

Pure: no I/O, no clock. `feed` gives the code one input event and runs it to quiescence; what it
decided stands in `decisions` afterwards.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from pydantic_core import from_json

from amends.activities.definition import Activity
from amends.domain import events as e
from amends.domain.payload import PAYLOAD_BYTES_MAX
from amends.domain.status import Status
from amends.errors import (
    DefinitionError,
    NotAllowedInSaga,
    NotRegistered,
    PayloadTooLarge,
    StepFailed,
    StepUnknown,
)
from amends.sagas import guard
from amends.sagas.compensation import Compensation
from amends.sagas.conditions import Conditions
from amends.sagas.context import SagaContext
from amends.sagas.ending import Ending
from amends.sagas.loop import SagaFuture, SagaLoop
from amends.sagas.signals import SignalBox
from amends.sagas.state import InstanceState

if TYPE_CHECKING:
    from amends.sagas.definition import Saga

#: What a step gives that a person decided to skip, whatever its type.
SKIPPED: Final = object()

_TICK: Final = timedelta(microseconds=1)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)

ActivityMap = Mapping[str, Activity[Any, Any]]
SagaMap = Mapping[str, "Saga[Any, Any]"]


class SagaBug(Exception):
    """The saga's code is wrong; `cause` is what it raised. Never leaves the engine."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class SagaExecution:
    """The saga's code in flight, with the state that its journal gives. One thread, no awaits."""

    def __init__(
        self, definition: Saga[Any, Any], state: InstanceState, activities: ActivityMap
    ) -> None:
        self.definition = definition
        self.instance = state.instance
        self.state = state
        self.activities = activities
        self.decisions: deque[e.OutputEvent] = deque()
        # What SagaLoop leaves abstract it refuses by name.
        self.loop = SagaLoop(str(state.instance), self)  # type: ignore[abstract]
        self.discarded = False
        self.compensation = Compensation(self)
        self.ending = Ending(self)
        #: The context variables of the saga's function; its tasks have copies.
        self.context = Context()
        self._seq = 0
        self._waiting: dict[int, SagaFuture[Any]] = {}
        self._conditions = Conditions()
        self._turn = guard.saga_turn()
        self.signals = SignalBox(self.loop, self.context)

    # --- driven by the engine

    def feed(self, event: e.InputEvent) -> None:
        """Give the code one input and run it to quiescence.

        Raises SagaBug when the code is wrong; the execution must then be thrown away, and none
        of the decisions it took for this input counts.
        """
        self.state.apply(event)
        self.loop.now_s = event.at.timestamp()
        handler = _FEED.get(type(event))
        if handler is None or self.state.final is Status.TERMINATED:
            return
        try:
            handler(self, event)
            self.ending.stop_if_possible()
            self._run()
        except SagaBug:
            raise
        except (Exception, SystemExit) as error:  # a saga that exits must not end the engine
            raise SagaBug(error) from error

    def discard(self) -> None:
        """Throw the execution away without running any more of its code."""
        if self.discarded:
            return
        self.discarded = True
        with self._turn:
            self.loop.discard()
        self._waiting.clear()
        self._conditions.clear()
        # They and the execution hold one another: without them it is freed at once, and does not
        # wait for the garbage collector.
        del self.loop, self.ending, self.compensation, self.signals

    def _run(self) -> None:
        self.loop.begin_activation()
        with self._turn as turn:
            self.loop.run_ready()
            while self._conditions and self._conditions.release(self.loop):
                pass
        if turn.refusal is not None:
            raise SagaBug(turn.refusal)
        if self.loop.errors:
            raise SagaBug(self.loop.errors[0])

    @property
    def waits(self) -> int:
        """How many things the code waits for at present."""
        return len(self._waiting) + len(self._conditions) + len(self.state.timers)

    def next_due(self) -> datetime | None:
        """The earliest moment at which something is due, if the code waits for nothing but time;
        None if something may come at any moment.
        """
        if self._conditions or self.signals.is_listening:
            return None
        next_due = min(self.state.timers.values(), default=_NEVER)
        for seq in self._waiting:
            step = self.state.steps.get(seq)
            if step is None or step.retry_at is None:
                return None
            next_due = min(next_due, step.retry_at)
        return next_due

    # --- decisions

    def next_seq(self) -> int:
        """The number of the next decision."""
        self._seq += 1
        return self._seq

    def decide(self, decision: e.OutputEvent) -> None:
        """Take a decision; it holds at once, and stands in `decisions` until it is on record."""
        self.state.apply(decision)
        self.decisions.append(decision)

    # --- what saga code asks for (through its context)

    async def run_step(self, activity: Activity[Any, Any], input: Any, *, pivot: bool) -> Any:
        """Schedule a step and wait for its outcome; see `SagaContext.do`."""
        self._check_alive()
        if self.activities.get(activity.name) is not activity:
            raise NotRegistered(
                f"activity {activity.name!r} is not registered with this application; add it to "
                f"App(activities=[…]). Step not scheduled, nothing was appended."
            )
        if activity.kind is not e.StepKind.STEP:
            raise DefinitionError(
                f"{activity.name!r} is the {activity.kind} of another activity: the engine runs "
                "it when that is needed, and a saga never does. Step not scheduled."
            )
        undo = activity.undo_activity
        raw_input = activity.input.to_json_value(input)
        seq = self.next_seq()
        self.decide(
            e.StepScheduled(
                seq=seq,
                activity=activity.name,
                queue=activity.queue,
                input=raw_input,
                undo=None if undo is None else undo.name,
                undo_failed=activity.undo_failed,
                pivot=pivot,
                deadline=self._after(activity.total_timeout_s),
            )
        )
        try:
            raw = await self.wait_for_step(seq)
        except asyncio.CancelledError:
            step = None if self.discarded else self.state.steps.get(seq)
            if step is not None and step.is_open:
                self.decide(e.StepAbandoned(seq=seq))
            raise
        return None if raw is SKIPPED else activity.result.from_json_value(raw)

    async def wait_for_step(self, seq: int) -> Any:
        """The JSON value of a step's result, once it is over; raises StepFailed, StepUnknown."""
        future = self._waiting[seq] = self.loop.create_future()
        try:
            return await future
        finally:
            self._waiting.pop(seq, None)
            del future  # its error has a traceback, which has this frame

    def emit(self, event: BaseModel) -> None:
        """See `SagaContext.emit`."""
        self._check_alive()
        encoded = self.definition.encode_event(event)
        if len(encoded.data) > PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(
                f"event {encoded.type!r} has {len(encoded.data)} bytes of JSON, and may have "
                f"{PAYLOAD_BYTES_MAX}; nothing was recorded. Emit a reference to what is large"
            )
        self.decide(
            e.DomainEventEmitted(
                seq=self.next_seq(),
                type=encoded.type,
                schema_version=encoded.schema_version,
                data=from_json(encoded.data),
            )
        )

    async def next_signal(self, name: str) -> Any:
        """See `SagaContext.receive`."""
        self._check_alive()
        return await self.signals.next(name)

    def on_signal(self, name: str, handler: Callable[[Any], None]) -> None:
        """See `SagaContext.on`."""
        self._check_alive()
        self.signals.on(name, handler)

    def wait_until(self, condition: Callable[[], bool]) -> Awaitable[None]:
        """See `SagaContext.wait_until`."""
        self._check_alive()
        return self._conditions.add(condition, self.loop.create_future())

    async def sleep_until(self, when: datetime) -> None:
        """See `SagaContext.sleep_until`."""
        await asyncio.sleep((when - self.now()).total_seconds())

    def now(self) -> datetime:
        """The time of the input that is being handled."""
        # What was read from a journal has another tzinfo, which an equal moment's repr shows.
        return self.state.at.replace(tzinfo=UTC)

    def _after(self, seconds: float | None) -> datetime | None:
        if seconds is None:
            return None
        return datetime.fromtimestamp(self.loop.now_s + seconds, UTC)

    def _check_alive(self) -> None:
        # A discarded coroutine may still run its `finally` blocks when Python collects it.
        if self.discarded:
            raise asyncio.CancelledError

    # --- the loop's timers

    def timer_started(self, due_s: float) -> int:
        """A timer of the saga's loop is a decision of the saga."""
        if self.discarded:
            return 0
        try:
            due = datetime.fromtimestamp(due_s, UTC)
            if due.timestamp() < due_s:
                due += _TICK  # never early: a saga may compare its clock with the moment it wanted
        except (OverflowError, ValueError) as error:
            self.loop.errors.append(
                NotAllowedInSaga(
                    "a timer's end must lie before the year 9999; to wait without end, await a "
                    "signal or a condition"
                )
            )
            raise self.loop.errors[-1] from error
        seq = self.next_seq()
        self.decide(e.TimerStarted(seq=seq, due=due))
        return seq

    def timer_cancelled(self, seq: int) -> None:
        """So is giving one up."""
        if not self.discarded:
            self.decide(e.TimerCancelled(seq=seq))

    # --- inputs

    def _on_started(self, event: e.SagaStarted) -> None:
        self.ending.run(self.definition.call(SagaContext(self), event.input))

    def _on_step_completed(self, event: e.StepCompleted | e.StepResolved) -> None:
        self._resolve(event.seq, event.result)
        step = self.state.steps.get(event.seq)
        if step is not None:
            self.compensation.make_good(step)

    def _on_step_failed(self, event: e.StepFailed) -> None:
        step = self.state.step(event.seq)
        self._reject(event.seq, StepFailed(step.scheduled.activity, event.seq, event.error))

    def _on_step_unknown(self, event: e.StepUnknown) -> None:
        step = self.state.step(event.seq)
        if event.then is e.AfterUnknown.RAISE:
            self._reject(event.seq, StepUnknown(step.scheduled.activity, event.seq, event.error))
            self.compensation.make_good(step)
        elif event.then is e.AfterUnknown.PROBE:
            activity = self.activities.get(step.scheduled.activity)
            probe = None if activity is None else activity.probe_activity
            if probe is None:
                raise NotRegistered(
                    f"step {event.seq} is to be probed, but activity {step.scheduled.activity!r} "
                    "has no probe any more"
                )
            self.decide(
                e.StepScheduled(
                    seq=self.next_seq(),
                    activity=probe.name,
                    queue=probe.queue,
                    kind=e.StepKind.PROBE,
                    of=event.seq,
                )
            )

    def _on_step_resolved(self, event: e.StepResolved) -> None:
        if event.resolution is e.Resolution.SKIP:
            self._resolve(event.seq, SKIPPED)
        elif event.resolution is e.Resolution.COMPLETE:
            self._on_step_completed(event)

    def _on_reported_late(self, event: e.StepReportedLate) -> None:
        if event.completed:
            self.compensation.make_good(self.state.step(event.seq))

    def _on_timer_fired(self, event: e.TimerFired) -> None:
        if event.seq:
            self.loop.fire(event.seq)
        else:
            self.ending.stop()

    def _on_signal(self, event: e.SignalReceived) -> None:
        self.signals.put(event.name, event.payload)

    def _on_cancel_requested(self, event: e.CancelRequested) -> None:
        self.ending.stop()

    def _resolve(self, seq: int, result: Any) -> None:
        future = self._waiting.get(seq)
        if future is not None and not future.done():
            future.set_result(result)

    def _reject(self, seq: int, error: StepFailed) -> None:
        future = self._waiting.get(seq)
        if future is not None and not future.done():
            future.set_exception(error)


_FEED: Final[dict[type[e.InputEvent], Callable[[SagaExecution, Any], None]]] = {
    e.SagaStarted: SagaExecution._on_started,
    e.StepCompleted: SagaExecution._on_step_completed,
    e.StepFailed: SagaExecution._on_step_failed,
    e.StepUnknown: SagaExecution._on_step_unknown,
    e.StepResolved: SagaExecution._on_step_resolved,
    e.StepReportedLate: SagaExecution._on_reported_late,
    e.TimerFired: SagaExecution._on_timer_fired,
    e.SignalReceived: SagaExecution._on_signal,
    e.CancelRequested: SagaExecution._on_cancel_requested,
}

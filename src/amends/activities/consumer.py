"""The activity consumer: takes the commands of one queue, runs their activities, and reports.

It only reports. Whether a failed attempt is repeated is the orchestrator's decision.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from amends.activities.aggregates import Repositories
from amends.activities.context import ActivityContext, set_activity_context
from amends.activities.definition import Activity, DidNotHappen, Happened
from amends.broker.mail import message_id, to_inbox
from amends.broker.port import Broker, Delivery, Message
from amends.broker.subscription import Subscription
from amends.broker.topology import command_queue
from amends.domain.backoff import back_off
from amends.domain.clock import Clock
from amends.domain.deadlines import Deadlines
from amends.domain.events import AttemptOutcome, ErrorInfo, StepKind
from amends.domain.failures import error_info
from amends.domain.messages import (
    EngineMessage,
    ReportCompleted,
    ReportFailed,
    RunStep,
    decode_message,
)
from amends.errors import (
    BrokerError,
    BrokerUnavailable,
    Failure,
    InvalidMessage,
    InvalidPayload,
)
from amends.telemetry import Log

log = Log("amends.activities")

#: A command that was in hand at so many crashes is taken for their cause.
DELIVERIES_MAX = 20


class ActivityConsumer:
    """Runs the activities of one queue, at most `concurrency` attempts at a time."""

    def __init__(
        self,
        *,
        queue: str,
        activities: Mapping[str, Activity[Any, Any]],
        broker: Broker,
        clock: Clock,
        partitions: int = 1,
        repositories: Repositories | None = None,
        concurrency: int = 100,
        deliveries_max: int = DELIVERIES_MAX,
    ) -> None:
        self._queue = queue
        self._activities = activities
        self._broker = broker
        self._clock = clock
        self._partitions = partitions
        self._repositories = repositories
        self._concurrency = concurrency
        self._deliveries_max = deliveries_max
        self._subscription: Subscription | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._held: dict[UUID, list[Delivery]] = {}
        self._deadlines = Deadlines()
        self._threads: ThreadPoolExecutor | None = None
        self._late: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until `stop` is called; returns when what was running is done.

        If it is cancelled instead, what was running is cancelled too, and handed back.
        """
        subscribe = partial(
            self._broker.consume, command_queue(self._queue), limit=self._concurrency
        )
        subscription = self._subscription = Subscription(subscribe, clock=self._clock)
        try:
            while deliveries := await subscription.receive():
                for delivery in deliveries:
                    self._begin(delivery)
            while unfinished := self._running | self._late:
                await asyncio.wait(unfinished)
        finally:
            for task in self._running:
                task.cancel()
            for late in self._late:
                late.cancel()
            await asyncio.gather(*self._running, *self._late, return_exceptions=True)
            await subscription.close()
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    async def stop(self) -> None:
        """Take no more commands, hand back those that have not begun, finish those that have."""
        if self._subscription is not None:
            await self._subscription.stop()

    # --- one command

    def _begin(self, delivery: Delivery) -> None:
        id = delivery.message.id
        held = self._held.get(id)
        if held is not None:
            # A copy of what is running. It stays in hand until the one report that serves all is
            # out: after a lost connection, the broker knows of the copy only.
            held.append(delivery)
            return
        held = self._held[id] = [delivery]
        task = asyncio.create_task(self._handle(held))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # The command is not acknowledged: it comes again when this consumer is gone.
            log.error("attempt_not_reported", queue=self._queue, exc_info=task.exception())

    async def _handle(self, held: list[Delivery]) -> None:
        """Run a command and let go of its delivery, and of the copies that came meanwhile."""
        id = held[0].message.id
        try:
            await self._let_go(held, await self._run(held[0]))
        finally:
            # At once: a copy that came between the last look and a callback would be held forever.
            del self._held[id]

    async def _let_go(
        self, held: list[Delivery], let_go: Callable[[Delivery], Awaitable[None]]
    ) -> None:
        key = held[0].message.key
        is_out = False
        failures = 0
        while held:
            # More copies may come meanwhile, behind these.
            last = len(held) - 1
            try:
                if is_out:
                    await self._broker.ack(held[: last + 1])
                    del held[: last + 1]
                else:
                    await let_go(held[last])
                    is_out = True
                    del held[last]
            except BrokerUnavailable as error:
                failures += 1
                log.warning("report_retried", key=key, error=str(error))
                await back_off(self._clock, failures)

    async def _run(self, delivery: Delivery) -> Callable[[Delivery], Awaitable[None]]:
        """Do what a command says; returns how to let go of its delivery."""
        message = delivery.message
        try:
            command = decode_message(message.type, message.body)
            if not isinstance(command, RunStep):
                raise InvalidMessage(f"a {message.type} is no command")
        except InvalidMessage as error:
            return self._put_aside("unreadable", str(error))
        activity = self._activities.get(command.activity)
        if activity is None:
            return self._put_aside(
                "unknown activity",
                f"{command.activity!r} is not registered with this application; deploy one that "
                "has it, then redrive",
            )
        if delivery.count > self._deliveries_max:
            report: EngineMessage = self._failed(
                command,
                AttemptOutcome.VANISHED,
                ErrorInfo(
                    type="Vanished",
                    message=f"its consumer was gone {delivery.count - 1} times while running it",
                ),
            )
        else:
            report = await self._attempt(activity, command, message)
        return self._report(message, command, report)

    def _report(
        self, cause: Message, command: RunStep, report: EngineMessage
    ) -> Callable[[Delivery], Awaitable[None]]:
        reply = self._reply(cause, command, report)
        return lambda delivery: self._broker.reply(delivery, reply)

    def _reply(self, cause: Message, command: RunStep, report: EngineMessage) -> Message:
        # Two runs of one attempt may end differently, and then their reports are no copies.
        outcome = report.outcome if isinstance(report, ReportFailed) else "completed"
        return to_inbox(
            report,
            message_id(command.instance, f"report {outcome}", command.seq, command.attempt),
            partitions=self._partitions,
            correlation_id=cause.correlation_id,
            causation_id=str(cause.id),
            trace_parent=cause.trace_parent,
        )

    def _put_aside(self, reason: str, detail: str) -> Callable[[Delivery], Awaitable[None]]:
        async def put_aside(delivery: Delivery) -> None:
            log.warning("dead_letter", reason=reason, detail=detail, key=delivery.message.key)
            await self._broker.dead_letter(delivery, reason=reason, detail=detail)

        return put_aside

    # --- one attempt

    async def _attempt(
        self, activity: Activity[Any, Any], command: RunStep, message: Message
    ) -> EngineMessage:
        """Run the activity once; whatever it does becomes a report."""
        deadline = self._deadline(activity, command)
        timeout_s = None
        if deadline is not None:
            timeout_s = (deadline - self._clock.now()).total_seconds()
            if timeout_s <= 0:
                # It may have begun before, so it is not known to have failed, also if this is the
                # first delivery: see `Delivery.count`.
                return self._failed(command, AttemptOutcome.TIMED_OUT, _too_late(activity))
        timeout = self._deadlines.within(timeout_s)
        thread: Future[Any] | None = None
        try:
            arguments = activity.arguments(command.input, command.result)
            set_activity_context(self._context(activity, command, message, deadline))
            with timeout:
                if activity.is_async:
                    result = await activity.fn(*arguments)
                else:
                    thread = self._begin_thread(activity, arguments)
                    result = await self._in_thread(thread, activity, command, message)
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return self._failed(command, AttemptOutcome.FAILED, error_info(error))
        except (Exception, SystemExit) as error:  # an activity that exits must not end the engine
            if timeout.expired:
                # A cancelled thread never began. That of an earlier delivery may have.
                began = thread is None or not thread.cancelled()
                too_long = _took_too_long(activity, timeout_s, began)
                return self._failed(command, AttemptOutcome.TIMED_OUT, too_long)
            info = error_info(error, with_traceback=not isinstance(error, Failure))
            return self._failed(command, AttemptOutcome.FAILED, info)
        return self._completed(activity, command, result)

    def _context(
        self,
        activity: Activity[Any, Any],
        command: RunStep,
        message: Message,
        deadline: datetime | None,
    ) -> ActivityContext:
        return ActivityContext(
            instance=command.instance,
            activity=activity.name,
            seq=command.seq,
            attempt=command.attempt,
            idempotency_key=command.idempotency_key,
            origin_key=command.origin_key,
            deadline=deadline,
            correlation_id=message.correlation_id,
            command_id=str(message.id),
            repositories=self._repositories,
        )

    def _deadline(self, activity: Activity[Any, Any], command: RunStep) -> datetime | None:
        ends = [] if command.deadline is None else [command.deadline]
        if activity.timeout_s is not None:
            ends.append(self._clock.now() + timedelta(seconds=activity.timeout_s))
        return min(ends, default=None)

    def _begin_thread(self, activity: Activity[Any, Any], arguments: list[Any]) -> Future[Any]:
        """Run a plain function, as soon as a thread is free: some may still be at work for nobody."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                self._concurrency, thread_name_prefix=f"amends-{self._queue}"
            )
        context = contextvars.copy_context()
        return self._threads.submit(context.run, activity.fn, *arguments)

    async def _in_thread(
        self,
        thread: Future[Any],
        activity: Activity[Any, Any],
        command: RunStep,
        message: Message,
    ) -> Any:
        """What a plain function returns. A thread cannot be stopped: when nobody waits for it any
        more, it goes on, and what comes of it is reported late.
        """
        running = asyncio.wrap_future(thread)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if thread.cancel():
                raise  # it had not begun, and now never will
            late = asyncio.create_task(self._report_late(running, activity, command, message))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise

    async def _report_late(
        self,
        running: asyncio.Future[Any],
        activity: Activity[Any, Any],
        command: RunStep,
        message: Message,
    ) -> None:
        """Best effort: the outcome is on record as unknown, and this only makes it known."""
        try:
            report = self._completed(activity, command, await running)
        except (Exception, SystemExit) as error:
            report = self._failed(command, AttemptOutcome.FAILED, error_info(error))
        try:
            await self._broker.publish([self._reply(message, command, report)])
        except BrokerError as error:
            log.warning("late_report_lost", key=message.key, error=str(error))

    def _completed(
        self, activity: Activity[Any, Any], command: RunStep, result: Any
    ) -> EngineMessage:
        try:
            value = _result_value(activity, result)
        except Exception as error:
            # The effect happened; only its result is lost. "Failed" would be a lie.
            return self._failed(command, AttemptOutcome.VANISHED, error_info(error))
        return ReportCompleted(
            saga=command.saga,
            id=command.id,
            seq=command.seq,
            attempt=command.attempt,
            result=value,
        )

    def _failed(self, command: RunStep, outcome: AttemptOutcome, error: ErrorInfo) -> ReportFailed:
        return ReportFailed(
            saga=command.saga,
            id=command.id,
            seq=command.seq,
            attempt=command.attempt,
            outcome=outcome,
            error=error,
        )


def _took_too_long(activity: Activity[Any, Any], timeout_s: float | None, began: bool) -> ErrorInfo:
    what = "took longer than" if began else "found no free thread to begin in for"
    return ErrorInfo(type="TimeoutError", message=f"{activity.name} {what} {timeout_s:.3g} s")


def _too_late(activity: Activity[Any, Any]) -> ErrorInfo:
    return ErrorInfo(
        type="TimeoutError",
        message=f"the time for all attempts of {activity.name} was over before this one began",
    )


def _result_value(activity: Activity[Any, Any], result: Any) -> Any:
    if activity.kind is not StepKind.PROBE:
        return activity.result.to_json_value(result)
    assert activity.origin is not None
    if isinstance(result, Happened):
        return {"happened": True, "result": activity.origin.result.to_json_value(result.result)}
    if isinstance(result, DidNotHappen):
        return {"happened": False, "result": None}
    raise InvalidPayload(
        f"probe {activity.name!r} answered {type(result).__name__}; it must answer "
        "Happened(result) or DidNotHappen()"
    )

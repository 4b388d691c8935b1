"""Engines that are broken on purpose, each in one way: what the suite must not let pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import pytest

from amends.broker.commit import SequentialCommitter, TurnCommit
from amends.broker.port import Message
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.ids import ANY
from amends.errors import WrongExpectedVersion
from amends.sagas import compensation, intake
from amends.sagas.compensation import Compensation
from amends.sagas.dispatch import Dispatcher
from amends.sagas.execution import SagaExecution
from amends.sagas.intake import Intake
from amends.sagas.rounds import Part, RoundTaker
from amends.sagas.state import InstanceState
from amends.sagas.step import Outcome, StepState
from amends.sagas.turn import Inbound, Live, Turn, TurnTaker
from amends.stores.port import Append

Patch = pytest.MonkeyPatch
Events = list[e.InputEvent]

DEFECTS: dict[str, Callable[[Patch], None]] = {}


def defect(break_it: Callable[[Patch], None]) -> Callable[[Patch], None]:
    DEFECTS[break_it.__name__] = break_it
    return break_it


# --- committing


def take_steps(patch: Patch, *steps: str) -> None:
    """Commit in another order than append, publish, acknowledge."""

    async def commit(
        self: SequentialCommitter, turns: Sequence[TurnCommit]
    ) -> list[Exception | None]:
        errors: dict[int, Exception] = {}
        for step in steps:
            left = {n: turn for n, turn in enumerate(turns) if n not in errors}
            errors |= await getattr(self, step)(left)
        return [errors.get(n) for n in range(len(turns))]

    patch.setattr(SequentialCommitter, "commit", commit)


@defect
def acknowledge_before_append(patch: Patch) -> None:
    take_steps(patch, "_acknowledge", "_append", "_publish")


@defect
def acknowledge_with_the_first_part_of_a_turn(patch: Patch) -> None:
    right = TurnTaker.take

    def take(self: TurnTaker, live: Live, inbound: Sequence[Inbound], now: datetime) -> Turn:
        turn = right(self, live, inbound, now)
        if not any(isinstance(event, e.TurnSplit) for event in turn.events):
            return turn
        done = [*turn.commit.acknowledge, inbound[turn.taken].delivery]
        commit = turn.commit._replace(acknowledge=done)
        return turn._replace(commit=commit, taken=turn.taken + 1)

    patch.setattr(TurnTaker, "take", take)


@defect
def publish_before_append(patch: Patch) -> None:
    take_steps(patch, "_publish", "_append", "_acknowledge")


@defect
def acknowledge_before_publish(patch: Patch) -> None:
    take_steps(patch, "_append", "_acknowledge", "_publish")


@defect
def ignore_wrong_expected_version(patch: Patch) -> None:
    right = SequentialCommitter._outcome

    async def outcome(self: SequentialCommitter, append: Append) -> Exception | None:
        error = await right(self, append)
        return None if isinstance(error, WrongExpectedVersion) else error

    patch.setattr(SequentialCommitter, "_outcome", outcome)


@defect
def no_fence_between_engines(patch: Patch) -> None:
    right = SequentialCommitter._outcome

    async def outcome(self: SequentialCommitter, append: Append) -> Exception | None:
        return await right(self, append._replace(expected=ANY))

    patch.setattr(SequentialCommitter, "_outcome", outcome)


@defect
def trust_a_cache_that_is_behind(patch: Patch) -> None:
    async def check_current(self: RoundTaker, parts: Sequence[Part]) -> None:
        pass

    patch.setattr(RoundTaker, "_check_current", check_current)


# --- going on after a crash


@defect
def no_redrive_by_duplicates(patch: Patch) -> None:
    right = TurnTaker._redrive

    def redrive(self: TurnTaker, live: Live, message: m.EngineMessage, *rest: Any) -> Any:
        return right(self, live, message, *rest) if isinstance(message, m.RetryStep) else []

    patch.setattr(TurnTaker, "_redrive", redrive)


@defect
def forget_retries_on_redrive(patch: Patch) -> None:
    _filter_outstanding(patch, lambda message: message.type != "RetryStep")


@defect
def forget_timers_on_redrive(patch: Patch) -> None:
    _filter_outstanding(patch, lambda message: message.type != "FireTimer")


@defect
def forget_commands_on_redrive(patch: Patch) -> None:
    _filter_outstanding(patch, lambda message: message.type != "RunStep")


def _filter_outstanding(patch: Patch, keeps: Callable[[Message], bool]) -> None:
    right = Dispatcher.outstanding

    def outstanding(self: Dispatcher, state: InstanceState, cause: str) -> list[Message]:
        return [message for message in right(self, state, cause) if keeps(message)]

    patch.setattr(Dispatcher, "outstanding", outstanding)


@defect
def a_new_idempotency_key_for_each_attempt(patch: Patch) -> None:
    def key(self: m.RunStep) -> str:
        return f"{self.saga}/{self.id}/{self.seq}#{self.attempt}"

    patch.setattr(m.RunStep, "idempotency_key", property(key))


# --- undoing


@defect
def drop_the_undo(patch: Patch) -> None:
    right = SagaExecution.decide

    def decide(self: SagaExecution, decision: e.OutputEvent) -> None:
        if isinstance(decision, e.StepScheduled):
            decision = decision.model_copy(update={"undo": None})
        right(self, decision)

    patch.setattr(SagaExecution, "decide", decide)


@defect
def undo_first_in_first_out(patch: Patch) -> None:
    def in_order(steps: Iterable[StepState]) -> list[StepState]:
        return list(steps)

    patch.setattr(compensation, "reversed", in_order, raising=False)


@defect
def undo_while_attempts_are_running(patch: Patch) -> None:
    patch.setattr(InstanceState, "is_settled", property(lambda self: True))


@defect
def undo_only_what_is_known_to_have_happened(patch: Patch) -> None:
    def needs_undo(step: StepState) -> bool:
        return step.scheduled.undo is not None and step.outcome is Outcome.COMPLETED

    patch.setattr(StepState, "needs_undo", property(needs_undo))


@defect
def undo_nothing_again_after_a_late_result(patch: Patch) -> None:
    def happened(self: Compensation, step: StepState) -> None:
        pass

    patch.setattr(Compensation, "make_good", happened)


# --- taking messages in


@defect
def take_a_completed_step_twice(patch: Patch) -> None:
    def completed(right: Any, self: Intake, state: InstanceState, *rest: Any) -> Events:
        events: Events = right(self, state, *rest)
        return [*events, *(one for one in events[:1] if isinstance(one, e.StepCompleted))]

    _wrap_intake(patch, m.ReportCompleted, completed)


@defect
def lose_late_results(patch: Patch) -> None:
    def completed(right: Any, self: Intake, state: InstanceState, *rest: Any) -> Events:
        events: Events = right(self, state, *rest)
        return [one for one in events if not isinstance(one, e.StepReportedLate)]

    _wrap_intake(patch, m.ReportCompleted, completed)


@defect
def take_a_timeout_for_a_failure(patch: Patch) -> None:
    right = Intake._give_up

    def give_up(self: Intake, *args: Any, unsure: bool) -> Events:
        return right(self, *args, unsure=False)

    patch.setattr(Intake, "_give_up", give_up)


@defect
def forget_the_doubt_of_earlier_attempts(patch: Patch) -> None:
    def failed(right: Any, self: Intake, state: InstanceState, *rest: Any) -> Events:
        step = state.steps.get(rest[0].seq)
        if step is not None:
            step.doubtful = False
        events: Events = right(self, state, *rest)
        return events

    _wrap_intake(patch, m.ReportFailed, failed)


@defect
def fire_a_timer_before_it_is_due(patch: Patch) -> None:
    def timer(right: Any, self: Intake, *rest: Any) -> Events:
        events: Events = right(self, *rest)
        return [one.model_copy(update={"at": rest[2]}) for one in events]

    _wrap_intake(patch, m.FireTimer, timer)


@defect
def drop_doubt_about_what_had_failed(patch: Patch) -> None:
    right = StepState.has_recorded

    def has_recorded(self: StepState, attempt: int, outcome: e.AttemptOutcome) -> bool:
        return self.told is not None or right(self, attempt, outcome)

    patch.setattr(StepState, "has_recorded", has_recorded)


@defect
def go_on_without_what_happened_after_all(patch: Patch) -> None:
    right: Any = StepState.is_unwanted

    def is_unwanted(step: StepState) -> bool:
        return bool(right.fget(step)) and (step.abandoned or step.outcome is Outcome.UNKNOWN)

    patch.setattr(StepState, "is_unwanted", property(is_unwanted))


def _wrap_intake(patch: Patch, kind: type[m.EngineMessage], wrapper: Any) -> None:
    right = intake._ADMIT[kind]

    def handler(self: Intake, *args: Any) -> Events:
        events: Events = wrapper(right, self, *args)
        return events

    patch.setitem(intake._ADMIT, kind, handler)

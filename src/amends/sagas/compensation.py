"""Compensation: making good whatever a failed saga already did.

It runs on the saga's own loop, outside the saga's own tasks, so that no cancellation, second
failure or timeout of theirs can reach it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amends.domain import events as e
from amends.errors import NotRegistered
from amends.sagas.step import StepState

if TYPE_CHECKING:
    from amends.sagas.execution import SagaExecution


class Compensation:
    """Undoes the steps of one execution."""

    def __init__(self, execution: SagaExecution) -> None:
        self._execution = execution
        self._planned: set[int] | None = None

    async def run(self, reason: e.CompensationReason, error: e.ErrorInfo | None) -> None:
        """Wait until nothing runs any more, undo what was done, and end the saga."""
        execution = self._execution
        execution.decide(e.CompensationStarted(seq=0, reason=reason, error=error))
        await execution.ending.wind_down()
        await execution.wait_until(lambda: execution.state.is_settled)
        steps = [step for step in execution.state.steps.values() if step.needs_undo]
        self._planned = {step.seq for step in steps}
        if execution.definition.compensate == "in_parallel":
            await asyncio.gather(*(self._undo(step) for step in steps))
        else:
            for step in reversed(steps):
                await self._undo(step)
        # A late result may have added an undo meanwhile.
        await execution.wait_until(lambda: not execution.state.open_steps())
        execution.decide(self._end(reason, error))

    async def undo_unwanted(self) -> None:
        """Before a saga completes: undo what it went on without.

        It may have given a step up and gone another way, or caught that its outcome is unknown.
        Were the effect left standing, the money would have moved twice.
        """
        execution = self._execution
        state = execution.state
        await execution.wait_until(
            lambda: not any(step.is_open and step.is_unwanted for step in state.steps.values())
        )
        steps = [step for step in state.steps.values() if step.is_unwanted]
        self._planned = {step.seq for step in steps}
        for step in reversed(steps):
            await self._undo(step)

    def close(self) -> None:
        """The saga completes. An effect that it never learnt of is undone from now on."""
        if self._planned is None:
            self._planned = set()

    def make_good(self, step: StepState) -> None:
        """The effect of a step happened or may have happened, though compensation began without
        knowing that. What was not undone is undone; what was undone without its result is undone
        again once that is known: the undo is the same activity, and safe to repeat by contract.
        """
        if self._planned is None or step.scheduled.undo is None or step.is_undone:
            return  # not undone yet, if it ever will be
        if step.undo_scheduled or step.seq not in self._planned:
            self._schedule(step)

    async def _undo(self, step: StepState) -> None:
        if not step.is_undone:
            await self._execution.wait_for_step(self._schedule(step))

    def _schedule(self, step: StepState) -> int:
        execution = self._execution
        assert step.scheduled.undo is not None
        undo = execution.activities.get(step.scheduled.undo)
        if undo is None:
            raise NotRegistered(
                f"step {step.seq} is to be undone by {step.scheduled.undo!r}, which is not "
                "registered with this application any more"
            )
        seq = execution.next_seq()
        execution.decide(
            e.StepScheduled(
                seq=seq,
                activity=step.scheduled.undo,
                queue=undo.queue,
                kind=e.StepKind.UNDO,
                of=step.seq,
            )
        )
        return seq

    def _end(self, reason: e.CompensationReason, error: e.ErrorInfo | None) -> e.OutputEvent:
        undone = sum(step.undo_scheduled for step in self._execution.state.steps.values())
        if reason == "cancelled":
            return e.SagaCancelled(seq=0, undone=undone)
        assert error is not None
        if undone:
            return e.SagaCompensated(seq=0, error=error)
        return e.SagaFailed(seq=0, error=error)

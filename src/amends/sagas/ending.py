"""How a saga's own code ends, and what follows: its completion, or compensation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from amends.domain import events as e
from amends.domain.failures import error_info, is_declared_failure
from amends.errors import DeadlineExceeded, NotAllowedInSaga

if TYPE_CHECKING:
    from amends.sagas.execution import SagaExecution


class Ending:
    """Runs the function of one execution, stops it when it must, and acts on its end."""

    def __init__(self, execution: SagaExecution) -> None:
        self._execution = execution
        self._main: asyncio.Task[Any] | None = None
        self._stop_wanted = False

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start the saga's own function."""
        execution = self._execution
        self._main = execution.loop.create_task(coroutine, context=execution.context)
        self._main.add_done_callback(self._main_ended, context=execution.context)

    def stop(self) -> None:
        """It was asked to stop, or its deadline passed: see `stop_if_possible`."""
        self._stop_wanted = True

    def stop_if_possible(self) -> None:
        """Cancel the saga's code if that is wanted and it can still go back.

        While a pivot runs nobody can say so: its outcome decides.
        """
        if self._stop_wanted and self._main is not None and not self._is_pivot_open():
            self._stop_wanted = False
            if not self._execution.state.pivot_passed:
                self._main.cancel()

    async def wind_down(self) -> None:
        """Cancel what the saga's function left running, as asyncio.run does, and wait for it."""
        current = asyncio.current_task()
        loop = self._execution.loop
        leftovers = [task for task in loop.unfinished_tasks() if task is not current]
        for task in leftovers:
            if not loop.is_closing(task):
                task.cancel()
        if leftovers:
            await asyncio.wait(leftovers)
        self._check_unheard()

    def _check_unheard(self) -> None:
        """A bug in a task is a bug of the saga, even when nobody awaited the task."""
        loop = self._execution.loop
        loop.errors += [each for each in loop.unheard_errors() if not is_declared_failure(each)]

    # --- the end of the saga's function

    def _is_pivot_open(self) -> bool:
        steps = self._execution.state.steps.values()
        return any(step.is_open and step.scheduled.pivot and not step.told for step in steps)

    def _main_ended(self, task: asyncio.Task[Any]) -> None:
        if self._execution.discarded:
            return
        if self._is_pivot_open():
            self._go_on(self._end_after_pivot(task))
        else:
            self._end(task)

    async def _end_after_pivot(self, task: asyncio.Task[Any]) -> None:
        """The saga's code did not wait for its pivot, whose outcome decides whether it may fail."""
        await self._execution.wait_until(lambda: not self._is_pivot_open())
        self._end(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        execution = self._execution
        state = execution.state
        error = None if task.cancelled() else task.exception()
        if error is not None and not is_declared_failure(error):
            execution.loop.errors.append(error)
        elif state.pivot_passed and (error is not None or task.cancelled()):
            ended = "was cancelled" if error is None else f"raised {error!r}"
            self._refuse(
                f"the saga {ended} after its pivot was completed: it can only go forward from "
                "there. Handle the failure in the saga"
            )
        elif self._was_stopped():
            self._compensate_stopped()
        elif error is not None:
            self._compensate("failed", error)
        elif task.cancelled():
            self._refuse("the saga raised CancelledError, but nobody had cancelled it")
        elif execution.loop.unfinished_tasks() or self._has_unwanted_steps():
            self._go_on(self._complete_after_tidying(task))
        else:
            self._check_unheard()
            self._complete(task)

    def _refuse(self, why: str) -> None:
        self._execution.loop.errors.append(NotAllowedInSaga(why))

    def _compensate(self, reason: e.CompensationReason, error: BaseException | None) -> None:
        info = None if error is None else error_info(error)
        self._go_on(self._execution.compensation.run(reason, info))

    def _was_stopped(self) -> bool:
        state = self._execution.state
        return (state.cancel_requested or state.deadline_passed) and not state.pivot_passed

    def _compensate_stopped(self) -> None:
        execution = self._execution
        if execution.state.cancel_requested:
            self._compensate("cancelled", None)
        else:
            late = DeadlineExceeded(f"{execution.instance} was not done by its deadline")
            self._compensate("deadline", late)

    def _has_unwanted_steps(self) -> bool:
        return any(step.is_unwanted for step in self._execution.state.steps.values())

    async def _complete_after_tidying(self, task: asyncio.Task[Any]) -> None:
        await self.wind_down()
        await self._execution.compensation.undo_unwanted()
        if self._was_stopped():
            self._compensate_stopped()
        else:
            self._complete(task)

    def _complete(self, task: asyncio.Task[Any]) -> None:
        execution = self._execution
        result = execution.definition.result.to_json_value(task.result())
        execution.compensation.close()
        execution.decide(e.SagaCompleted(seq=0, result=result))

    def _go_on(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the engine's part in a task of its own, out of reach of the saga's."""
        execution = self._execution
        task = execution.loop.create_task(coroutine, context=execution.context)
        task.add_done_callback(self._went_on, context=execution.context)

    def _went_on(self, task: asyncio.Task[None]) -> None:
        error = task.exception()
        if error is not None:
            self._execution.loop.errors.append(error)

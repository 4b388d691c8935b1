"""A person's decision about a parked step, checked before it is sent. Pure."""

from __future__ import annotations

from typing import Any

from amends.domain import messages as m
from amends.domain.events import Resolution, StepKind
from amends.domain.status import Status
from amends.errors import ActionRefused, InvalidPayload, NotRegistered, UsageError
from amends.sagas.execution import ActivityMap
from amends.sagas.state import InstanceState
from amends.sagas.step import StepState


def decide(
    state: InstanceState,
    activities: ActivityMap,
    resolution: Resolution | str,
    *,
    who: str,
    why: str,
    seq: int | None,
    result: Any,
) -> m.ResolveStep:
    """The message of a decision. See `Handle.resolve`, which raises what this raises."""
    try:
        word = Resolution(resolution)
    except ValueError:
        words = ", ".join(Resolution)
        raise UsageError(f"{resolution!r} decides nothing; it is one of {words}") from None
    step = _parked(state, seq)
    if word is Resolution.RETRY and step.told:
        raise ActionRefused(
            f"{state.instance} was told how step {step.seq} ended and went on without it, so it is "
            "not run again. Resolve it with skip (leave it as it is) or complete (it happened, "
            "with this result: it is undone)"
        )
    if word is Resolution.COMPLETE:
        result = _checked(step, activities, result)
    return m.ResolveStep(
        saga=state.instance.saga,
        id=state.instance.id,
        seq=step.seq,
        resolution=word,
        who=who,
        why=why,
        result=result,
    )


def _checked(step: StepState, activities: ActivityMap, result: Any) -> Any:
    """A result by hand, if it fits: a saga that it does not fit would stall of it."""
    if step.kind is StepKind.UNDO:
        if result is not None:
            raise InvalidPayload(
                f"step {step.seq} is an undo, and an undo has no result; nothing was sent"
            )
        return None
    activity = activities.get(step.scheduled.activity)
    if activity is None:
        raise NotRegistered(
            f"activity {step.scheduled.activity!r} is not registered with this application, so "
            f"nobody can say whether the result of step {step.seq} fits. Nothing was sent. Use the "
            "application that has it (on the command line: --app)"
        )
    return activity.result.to_json_value(activity.result.from_json_value(result))


def _parked(state: InstanceState, seq: int | None) -> StepState:
    """The step that is meant: the one of that number, or the only one that is parked."""
    if state.final is Status.TERMINATED:
        raise ActionRefused(f"{state.instance} was terminated: nothing of it is run any more")
    parked = [step for step in state.steps.values() if step.parked]
    chosen = [step for step in parked if seq in (None, step.seq)]
    if len(chosen) != 1:
        names = ", ".join(f"{step.seq} ({step.scheduled.activity})" for step in parked)
        raise ActionRefused(
            f"{state.instance} has {len(chosen)} parked steps to choose from; parked: "
            f"{names or 'none'}. Name one by its number"
        )
    return chosen[0]

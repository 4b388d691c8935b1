"""What a fault found in flight, so that a test of faults cannot come to prove nothing."""

from __future__ import annotations

from collections.abc import Iterable

from amends import Client
from amends.domain.ids import InstanceId
from amends.errors import InstanceNotFound
from amends.sagas.state import InstanceState
from tests.acceptance.judge import key_of


async def found_in_flight(
    client: Client, instances: Iterable[InstanceId], called: set[str]
) -> set[str]:
    """What is under way in any of these instances, of which the bank was `called`."""
    found: set[str] = set()
    for instance in instances:
        try:
            state = await client.state(instance)
        except InstanceNotFound:
            continue  # it has not begun
        if state.final is None:
            found |= in_flight(state, called)
    return found


def in_flight(state: InstanceState, called: set[str]) -> set[str]:
    """What was under way in an instance. `called` are the keys with which the bank was called."""
    steps = state.open_steps()
    keys = {key_of(str(state.instance), step.scheduled) for step in steps}
    kinds = {
        "an open instance": True,
        "a call that is not on record": bool(keys & called),
        "a backoff": any(step.is_in_backoff for step in steps),
        "parallel steps": len(steps) > 1,
        "an abandoned step": any(step.abandoned for step in steps),
        "a parked step": any(step.parked for step in steps),
        "a probe": any(step.probing for step in steps),
        "a timer": bool(state.timers),
        "a wait for a signal": not (steps or state.timers or state.compensating),
        "an undo": state.compensating and bool(steps),
        "a way that only goes forward": state.pivot_passed,
    }
    return {kind for kind, holds in kinds.items() if holds}

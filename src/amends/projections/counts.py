"""How many instances are in which state, by one pass over the log.

Of most instances their start and their end say enough. Journals are read only of those that had
trouble: a million sleepers are counted in seconds, where their journals would take minutes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from amends.domain import events as e
from amends.domain.ids import JOURNAL_PREFIX, START, InstanceId
from amends.domain.status import Status
from amends.projections.sagas import INSTANCES_PAGE, SagaSummary, summarise
from amends.stores.port import EventFilter, EventStore

#: The state of an instance by the last of these that it had, unless it had trouble.
_STATES: Final = {
    e.SagaStarted.__name__: Status.RUNNING,
    e.SagaCompleted.__name__: Status.COMPLETED,
    e.SagaCompensated.__name__: Status.COMPENSATED,
    e.SagaFailed.__name__: Status.FAILED,
    e.SagaCancelled.__name__: Status.CANCELLED,
    e.SagaTerminated.__name__: Status.TERMINATED,
}
#: Without one of these an instance is neither compensating nor parked nor stalled.
_TROUBLE: Final = frozenset(
    cls.__name__ for cls in (e.CompensationStarted, e.StepUnknown, e.StepParked, e.SagaStalled)
)
_FILTER: Final = EventFilter((JOURNAL_PREFIX,), (*_STATES, *sorted(_TROUBLE)))
_EVENTS_PAGE: Final = 1000

#: Instances by saga and state; the state is None where a journal cannot be read.
StateCounts = Counter[tuple[str, Status | None]]


async def count_states(store: EventStore) -> StateCounts:
    """Count all instances of the log by saga and state.

    An instance that moves on meanwhile may be counted where it was. A journal that cannot be read
    is noticed only if the instance had trouble: `amends replay` reads them all.
    """
    counts: StateCounts = Counter()
    in_trouble: set[InstanceId] = set()
    after = START
    while page := await store.read_all(after, filter=_FILTER, limit=_EVENTS_PAGE):
        after = page[-1].position
        for record in page:
            instance = InstanceId.of_stream(record.stream)
            if instance is None:
                continue
            if record.type in _TROUBLE:
                in_trouble.add(instance)
                continue
            state = _STATES[record.type]
            if state is not Status.RUNNING:
                counts[instance.saga, Status.RUNNING] -= 1
            counts[instance.saga, state] += 1
    await _look_closer(store, sorted(in_trouble), counts)
    return +counts


async def _look_closer(store: EventStore, instances: list[InstanceId], counts: StateCounts) -> None:
    """Move instances from where their start or end has put them to where they are."""
    for start in range(0, len(instances), INSTANCES_PAGE):
        page = instances[start : start + INSTANCES_PAGE]
        for summary in await asyncio.gather(*(summarise(store, instance) for instance in page)):
            saga = summary.instance.saga
            counts[saga, summary.ending or Status.RUNNING] -= 1
            if summary.events:  # else its journal was removed since
                counts[saga, _state(summary)] += 1


def _state(summary: SagaSummary) -> Status | None:
    return summary.state if summary.fault is None else None

"""Event-sourced aggregates in activities: the effect is an append, and happens exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from amends.activities.context import activity_context
from amends.domain.aggregate import Aggregate
from amends.errors import UsageError
from amends.stores.port import EventStore
from amends.stores.repository import Recorded, Repository

A = TypeVar("A", bound=Aggregate)


class Repositories:
    """One repository for each aggregate class, over one store, made when first asked for."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._by_class: dict[type[Aggregate], Repository[Any]] = {}

    def of(self, aggregate: type[A]) -> Repository[A]:
        """The repository of a class."""
        repository = self._by_class.get(aggregate)
        if repository is None:
            repository = self._by_class[aggregate] = Repository(self._store, aggregate)
        return repository


class StepAggregates(Generic[A]):
    """The aggregates of one class, as the step that is running sees them."""

    def __init__(self, repository: Repository[A]) -> None:
        self._repository = repository

    async def load(self, id: str) -> A:
        """See `Repository.load`."""
        return await self._repository.load(id)

    async def execute(
        self, id: str, decide: Callable[[A], object], *, part: str | None = None
    ) -> Recorded:
        """Decide and append, exactly once for this step, however often its activity runs.

        A repeat does not decide again and returns what was recorded the first time; so take the
        step's result from the events. A step that changes the same aggregate twice names the
        `part`, because each is once of its own.

        Raises what `Repository.execute` raises, and whatever `decide` raises.
        """
        context = activity_context()
        key = context.idempotency_key if part is None else f"{context.idempotency_key}/{part}"
        return await self._repository.execute(
            id,
            decide,
            key=key,
            correlation_id=context.correlation_id,
            causation_id=context.command_id,
        )

    async def recorded(self, id: str, *, part: str | None = None) -> Recorded | None:
        """What the step that this undo or probe is about recorded, or None if nothing.

        In an ordinary activity: what this step itself recorded before.
        """
        context = activity_context()
        key = context.origin_key or context.idempotency_key
        return await self._repository.recorded(id, key if part is None else f"{key}/{part}")


def aggregates(aggregate: type[A]) -> StepAggregates[A]:
    """The aggregates of a class in the engine's own store, for use inside an activity.

        recorded = await aggregates(Account).execute(order.payer, lambda a: a.withdraw(order.cents))

    Raises UsageError outside an activity, and in one that runs without an engine.
    """
    repositories = activity_context().repositories
    if not isinstance(repositories, Repositories):
        raise UsageError("this activity runs without an engine: there is no store to use")
    return StepAggregates(repositories.of(aggregate))

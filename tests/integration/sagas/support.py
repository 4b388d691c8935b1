"""A small world for saga tests: activities that do as they are told, and a log of what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from amends import (
    Activity,
    App,
    DidNotHappen,
    Failure,
    Handle,
    Happened,
    Retry,
    SagaNotCompleted,
    activity,
    activity_context,
)
from amends.domain import events as e
from amends.sagas.definition import Saga
from amends.testing.harness import Harness

E = TypeVar("E", bound=e.JournalEvent)

#: Two attempts, a second apart.
TWICE = Retry(max_attempts=2, initial_s=1.0, jitter=0.0)
ONCE = Retry(max_attempts=1)


class Order(BaseModel):
    n: int = 0


class Receipt(BaseModel):
    text: str


class Refused(Failure):
    """The business says no."""


class Broken(Exception):
    """Something technical went wrong."""


class Late:
    """Take `seconds`, then do `then`."""

    def __init__(self, seconds: float, then: object = None) -> None:
        self.seconds = seconds
        self.then = then


class World:
    """What activities do, call by call, and what they did.

    `plan["a"] = [Broken(), Receipt(text="a1")]`: the first call of "a" raises, the second answers;
    calls without a plan answer with a receipt that names the activity and its input. An undo
    of "a" is "undo_a", its probe "probe_a". `did` has a line for each call when it begins.
    """

    def __init__(self) -> None:
        self.plan: dict[str, list[object]] = {}
        self.did: list[str] = []
        self.keys: list[str] = []

    async def call(self, name: str, order: Order, *more: object) -> Any:
        """One call of an activity."""
        details = " ".join(str(part) for part in (order.n, *map(_short, more)))
        self.did.append(f"{name} {details}")
        self.keys.append(activity_context().idempotency_key)
        planned = self.plan.get(name)
        return await self._do(planned.pop(0) if planned else None, name, order)

    async def _do(self, what: object, name: str, order: Order) -> Any:
        if isinstance(what, Late):
            await asyncio.sleep(what.seconds)
            return await self._do(what.then, name, order)
        if isinstance(what, BaseException):
            raise what
        return Receipt(text=f"{name}{order.n}") if what is None else what

    def activity(
        self,
        name: str,
        *,
        undo: bool = True,
        probe: bool = False,
        undo_retry: Retry = TWICE,
        **options: Any,
    ) -> Activity[Order, Receipt]:
        """An activity of this world, with its undo and its probe."""
        options.setdefault("retry", TWICE)

        @activity(name=name, **options)
        async def do(order: Order) -> Receipt:
            result: Receipt = await self.call(name, order)
            return result

        if undo:

            @do.undo(name=f"undo_{name}", retry=undo_retry)
            async def unde(order: Order, receipt: Receipt | None) -> None:
                await self.call(f"undo_{name}", order, receipt)

        if probe:

            async def ask(order: Order) -> Happened[Receipt] | DidNotHappen:
                result: Happened[Receipt] | DidNotHappen = await self.call(f"probe_{name}", order)
                return result

            ask.__name__ = f"probe_{name}"
            do.probe(ask)
        return do


def _short(part: object) -> str:
    return part.text if isinstance(part, Receipt) else str(part)


def app_of(
    *sagas: Saga[Any, Any],
    activities: Iterable[Activity[Any, Any]] = (),
    concurrency: Mapping[str, int] | None = None,
) -> App:
    """An application of these."""
    return App(sagas=sagas, activities=activities, concurrency=concurrency)


async def ended(handle: Handle[Any]) -> str:
    """How an instance ended, in a word; "completed" or what SagaNotCompleted says."""
    try:
        await handle.result()
    except SagaNotCompleted as error:
        return error.state
    return "completed"


async def names(harness: Harness, handle: Handle[Any]) -> list[str]:
    """The journal as class names."""
    return [type(event).__name__ for event in await harness.journal(handle)]


async def only(harness: Harness, handle: Handle[Any], kind: type[E]) -> E:
    """The one event of a kind in the journal."""
    found = await every(harness, handle, kind)
    assert len(found) == 1, f"{len(found)} {kind.__name__}: {found}"
    return found[0]


async def every(harness: Harness, handle: Handle[Any], kind: type[E]) -> list[E]:
    """The events of a kind in the journal."""
    return [event for event in await harness.journal(handle) if isinstance(event, kind)]


async def eventually(harness: Harness, holds: Callable[[], object], *, within_s: float) -> None:
    """Let time pass until something holds."""
    end = harness.clock.elapsed_s + within_s
    while not holds():
        assert harness.clock.elapsed_s < end, "it never came true"
        await harness.advance(0.5)

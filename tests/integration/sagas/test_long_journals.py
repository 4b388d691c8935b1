"""A long journal costs its client no more than a short one: only its end is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from amends import Handle, SagaContext, Signal, Status, saga
from amends.domain import messages as m
from amends.domain.envelope import RecordedEvent
from amends.errors import ActionRefused
from amends.testing.harness import Harness
from tests.integration.sagas.support import ONCE, Late, Order, World, app_of, ended, names

pytestmark = pytest.mark.virtual_time

go = Signal("go", int)


class Reads:
    """Counts the events that somebody reads from a store, stream by stream."""

    def __init__(self, harness: Harness, patched: pytest.MonkeyPatch) -> None:
        self.events = 0
        store = harness.client.backend.store
        for name in ("read", "read_backwards"):
            patched.setattr(store, name, self._counting(getattr(store, name)))

    def _counting(
        self, read: Callable[..., Awaitable[list[RecordedEvent]]]
    ) -> Callable[..., Awaitable[list[RecordedEvent]]]:
        async def counted(*args: Any, **options: Any) -> list[RecordedEvent]:
            events = await read(*args, **options)
            self.events += len(events)
            return events

        return counted


async def test_signalling_and_waiting_read_the_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    a = World().activity("a")

    @saga
    async def it(ctx: SagaContext) -> int:
        for n in range(100):
            await ctx.do(a, Order(n=n))
        return await ctx.receive(go)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it)
        await harness.settle()
        again: Handle[int] = harness.client.handle(it, handle.id)
        reads = Reads(harness, monkeypatch)
        await again.signal(go, 7)
        assert await again.result() == 7
        assert 0 < reads.events <= 100, reads.events


async def test_an_end_is_found_behind_all_that_may_follow_it() -> None:
    """More late reports, and undos that they ask for, than are read at once."""
    width = 30
    world = World()
    world.plan["a"] = [Late(100)] * width
    a = world.activity("a", timeout=10, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        await asyncio.gather(*[ctx.do(a, Order(n=n)) for n in range(width)])

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.COMPENSATED
        for seq in range(1, width + 1):
            late = m.ReportCompleted(
                saga="it", id=handle.id, seq=seq, attempt=1, result={"text": "late"}
            )
            await harness.client.send(late)
        await harness.settle()
        journal = await names(harness, handle)
        assert journal[::-1].index("SagaCompensated") == 3 * width
        again = harness.client.handle(it, handle.id)
        assert await ended(again) == Status.COMPENSATED
        with pytest.raises(ActionRefused, match="ended compensated: there is nothing to signal"):
            await again.signal(go, 1)

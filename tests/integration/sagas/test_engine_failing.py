"""When the engine of a process fails by itself, nobody in it waits for what it will not do."""

from __future__ import annotations

import asyncio

import pytest

from amends import SagaContext, saga
from amends.activities.consumer import ActivityConsumer
from amends.testing.harness import Harness
from tests.integration.sagas.support import Order, Receipt, World, app_of

pytestmark = pytest.mark.virtual_time

world = World()
a = world.activity("a")


@saga
async def none(ctx: SagaContext) -> str:
    return "done"


@saga
async def one(ctx: SagaContext, order: Order) -> Receipt:
    return await ctx.do(a, order)


app = app_of(none, one, activities=[a])


async def test_who_waits_then_or_later_gets_the_error_until_an_engine_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails = asyncio.Event()

    async def run(self: ActivityConsumer) -> None:
        await fails.wait()
        raise RuntimeError("it broke")

    monkeypatch.setattr(ActivityConsumer, "run", run)
    async with Harness(app) as harness:
        done = await harness.start(none)
        handle = await harness.start(one, Order(n=1), id="1")
        waiting = asyncio.create_task(handle.result())
        await harness.settle()
        fails.set()
        with pytest.raises(RuntimeError, match="it broke"):
            await waiting

        later = harness.client.handle(one, "1")
        depths = []
        for late in (handle.result(), later.result(), harness.start(one, Order(n=2), id="2")):
            with pytest.raises(RuntimeError, match="it broke") as raised:
                await late
            assert any("engine of this process" in note for note in raised.value.__notes__)
            depths.append(len(raised.traceback))
        assert max(depths) < 10  # it does not grow with each
        assert (await harness.start(one, Order(n=1), id="1")).instance == handle.instance
        # What has ended has.
        assert await harness.client.handle(none, done.id).result() == "done"
        submitted = await harness.client.submit(one, Order(n=3), id="3")
        with pytest.raises(RuntimeError, match="it broke"):
            await submitted.started()

        monkeypatch.undo()
        await harness.restart()
        assert [await it.result() for it in (handle, submitted)] == [
            Receipt(text="a1"),
            Receipt(text="a3"),
        ]
        # What could not be started was not.
        assert await harness.run(one, Order(n=4), id="2") == Receipt(text="a4")

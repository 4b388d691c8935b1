"""The engine on a real file in virtual time: the thread that writes takes none of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from amends import App, SagaContext, activity, saga
from amends.errors import UsageError
from amends.testing.clock import VirtualClock, VirtualTimeLoop
from amends.testing.embedded import run_embedded


@activity
async def double(x: int) -> int:
    return 2 * x


@saga
async def doubles(ctx: SagaContext, x: int) -> int:
    for _ in range(5):
        x = await ctx.do(double, x)
    return x


@saga
async def sleeps(ctx: SagaContext, days: int) -> int:
    await asyncio.sleep(days * 86_400)
    return days


app = App(sagas=[doubles, sleeps], activities=[double])


@pytest.mark.virtual_time
async def test_writing_takes_no_time(tmp_path: Path, clock: VirtualClock) -> None:
    async with run_embedded(app, tmp_path / "a.db") as world:
        # A timer that is far away: time would jump there whenever a thread is waited for.
        asyncio.get_running_loop().call_later(10.0, lambda: None)
        handles = [await world.client.start(doubles, n) for n in range(20)]
        assert [await handle.result() for handle in handles] == [32 * n for n in range(20)]
    assert clock.elapsed_s == 0.0


@pytest.mark.virtual_time
async def test_waiting_takes_exactly_its_time(tmp_path: Path, clock: VirtualClock) -> None:
    async with run_embedded(app, tmp_path / "a.db") as world:
        handle = await world.client.start(sleeps, 1000)
        assert await handle.result() == 1000
    assert clock.elapsed_s == 1000 * 86_400.0
    async with run_embedded(app, tmp_path / "a.db") as world:
        assert (await world.client.handle(sleeps, handle.id).status()).is_final


async def test_it_needs_virtual_time(tmp_path: Path) -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    with pytest.raises(UsageError, match="VirtualTimeLoop"):
        async with run_embedded(app, tmp_path / "a.db"):
            pass
    assert os.listdir(tmp_path) == []

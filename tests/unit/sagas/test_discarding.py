"""A live instance that is thrown away is freed at once, whatever its code waits for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from amends import SagaContext, Signal, activity, saga
from amends.domain import events as e
from amends.domain.ids import InstanceId
from amends.sagas.execution import SagaExecution
from amends.sagas.state import InstanceState

ping = Signal("ping", int)


@activity
async def step(_: int) -> None:
    """Never run here: what counts is that a saga waits for it."""


async def a_timer(ctx: SagaContext) -> None:
    await asyncio.sleep(60)


async def a_signal_with_a_timeout(ctx: SagaContext) -> None:
    async with asyncio.timeout(60):
        await ctx.receive(ping)


async def what_a_gather_gathers(ctx: SagaContext) -> None:
    await asyncio.gather(ctx.do(step, 1), asyncio.sleep(60), ctx.wait_until(lambda: False))


async def tasks_of_a_group(ctx: SagaContext) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(ctx.do(step, n))


async def the_first_of_several(ctx: SagaContext) -> None:
    for first in asyncio.as_completed([ctx.do(step, n) for n in range(3)]):
        await first


async def a_shielded_task(ctx: SagaContext) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    await asyncio.shield(asyncio.create_task(queue.get()))


async def a_task_that_tidies_up(ctx: SagaContext) -> None:
    async def tidy() -> None:
        try:
            await ctx.do(step, 1)
        finally:
            await asyncio.sleep(1)

    await asyncio.create_task(tidy())


@pytest.mark.parametrize(
    "waits_for",
    [
        a_timer,
        a_signal_with_a_timeout,
        what_a_gather_gathers,
        tasks_of_a_group,
        the_first_of_several,
        a_shielded_task,
        a_task_that_tidies_up,
    ],
)
def test_it_leaves_nothing_to_the_garbage_collector(
    waits_for: Callable[[SagaContext], Awaitable[None]],
) -> None:
    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        await waits_for(ctx)

    def begin_and_discard() -> None:
        execution = SagaExecution(it, InstanceState(InstanceId("it", "x")), {step.name: step})
        execution.feed(e.SagaStarted(saga="it", id="x", input=None, at=datetime.now(UTC)))
        assert execution.loop.unfinished_tasks()
        execution.discard()

    begin_and_discard()  # what is made once and kept
    gc.collect()
    gc.disable()
    try:
        begin_and_discard()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_still_runs_when_it_is_thrown_away_is_cancelled_whatever_it_asks_for() -> None:
    asks: list[Callable[[SagaContext], object]] = [
        lambda ctx: ctx.on(ping, lambda _: None),
        lambda ctx: ctx.wait_until(lambda: True),
        lambda ctx: ctx.receive(ping).send(None),
        lambda ctx: ctx.do(step, 1).send(None),
    ]
    given: list[SagaContext] = []

    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        given.append(ctx)
        await ctx.receive(ping)

    execution = SagaExecution(it, InstanceState(InstanceId("it", "x")), {step.name: step})
    execution.feed(e.SagaStarted(saga="it", id="x", input=None, at=datetime.now(UTC)))
    execution.discard()
    for ask in asks:
        with pytest.raises(asyncio.CancelledError):
            ask(given[0])

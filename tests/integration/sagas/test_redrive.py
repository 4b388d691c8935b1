"""What is published for an instance: all that a turn asks for, and when it is re-driven, nothing
that it does not wait for.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from amends import Activity, App, Handle, Happened, Retry, Saga, SagaContext, Signal, Status, saga
from amends.broker.mail import to_inbox
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.events import AttemptOutcome, ErrorInfo
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    ONCE,
    Broken,
    Late,
    Order,
    Receipt,
    Refused,
    World,
    app_of,
    ended,
    names,
)

pytestmark = pytest.mark.virtual_time

MINUTE = Retry(max_attempts=3, initial_s=60, jitter=0.0)


def one_step(world: World, **options: Any) -> tuple[Saga[Order, Receipt], Harness]:
    a = world.activity("a", **options)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    return it, Harness(app_of(it, activities=[a]))


async def redrive(harness: Harness, handle: Handle[Any]) -> None:
    """Whatever it waits for is published again."""
    await harness.client.send(m.WakeSaga(saga="it", id=handle.id))
    await harness.settle()


def failure(handle: Handle[Any], seq: int) -> m.ReportFailed:
    """Attempt 1 of a step has failed."""
    return m.ReportFailed(
        saga="it",
        id=handle.id,
        seq=seq,
        attempt=1,
        outcome=AttemptOutcome.FAILED,
        error=ErrorInfo(type="Broken", message="cable"),
    )


async def send_together(harness: Harness, *messages: m.EngineMessage) -> None:
    """As one batch, which the engine takes in one turn."""
    await harness.client.backend.broker.publish([
        to_inbox(message, uuid4(), partitions=1, correlation_id="c", causation_id="c")
        for message in messages
    ])  # fmt: skip
    await harness.settle()


# --- re-driving


async def test_a_step_in_its_backoff_is_not_run_before_its_time() -> None:
    world = World()
    world.plan["a"] = [Broken("once")]
    it, harness = one_step(world, retry=MINUTE)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(30)
        before = await names(harness, handle)
        await redrive(harness, handle)
        assert await names(harness, handle) == before
        assert world.did == ["a 1"]
        await harness.advance(31)
        assert world.did == ["a 1", "a 1"]


async def test_a_step_that_a_person_is_asked_about_is_not_run_again() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    it, harness = one_step(world, timeout=10, retry=ONCE, on_unknown="park")
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(20)
        await redrive(harness, handle)
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        assert world.did == ["a 1"]


async def test_nor_is_a_step_that_is_probed() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    world.plan["probe_a"] = [Late(8, Happened(Receipt(text="found")))]
    it, harness = one_step(world, timeout=10, retry=ONCE, probe=True)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(12)
        await redrive(harness, handle)
        assert await handle.result() == Receipt(text="found")
        assert world.did == ["a 1", "probe_a 1"]


# --- a turn of several messages


async def test_attempts_that_fail_together_are_all_repeated() -> None:
    world = World()
    names_of = ("a", "b", "c")
    world.plan = {name: [Late(1000)] for name in names_of}
    steps = [world.activity(name, retry=MINUTE, timeout=1000) for name in names_of]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(*(ctx.do(step, order) for step in steps))

    async with Harness(app_of(it, activities=steps)) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await send_together(harness, *(failure(handle, seq) for seq in (1, 2, 3)))
        # Their backoffs end together too.
        await harness.advance(61)
        assert sorted(world.did[3:]) == ["a 1", "b 1", "c 1"]


async def test_steps_side_by_side_expire_each() -> None:
    world = World()
    world.plan = {name: [Late(30)] for name in "ab"}
    steps = [world.activity(name, total_timeout=60) for name in "ab"]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(*(ctx.do(step, order) for step in steps))

    async with Harness(app_of(it, activities=steps)) as harness:
        await harness.start(it, Order(n=1))
        await harness.settle()
        # Whoever runs an attempt stops it in time himself, unless he is gone.
        assert sum(queue.delayed for queue in await harness.client.backend.broker.depths()) == 2


async def test_steps_that_are_given_up_together_are_waited_for_no_longer() -> None:
    world = World()
    steps = [world.activity(name, retry=MINUTE) for name in "ab"]
    world.plan = {name: [Broken("once")] for name in "ab"}

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        try:
            async with asyncio.timeout(10):
                await asyncio.gather(*(ctx.do(step, order) for step in steps))
        except TimeoutError:
            return "without"
        return "with"

    async with Harness(app_of(it, activities=steps)) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(11)
        assert await handle.status() == Status.COMPLETED
        assert sorted(world.did) == ["a 1", "b 1"]


async def test_what_a_person_decides_takes_nothing_from_what_comes_with_it() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a, b = world.activity("a", timeout=10, retry=ONCE, on_unknown="park"), world.activity("b")
    go = Signal("go", Order)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        async def beside() -> None:
            await ctx.do(b, await ctx.receive(go))

        await asyncio.gather(ctx.do(a, order), beside())

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(20)
        retry = m.ResolveStep(
            saga="it", id=handle.id, seq=1, resolution=e.Resolution.RETRY, who="ann", why="again"
        )
        signal = m.DeliverSignal(saga="it", id=handle.id, name="go", payload={"n": 2})
        await send_together(harness, signal, retry)
        assert sorted(world.did[1:]) == ["a 1", "b 2"]
        await handle.result()


async def test_what_comes_with_a_message_that_breaks_the_code_is_not_lost() -> None:
    go = Signal("go", Order)

    @saga(name="it")
    async def with_a_bug(ctx: SagaContext) -> list[int]:
        await ctx.receive(go)
        raise TypeError("a bug")

    @saga(name="it")
    async def corrected(ctx: SagaContext) -> list[int]:
        return [(await ctx.receive(go)).n for _ in range(3)]

    async with Harness(app_of(with_a_bug)) as harness:
        handle = await harness.start(with_a_bug)
        await harness.settle()
        # The first is refused, the second breaks the code.
        payloads: tuple[dict[str, Any], ...] = ({"n": "x"}, {"n": 1}, {"n": 2}, {"n": 3})
        await send_together(
            harness,
            *(
                m.DeliverSignal(saga="it", id=handle.id, name="go", payload=payload)
                for payload in payloads
            ),
        )
        assert await handle.status() == Status.STALLED
        await harness.restart(app_of(corrected))
        await harness.advance(10)
        assert await harness.client.handle(corrected, handle.id).result() == [1, 2, 3]


async def test_two_that_ask_a_stalled_instance_for_the_same_ask_once() -> None:
    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        raise TypeError("a bug")

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.settle()
        cancel = m.CancelSaga(saga="it", id=handle.id, who="ann", why="wrong order")
        await send_together(harness, cancel, cancel)
        assert (await names(harness, handle)).count("CancelRequested") == 1


# --- after another release


async def test_an_undo_whose_queue_has_changed_undoes_the_same() -> None:
    world = World()
    world.plan["undo_a"] = [Broken("once")]
    here, elsewhere = (
        world.activity("a", queue=queue, undo_retry=MINUTE) for queue in ("here", "elsewhere")
    )

    def app(a: Activity[Order, Receipt]) -> App:
        @saga(name="it")
        async def it(ctx: SagaContext, order: Order) -> None:
            await ctx.do(a, order)
            raise Refused("no")

        return app_of(it, activities=[a])

    async with Harness(app(here)) as harness:
        handle = await harness.start(harness.app.sagas["it"], Order(n=1))
        await harness.advance(30)
        await harness.restart(app(elsewhere))
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["a 1", "undo_a 1 a1", "undo_a 1 a1"]

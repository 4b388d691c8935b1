"""Signals and conditions: kept until they are wanted, in order, each delivered once."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from datetime import date
from uuid import uuid4

import pytest
from pydantic import BaseModel

from amends import App, Saga, SagaContext, Signal, Status, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.errors import (
    ActionRefused,
    InstanceNotFound,
    InvalidPayload,
    PayloadTooLarge,
    UsageError,
)
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    Late,
    Order,
    World,
    app_of,
    ended,
    every,
    names,
    only,
)

pytestmark = pytest.mark.virtual_time


class Approval(BaseModel):
    by: str
    on: date = date(2026, 1, 1)


approved = Signal("approved", Approval)
number = Signal("number", int)


def waits(count: int) -> tuple[Saga[None, list[str]], App]:
    @saga(name="waits")
    async def waits(ctx: SagaContext) -> list[str]:
        return [(await ctx.receive(approved)).by for _ in range(count)]

    return waits, app_of(waits)


async def test_signals_arrive_typed_and_in_order() -> None:
    seen: list[Approval] = []

    @saga
    async def it(ctx: SagaContext) -> list[str]:
        seen.append(await ctx.receive(approved))
        return [(await ctx.receive(approved)).by]

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(approved, Approval(by="ann", on=date(2026, 5, 6)))
        await handle.signal("approved", {"by": "bob"})
        assert await handle.result() == ["bob"]
        assert seen[-1] == Approval(by="ann", on=date(2026, 5, 6))
        first, _ = await every(harness, handle, e.SignalReceived)
        assert (first.name, first.payload) == ("approved", {"by": "ann", "on": "2026-05-06"})


async def test_signals_that_come_early_are_kept_in_order() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", timeout=None)

    @saga
    async def it(ctx: SagaContext, order: Order) -> list[int]:
        await ctx.do(a, order)
        return [await ctx.receive(number) for _ in range(3)]

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        for each in (3, 1, 2):
            await handle.signal(number, each)
        await harness.advance(10)
        await harness.restart()
        assert await handle.result() == [3, 1, 2]


async def test_a_signal_that_is_transported_twice_is_delivered_once() -> None:
    waits_, app = waits(2)
    async with Harness(app) as harness:
        handle = await harness.start(waits_)
        message = m.DeliverSignal(
            saga="waits", id=handle.id, name="approved", payload={"by": "ann"}
        )
        id = uuid4()
        for _ in range(3):
            await harness.client.send(message, id=id)
        await harness.settle()
        assert await handle.status() == Status.RUNNING
        await harness.restart()
        await harness.client.send(message, id=id)
        await handle.signal(approved, Approval(by="bob"))
        assert await handle.result() == ["ann", "bob"]


async def test_receivers_are_served_in_the_order_in_which_they_wait() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[str]:
        async def receiver(name: str) -> str:
            value = await ctx.receive(number)
            return f"{name} {value}"

        return list(await asyncio.gather(*map(receiver, "xyz")))

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        for each in (1, 2, 3):
            await handle.signal(number, each)
        assert await handle.result() == ["x 1", "y 2", "z 3"]


async def test_signals_of_different_names_do_not_mix() -> None:
    @saga
    async def it(ctx: SagaContext) -> str:
        first = await ctx.receive(approved)
        second = await ctx.receive(number)
        return f"{first.by} {second}"

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(number, 7)
        await handle.signal("other", "ignored")
        await handle.signal(approved, Approval(by="ann"))
        assert await handle.result() == "ann 7"


async def test_a_receive_with_a_timeout_leaves_the_next_signal_for_the_next_receiver() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[object]:
        found: list[object] = []
        for _ in range(2):
            try:
                async with asyncio.timeout(10):
                    value = await ctx.receive(number)
                    found.append(value)
            except TimeoutError:
                found.append("nothing")
        return found

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.advance(15)
        await handle.signal(number, 1)
        assert await handle.result() == ["nothing", 1]


# --- handlers and conditions


async def test_a_handler_takes_every_signal_those_that_came_before_included() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[int]:
        seen: list[int] = []
        await asyncio.sleep(10)
        ctx.on(number, seen.append)
        await ctx.wait_until(lambda: len(seen) >= 3)
        return seen

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(number, 1)
        await handle.signal(number, 2)
        await harness.advance(20)
        await handle.signal(number, 3)
        assert await handle.result() == [1, 2, 3]


async def test_a_handler_that_fails_stalls_the_saga() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        def handler(value: int) -> None:
            raise TypeError("a bug")

        ctx.on(number, handler)
        await ctx.wait_until(lambda: False)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(number, 1)
        await harness.settle()
        assert (await only(harness, handle, e.SagaStalled)).error.message == "a bug"


async def test_a_condition_that_holds_already_does_not_wait() -> None:
    @saga
    async def it(ctx: SagaContext) -> str:
        await ctx.wait_until(lambda: True)
        return "at once"

    async with Harness(app_of(it)) as harness:
        assert await harness.run(it) == "at once"


async def test_a_condition_still_holds_when_the_one_who_waited_goes_on() -> None:
    """Two wait for one token: the second must not be let in by what the first has taken."""

    @saga
    async def it(ctx: SagaContext) -> list[str]:
        tokens: list[int] = []
        log: list[str] = []

        async def worker(name: str) -> None:
            await ctx.wait_until(lambda: bool(tokens))
            log.append(f"{name} {tokens.pop()}")

        ctx.on(number, tokens.append)
        await asyncio.gather(worker("x"), worker("y"))
        return log

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(number, 1)
        await harness.settle()
        assert await handle.status() == Status.RUNNING
        await handle.signal(number, 2)
        assert await handle.result() == ["x 1", "y 2"]


async def test_what_one_condition_lets_happen_may_fulfil_another() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[str]:
        log: list[str] = []

        async def after(count: int) -> None:
            await ctx.wait_until(lambda: len(log) == count)
            log.append(str(count))

        tasks = [asyncio.create_task(after(count)) for count in (3, 1, 2)]
        await asyncio.sleep(1)
        log.append("0")
        await asyncio.gather(*tasks)
        return log

    async with Harness(app_of(it)) as harness:
        assert await harness.run(it) == ["0", "1", "2", "3"]


async def test_waiting_with_a_timeout() -> None:
    @saga
    async def it(ctx: SagaContext) -> str:
        seen: list[int] = []
        ctx.on(number, seen.append)
        try:
            async with asyncio.timeout(60):
                await ctx.wait_until(lambda: sum(seen) >= 10)
        except TimeoutError:
            return f"gave up at {sum(seen)}"
        return f"reached {sum(seen)}"

    async with Harness(app_of(it)) as harness:
        slow, quick = await harness.start(it), await harness.start(it)
        await slow.signal(number, 4)
        await quick.signal(number, 4)
        await quick.signal(number, 6)
        assert await quick.result() == "reached 10"
        assert await slow.result() == "gave up at 4"
        assert harness.clock.elapsed_s == 60


async def test_a_condition_that_fails_fails_where_it_is_awaited() -> None:
    @saga
    async def it(ctx: SagaContext) -> str:
        seen: list[int] = []
        ctx.on(number, seen.append)
        try:
            await ctx.wait_until(lambda: bool(seen) and 1 // seen[0] > 0)
        except ZeroDivisionError:
            return "caught"
        return "held"

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(number, 0)
        assert await handle.result() == "caught"


async def test_a_condition_sees_the_context_variables_of_who_waits() -> None:
    limit: ContextVar[int] = ContextVar("limit")

    @saga
    async def it(ctx: SagaContext) -> str:
        seen: list[int] = []
        ctx.on(number, seen.append)
        limit.set(2)
        await ctx.wait_until(lambda: len(seen) >= limit.get())
        return "held"

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal(number, 1)
        await handle.signal(number, 1)
        assert await handle.result() == "held"


# --- whom a signal cannot reach


async def test_a_signal_for_nobody_is_refused_and_one_on_its_way_is_put_aside() -> None:
    waits_, app = waits(1)
    async with Harness(app) as harness:
        with pytest.raises(InstanceNotFound):
            await harness.client.handle(waits_, "x").signal(approved, Approval(by="ann"))
        await harness.client.send(m.DeliverSignal(saga="waits", id="x", name="approved"))
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert letter.reason == "no such instance"


async def test_a_signal_for_one_that_ended_is_refused_and_one_on_its_way_changes_nothing() -> None:
    waits_, app = waits(1)
    async with Harness(app) as harness:
        handle = await harness.start(waits_)
        await handle.signal(approved, Approval(by="ann"))
        await handle.result()
        with pytest.raises(ActionRefused, match="nothing to signal"):
            await handle.signal(approved, Approval(by="bob"))
        before = await names(harness, handle)
        await harness.client.send(
            m.DeliverSignal(saga="waits", id=handle.id, name="approved", payload={"by": "x"})
        )
        await harness.settle()
        assert await names(harness, handle) == before
        [letter] = await harness.dead_letters()
        assert "had ended" in letter.detail


async def test_a_signal_of_the_wrong_type_is_refused() -> None:
    waits_, app = waits(1)
    async with Harness(app) as harness:
        handle = await harness.start(waits_)
        with pytest.raises(InvalidPayload):
            await handle.signal(approved, "ann")  # type: ignore[misc]
        assert await names(harness, handle) == ["SagaStarted"]


@pytest.mark.parametrize(
    ("name", "payload", "refusal"),
    [
        ("approved", float("nan"), InvalidPayload),
        ("approved", object(), InvalidPayload),
        ("approved", "a" * 300_000, PayloadTooLarge),
        ("no such-name!", 1, UsageError),
    ],
    ids=["nan", "object", "large", "name"],
)
async def test_a_signal_by_name_must_be_json_and_small_and_have_a_name(
    name: str, payload: object, refusal: type[Exception]
) -> None:
    waits_, app = waits(1)
    async with Harness(app) as harness:
        handle = await harness.start(waits_)
        with pytest.raises(refusal):
            await handle.signal(name, payload)
        await harness.settle()
        assert await names(harness, handle) == ["SagaStarted"]


async def test_a_signal_by_name_that_does_not_fit_can_be_caught_by_the_saga() -> None:
    @saga
    async def it(ctx: SagaContext) -> str:
        while True:
            try:
                return (await ctx.receive(approved)).by
            except InvalidPayload:
                continue

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.signal("approved", {"of": "nothing"})
        await handle.signal("approved", {"by": "ann"})
        assert await handle.result() == "ann"


async def test_a_signal_to_a_saga_that_is_being_compensated_is_kept_on_record() -> None:
    world = World()
    a = world.activity("a")
    world.plan["undo_a"] = [Late(10)]

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await asyncio.sleep(1000)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await handle.cancel(who="ann", why="?")
        await harness.settle()
        await handle.signal(number, 1)
        assert await ended(handle) == Status.CANCELLED
        assert len(await every(harness, handle, e.SignalReceived)) == 1

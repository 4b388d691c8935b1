"""Bugs and changed code: the instance stalls, loses nothing, and goes on with corrected code."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from amends import App, Saga, SagaContext, Signal, Status, activity, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    Late,
    Order,
    Receipt,
    Refused,
    World,
    app_of,
    ended,
    every,
    names,
    only,
)

pytestmark = pytest.mark.virtual_time

number = Signal("number", int)


class Note(BaseModel, frozen=True):
    text: str


class Longer(Order):
    note: str = ""


class Releases:
    """One saga "it" in several releases, over steps "a" to "c"."""

    def __init__(self) -> None:
        self.world = World()
        self.activities = {name: self.world.activity(name) for name in "abc"}

    def app(self, fn: Any) -> App:
        async def it(ctx: SagaContext, order: Order) -> str:
            result: str = await fn(ctx, order, self.activities)
            return result

        return app_of(saga(name="it")(it), activities=self.activities.values())


def it_of(harness: Harness) -> Saga[Order, str]:
    return harness.app.sagas["it"]


async def a_then_b(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await ctx.do(do["a"], order)
    await asyncio.sleep(10)
    receipt: Receipt = await ctx.do(do["b"], order)
    return receipt.text


async def b_then_a(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await ctx.do(do["b"], order)
    await asyncio.sleep(10)
    receipt: Receipt = await ctx.do(do["a"], order)
    return receipt.text


async def other_input(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await ctx.do(do["a"], Order(n=99))
    await asyncio.sleep(10)
    return ""


async def other_sleep(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await ctx.do(do["a"], order)
    await asyncio.sleep(20)
    return ""


async def no_step(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await asyncio.sleep(10)
    return ""


async def one_more(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await ctx.do(do["a"], order)
    await ctx.do(do["c"], order)
    await asyncio.sleep(10)
    return ""


async def ends_early(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await ctx.do(do["a"], order)
    return "early"


async def nothing(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
    await asyncio.Event().wait()
    return ""


@pytest.mark.parametrize(
    ("changed", "seq", "recorded", "wanted"),
    [
        (b_then_a, 1, 'step a({"n":1})', 'step b({"n":1})'),
        (other_input, 1, 'step a({"n":1})', 'step a({"n":99})'),
        (no_step, 1, 'step a({"n":1})', "a timer until 2026-01-01T00:00:10.000+00:00"),
        (other_sleep, 2, "a timer until 2026-01-01T00:00:10", "a timer until 2026-01-01T00:00:20"),
        (one_more, 2, "a timer until", 'step c({"n":1})'),
        (ends_early, 2, "a timer until", "SagaCompleted"),
        (nothing, 1, 'step a({"n":1})', "nothing at this point"),
    ],
)
async def test_changed_code_is_told_what_is_on_record_and_what_it_wants(
    changed: Any, seq: int, recorded: str, wanted: str
) -> None:
    releases = Releases()
    async with Harness(releases.app(a_then_b)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(5)
        before = await names(harness, handle)
        await harness.restart(releases.app(changed))
        await harness.advance(20)
        assert await handle.status() == Status.STALLED
        error = (await only(harness, handle, e.SagaStalled)).error
        assert error.type == "DeterminismError"
        assert error.message.startswith(f"it/1 at decision {seq}: the journal has {recorded}")
        assert f"the code wants {wanted}" in error.message
        # Nothing was decided, and the timer that fired meanwhile is on record.
        assert await names(harness, handle) == [*before, "TimerFired", "SagaStalled"]
        assert releases.world.did == ["a 1"]

        await harness.restart(releases.app(a_then_b))
        assert await handle.result() == "b1"
        assert releases.world.did == ["a 1", "b 1"]
        await only(harness, handle, e.SagaResumed)


async def test_a_field_that_was_added_with_a_default_makes_no_other_input() -> None:
    world = World()

    async with Harness(Releases().app(a_then_b)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(5)

        @activity(name="a")
        async def a(order: Longer) -> Receipt:
            raise AssertionError

        b = world.activity("b")

        @saga(name="it")
        async def it(ctx: SagaContext, order: Longer) -> str:
            await ctx.do(a, order)
            await asyncio.sleep(10)
            return (await ctx.do(b, Order(n=order.n))).text

        await harness.restart(app_of(it, activities=[a, b]))
        assert await handle.result() == "b1"


# --- bugs


async def test_a_bug_stalls_with_its_traceback_and_never_compensates() -> None:
    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        await ctx.do(do["a"], order)
        return order + 1  # type: ignore[operator,return-value]

    releases = Releases()
    async with Harness(releases.app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(10_000)
        assert await handle.status() == Status.STALLED
        assert releases.world.did == ["a 1"]
        error = (await only(harness, handle, e.SagaStalled)).error
        assert error.type == "TypeError"
        assert error.traceback is not None
        assert "return order + 1" in error.traceback

        async def fixed(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
            await ctx.do(do["a"], order)
            return "fixed"

        await harness.restart(releases.app(fixed))
        assert await handle.result() == "fixed"
        assert (await names(harness, handle))[-2:] == ["SagaResumed", "SagaCompleted"]


async def test_a_stalled_instance_is_tried_again_with_growing_pauses() -> None:
    tried: list[float] = []

    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        tried.append(harness.clock.elapsed_s)
        raise TypeError("a bug")

    async with Harness(Releases().app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(10_000)
        pauses = [later - earlier for earlier, later in pairwise(tried)]
        assert pauses[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
        assert set(pauses[9:]) == {300}
        # One note, however often it was tried.
        assert await names(harness, handle) == ["SagaStarted", "SagaStalled"]


async def test_an_error_whose_text_differs_by_an_address_is_noted_once() -> None:
    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        raise TypeError(f"{object()} is no order")

    async with Harness(Releases().app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(1000)
        await only(harness, handle, e.SagaStalled)


async def test_another_error_is_noted_too_and_starts_no_second_chain_of_tries() -> None:
    tried: list[float] = []

    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        tried.append(harness.clock.elapsed_s)
        raise TypeError(f"bug number {len(tried)}")

    async with Harness(Releases().app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        for value in range(5):
            await handle.signal(number, value)
        await harness.advance(100)
        # 0 and each signal, then 1, 3, 7, 15, 31, 63.
        assert [time for time in tried if time > 0] == [1, 3, 7, 15, 31, 63]
        assert len(await every(harness, handle, e.SagaStalled)) > 1


async def test_what_arrives_while_it_is_stalled_is_kept_and_fed_in_order() -> None:
    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        await ctx.do(do["a"], order)
        raise TypeError("a bug")

    async def fixed(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        await ctx.do(do["a"], order)
        received = [await ctx.receive(number) for _ in range(3)]
        return "".join(map(str, received))

    releases = Releases()
    async with Harness(releases.app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(5)
        for value in (1, 2, 3):
            await handle.signal(number, value)
        await harness.advance(5)
        assert len(await every(harness, handle, e.SignalReceived)) == 3
        await harness.restart(releases.app(fixed))
        assert await handle.result() == "123"


async def test_a_cancel_while_it_is_stalled_is_kept_too() -> None:
    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        await ctx.do(do["a"], order)
        raise TypeError("a bug")

    releases = Releases()
    async with Harness(releases.app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(5)
        await handle.cancel(who="ann", why="enough")
        await harness.advance(5)
        assert await handle.status() == Status.STALLED
        assert releases.world.did == ["a 1"]
        await harness.restart(releases.app(a_then_b))
        assert await ended(handle) == Status.CANCELLED
        assert releases.world.did == ["a 1", "undo_a 1 a1"]


async def test_decisions_that_a_bug_hid_are_taken_once_the_code_is_fixed() -> None:
    """Several inputs came while it was stalled; their decisions follow all together."""

    async def buggy(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        raise TypeError("a bug")

    async def fixed(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        for name in "abc":
            await ctx.receive(number)
            ctx.emit(Note(text=name))
        await ctx.do(do["a"], order)
        return "done"

    releases = Releases()
    async with Harness(releases.app(buggy)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        for value in (1, 2, 3):
            await handle.signal(number, value)
        await harness.settle()
        await harness.restart(releases.app(fixed))
        assert await handle.result() == "done"
        assert [event.type for event in await every(harness, handle, e.DomainEventEmitted)] == [
            "Note"
        ] * 3
        # And what is written so replays again.
        await harness.restart()
        await harness.client.send(m.WakeSaga(saga="it", id=handle.id))
        await harness.settle()
        assert await handle.status() == Status.COMPLETED


async def test_a_saga_that_the_next_release_lacks_waits_for_one_that_has_it() -> None:
    releases = Releases()
    async with Harness(releases.app(a_then_b)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(5)
        await harness.restart(app_of(activities=releases.activities.values()))
        await harness.advance(100)
        assert await handle.status() == Status.STALLED
        assert "not registered" in (await only(harness, handle, e.SagaStalled)).error.message
        await harness.restart(releases.app(a_then_b))
        assert await handle.result() == "b1"


async def test_a_start_for_a_saga_that_no_engine_knows_is_kept() -> None:
    releases = Releases()
    async with Harness(releases.app(a_then_b)) as harness:
        saga_ = it_of(harness)
        client = harness.client
        await harness.restart(app_of(activities=releases.activities.values()))
        handle = await client.submit(saga_, Order(n=1), id="x")
        await harness.settle()
        assert await handle.status() == Status.STALLED
        await harness.restart(releases.app(a_then_b))
        assert await handle.result() == "b1"


# --- what a saga must not do


async def reads_a_file() -> None:
    Path(__file__).read_bytes()  # noqa: ASYNC240 - just that


async def runs_in_a_thread() -> None:
    await asyncio.get_running_loop().run_in_executor(None, int)


async def listens() -> None:
    await asyncio.start_server(lambda r, w: None, port=0)


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("forbidden", [reads_a_file, runs_in_a_thread, listens])
async def test_what_a_replay_could_not_repeat_stalls_even_when_it_is_swallowed(
    forbidden: Any, swallowed: bool
) -> None:
    async def naughty(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        call = {"f": forbidden}["f"]
        try:
            await call()
        except Exception:
            if not swallowed:
                raise
        await ctx.do(do["a"], order)
        return "done"

    releases = Releases()
    async with Harness(releases.app(naughty)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.advance(5)
        assert (await only(harness, handle, e.SagaStalled)).error.type == "NotAllowedInSaga"
        assert releases.world.did == []


@pytest.mark.parametrize("forbidden", [reads_a_file, runs_in_a_thread, listens])
async def test_it_stalls_also_when_the_saga_swallows_it_and_is_done(forbidden: Any) -> None:
    async def naughty(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        call = {"f": forbidden}["f"]
        with contextlib.suppress(Exception):
            await call()
        return "done"

    releases = Releases()
    async with Harness(releases.app(naughty)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.settle()
        assert await names(harness, handle) == ["SagaStarted", "SagaStalled"]


async def test_a_loop_that_never_rests_stalls() -> None:
    async def restless(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        while True:  # noqa: ASYNC110 - just that
            await asyncio.sleep(0)

    async with Harness(Releases().app(restless)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.settle()
        assert "ctx.wait_until" in (await only(harness, handle, e.SagaStalled)).error.message


async def test_a_saga_that_exits_stalls_and_the_engine_runs_on() -> None:
    async def exits(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        if order.n:
            sys.exit(1)
        return "fine"

    async with Harness(Releases().app(exits)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        await harness.settle()
        assert (await only(harness, handle, e.SagaStalled)).error.type == "SystemExit"
        assert await harness.run(it_of(harness), Order(n=0)) == "fine"


async def test_lost_determinism_is_found_in_the_turn_after_it() -> None:
    """The point of replaying each turn: no test of such a saga passes."""
    source = random.Random(1)

    async def guesses(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        name = chooses["at random"]()
        await ctx.do(do[name], order)
        await ctx.do(do[name], order)
        return "done"

    chooses = {"at random": lambda: source.choice("abc")}
    releases = Releases()
    async with Harness(releases.app(guesses)) as harness:
        handles = [await harness.start(it_of(harness), Order(n=1)) for _ in range(10)]
        await harness.advance(0.5)
        statuses = [await handle.status() for handle in handles]
        assert Status.STALLED in statuses


async def test_an_instance_that_has_ended_needs_its_code_no_more() -> None:
    """A cancelled timer of a saga that is long over comes due after the code has changed."""

    async def timed(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        async with asyncio.timeout(1000):
            await ctx.do(do["a"], order)
        raise Refused("no")

    releases = Releases()
    async with Harness(releases.app(timed)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        before = await names(harness, handle)
        await harness.restart(releases.app(b_then_a))
        await harness.advance(2000)
        assert await names(harness, handle) == before
        assert await handle.status() == Status.COMPENSATED


async def test_a_late_result_that_needs_code_which_has_changed_waits_for_the_right_code() -> None:
    async def slow(ctx: SagaContext, order: Order, do: dict[str, Any]) -> str:
        await ctx.do(do["a"], order)
        return "done"

    releases = Releases()
    releases.activities["a"] = releases.world.activity("a", timeout=10)
    releases.world.plan["a"] = [Late(50), Late(50)]
    async with Harness(releases.app(slow)) as harness:
        handle = await harness.start(it_of(harness), Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        await harness.restart(releases.app(b_then_a))
        late = m.ReportCompleted(saga="it", id=handle.id, seq=1, attempt=1, result={"text": "late"})
        await harness.client.send(late)
        await harness.advance(5)
        assert releases.world.did == ["a 1", "a 1", "undo_a 1 None"]
        assert (await names(harness, handle))[-2:] == ["StepReportedLate", "SagaStalled"]
        assert await handle.status() == Status.STALLED
        assert await ended(handle) == Status.COMPENSATED
        await harness.advance(3600)
        await harness.restart(releases.app(slow))
        await harness.advance(500)
        assert await handle.status() == Status.COMPENSATED
        assert releases.world.did[3:] == ["undo_a 1 late"]

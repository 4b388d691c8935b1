"""Steps: how they end, and what of it stands in the journal."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from amends import (
    App,
    Failure,
    Handle,
    Retry,
    Saga,
    SagaContext,
    Status,
    StepFailed,
    StepUnknown,
    activity,
    activity_context,
    saga,
)
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.events import AttemptOutcome
from amends.testing.clock import EPOCH
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    ONCE,
    TWICE,
    Broken,
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


def one_step(world: World, **options: Any) -> tuple[Saga[Order, Receipt], App]:
    a = world.activity("a", **options)

    @saga(name="one")
    async def one(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    return one, app_of(one, activities=[a])


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


# --- values


class Money(BaseModel):
    amount: Decimal
    day: date
    when: datetime
    parts: tuple[int, ...]
    raw: bytes
    tags: frozenset[str]


async def test_values_come_back_equal_and_of_their_types() -> None:
    money = Money(
        amount=Decimal("12.50"),
        day=date(2026, 2, 28),
        when=datetime(2026, 3, 1, 12, tzinfo=UTC),
        parts=(1, 2),
        raw=b"abc",
        tags=frozenset({"a"}),
    )
    seen: list[Money] = []

    @activity
    async def echo(given: Money) -> Money:
        seen.append(given)
        return given

    @saga
    async def carries(ctx: SagaContext, given: Money) -> Money:
        assert given == money
        return await ctx.do(echo, given)

    async with Harness(app_of(carries, activities=[echo])) as harness:
        assert await harness.run(carries, money) == money
        assert seen == [money]
        assert type(seen[0].parts) is tuple


async def test_activities_without_an_input_or_a_result() -> None:
    did: list[str] = []

    @activity
    async def beep() -> None:
        did.append("beep")

    @activity
    async def count() -> int:
        return len(did)

    @saga
    async def beeps(ctx: SagaContext) -> int:
        await ctx.do(beep)
        return await ctx.do(count)

    async with Harness(app_of(beeps, activities=[beep, count])) as harness:
        assert await harness.run(beeps) == 1


async def test_plain_values_need_no_model() -> None:
    @activity
    async def join(words: list[str]) -> str:
        return " ".join(words)

    @saga
    async def joins(ctx: SagaContext, words: list[str]) -> str:
        return await ctx.do(join, words)

    async with Harness(app_of(joins, activities=[join])) as harness:
        assert await harness.run(joins, ["a", "b"]) == "a b"


# --- completed, failed


async def test_the_journal_of_a_step() -> None:
    world = World()
    one, app = one_step(world)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=3))
        await handle.result()
        started, scheduled, completed, end = await harness.journal(handle)
        assert started == e.SagaStarted(at=at(0), saga="one", id="1", input={"n": 3})
        assert scheduled == e.StepScheduled(
            seq=1, activity="a", queue="default", input={"n": 3}, undo="undo_a"
        )
        assert completed == e.StepCompleted(at=at(0), seq=1, attempt=1, result={"text": "a3"})
        assert end == e.SagaCompleted(seq=0, result={"text": "a3"})
        assert world.keys == ["one/1/1"]


async def test_an_error_is_retried_on_record_with_when_and_why() -> None:
    world = World()
    world.plan["a"] = [Broken("cable"), Broken("plug")]
    one, app = one_step(world, retry=Retry(max_attempts=5, initial_s=2, coefficient=3, jitter=0))
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await handle.result() == Receipt(text="a1")
        first, second = await every(harness, handle, e.StepAttemptFailed)
        assert (first.attempt, first.outcome, first.retry_at) == (1, AttemptOutcome.FAILED, at(2))
        assert (first.error.type, first.error.message) == ("Broken", "cable")
        assert first.error.traceback is not None
        assert "support.py" in first.error.traceback
        assert not first.error.declared
        assert (second.attempt, second.at, second.retry_at) == (2, at(2), at(8))
        completed = await only(harness, handle, e.StepCompleted)
        assert (completed.attempt, completed.at) == (3, at(8))
        # One key for all attempts.
        assert world.keys == ["one/1/1"] * 3


async def test_attempts_used_up_by_errors_are_a_failure_and_undo_nothing() -> None:
    world = World()
    world.plan["a"] = [Broken("one"), Broken("two")]
    one, app = one_step(world)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.FAILED
        failed = await only(harness, handle, e.StepFailed)
        assert (failed.seq, failed.error.type, failed.error.message) == (1, "Broken", "two")
        assert (await every(harness, handle, e.StepAttemptFailed))[-1].retry_at is None
        assert world.did == ["a 1", "a 1"]


async def test_a_declared_failure_is_never_retried() -> None:
    world = World()
    world.plan["a"] = [Refused("overdrawn")]
    one, app = one_step(world, retry=Retry(max_attempts=None))
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.FAILED
        failed = await only(harness, handle, e.StepFailed)
        assert failed.error.declared
        assert failed.error.traceback is None
        assert world.did == ["a 1"]


@pytest.mark.parametrize("named", [Broken, "Broken"])
async def test_an_error_that_the_policy_calls_final_is_not_retried(named: Any) -> None:
    world = World()
    world.plan["a"] = [Broken("cable")]
    one, app = one_step(world, retry=Retry(non_retryable=(named,)))
    async with Harness(app) as harness:
        assert await ended(await harness.start(one, Order(n=1))) == Status.FAILED
        assert world.did == ["a 1"]


async def test_a_saga_can_catch_a_failure_and_see_what_the_activity_said() -> None:
    world = World()
    world.plan["a"] = [Refused("overdrawn")]
    a, b = world.activity("a"), world.activity("b")

    @saga
    async def careful(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepUnknown:
            return "unknown"
        except StepFailed as failure:
            await ctx.do(b, order)
            kinds = [kind.__name__ for kind in (Refused, Broken) if failure.caused_by(kind)]
            return f"{failure.activity} {failure.seq} {failure.error.message} {kinds}"
        return "done"

    async with Harness(app_of(careful, activities=[a, b])) as harness:
        assert await harness.run(careful, Order(n=1)) == "a 1 overdrawn ['Refused']"
        assert world.did == ["a 1", "b 1"]


async def test_a_failure_with_an_odd_text_still_ends_the_step() -> None:
    class Odd(Failure):
        def __str__(self) -> str:
            raise ValueError("no text")

    world = World()
    world.plan["a"] = [Odd()]
    world.plan["b"] = [Broken("file \udcff.txt")]
    a, b = world.activity("a", retry=ONCE), world.activity("b", retry=ONCE)

    @saga
    async def odd(ctx: SagaContext, order: Order) -> list[str]:
        found = []
        for each in (a, b):
            try:
                await ctx.do(each, order)
            except StepFailed as failure:
                found.append(f"{failure.error.type}: {failure.error.message}")
        return found

    async with Harness(app_of(odd, activities=[a, b])) as harness:
        found = await harness.run(odd, Order(n=1))
        assert found[0].startswith("Odd: ")
        assert found[1] == "Broken: file \\udcff.txt"


# --- unknown


async def test_an_attempt_that_takes_too_long_is_unknown() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    one, app = one_step(world, timeout=10)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        first, second = await every(harness, handle, e.StepAttemptFailed)
        assert (first.outcome, first.at, first.retry_at) == (
            AttemptOutcome.TIMED_OUT, at(10), at(11),
        )  # fmt: skip
        assert "longer than 10 s" in first.error.message
        assert (second.attempt, second.retry_at) == (2, None)
        unknown = await only(harness, handle, e.StepUnknown)
        assert (unknown.seq, unknown.then) == (1, e.AfterUnknown.RAISE)
        assert world.did == ["a 1", "a 1", "undo_a 1 None"]


async def test_a_saga_can_tell_unknown_from_failed() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", timeout=10, retry=ONCE)

    @saga
    async def asks(ctx: SagaContext, order: Order) -> str:
        try:
            await ctx.do(a, order)
        except StepUnknown as unknown:
            return f"{unknown.activity} {unknown.seq} {unknown.error.type}"
        return "done"

    async with Harness(app_of(asks, activities=[a])) as harness:
        assert await harness.run(asks, Order(n=1)) == "a 1 TimeoutError"


async def test_an_error_after_a_timeout_leaves_open_what_the_first_attempt_did() -> None:
    world = World()
    world.plan["a"] = [Late(100), Broken("cable")]
    one, app = one_step(world, timeout=10)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert await every(harness, handle, e.StepFailed) == []
        await only(harness, handle, e.StepUnknown)
        assert world.did[-1] == "undo_a 1 None"


async def test_a_refusal_after_a_timeout_is_sure() -> None:
    world = World()
    world.plan["a"] = [Late(100), Refused("overdrawn")]
    one, app = one_step(world, timeout=10)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.FAILED
        await only(harness, handle, e.StepFailed)


async def test_a_result_that_does_not_fit_its_type_is_unknown_because_the_effect_happened() -> None:
    world = World()
    world.plan["a"] = ["no receipt"]
    one, app = one_step(world, retry=ONCE)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        failed = await only(harness, handle, e.StepAttemptFailed)
        assert failed.outcome is AttemptOutcome.VANISHED
        assert failed.error.type == "InvalidPayload"
        assert world.did == ["a 1", "undo_a 1 None"]


async def test_a_result_over_the_limit_is_unknown() -> None:
    world = World()
    world.plan["a"] = [Receipt(text="x" * 300_000)]
    one, app = one_step(world, retry=ONCE)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.StepUnknown)).error.type == "PayloadTooLarge"


async def test_a_consumer_that_dies_with_every_attempt_leaves_the_step_unknown() -> None:
    world = World()
    world.plan["a"] = [Late(1e6) for _ in range(100)]
    one, app = one_step(world, retry=ONCE, timeout=None)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        for _ in range(20):
            await harness.settle()
            await harness.restart()
        assert await ended(handle) == Status.COMPENSATED
        failed = await only(harness, handle, e.StepAttemptFailed)
        assert (failed.outcome, failed.error.type) == (AttemptOutcome.VANISHED, "Vanished")
        assert world.did == ["a 1"] * 20 + ["undo_a 1 None"]


# --- the time for all attempts together


async def test_the_total_timeout_ends_a_step_that_runs_as_unknown() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    one, app = one_step(world, timeout=None, total_timeout=30)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert (await every(harness, handle, e.StepScheduled))[0].deadline == at(30)
        assert (await only(harness, handle, e.StepUnknown)).at == at(30)


async def test_no_retry_begins_after_the_total_timeout() -> None:
    world = World()
    world.plan["a"] = [Broken("cable")]
    policy = Retry(initial_s=40, jitter=0)
    one, app = one_step(world, retry=policy, total_timeout=30)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.FAILED
        assert (await only(harness, handle, e.StepAttemptFailed)).retry_at is None
        assert harness.now() == at(0)


async def test_the_total_timeout_that_passed_in_a_backoff_while_no_engine_ran() -> None:
    world = World()
    world.plan["a"] = [Broken("cable")]
    one, app = one_step(world, retry=Retry(initial_s=20, jitter=0), total_timeout=30)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.settle()
        await harness.crash()
        await harness.advance(40)
        await harness.start_engine()
        # Whether the second attempt had begun is not on record.
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.StepUnknown)).at == at(40)
        assert world.did == ["a 1", "undo_a 1 None"]


async def test_an_expiry_that_comes_too_early_changes_nothing() -> None:
    world = World()
    world.plan["a"] = [Late(20)]
    one, app = one_step(world, total_timeout=30)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.client.send(m.ExpireStep(saga="one", id=handle.id, seq=1))
        assert await handle.result() == Receipt(text="a1")
        assert world.did == ["a 1"]


async def test_a_command_that_waited_until_after_the_total_timeout_is_not_begun() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", total_timeout=30, timeout=None)
    b = world.activity("b", timeout=None)
    world.plan["b"] = [Late(100)]

    @saga
    async def one(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a if order.n else b, order)

    app = app_of(one, activities=[a, b], concurrency={"default": 1})
    async with Harness(app) as harness:
        await harness.start(one, Order(n=0))
        await harness.settle()
        handle = await harness.start(one, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        assert (await only(harness, handle, e.StepUnknown)).at == at(30)
        await harness.advance(1000)
        assert world.did == ["b 0", "undo_a 1 None"]


# --- policies


async def test_another_policy_in_the_next_release_does_not_change_what_is_on_record() -> None:
    world = World()
    world.plan["a"] = [Broken("1"), Broken("2"), Broken("3")]
    one, app = one_step(world, retry=Retry(initial_s=60, jitter=0, coefficient=1))
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.settle()
        _, patient = one_step(world, retry=ONCE)
        one_now = patient.sagas["one"]
        assert one_now is not one
        await harness.restart(patient)
        # The retry on record still comes, at its time; what follows it is today's policy.
        assert await ended(handle) == Status.FAILED
        first, second = await every(harness, handle, e.StepAttemptFailed)
        assert first.retry_at == second.at == at(60)
        assert second.retry_at is None


async def test_queue_undo_pivot_and_deadline_are_kept_as_recorded() -> None:
    world = World()
    world.plan["a"] = [Late(50, Refused("no"))]
    one, app = one_step(world, queue="old", undo_failed=True, total_timeout=60)
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        await harness.settle()
        world.plan["a"] = [Refused("no")]
        _, newer = one_step(world, queue="old", undo_failed=False, total_timeout=9)
        await harness.restart(newer)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did == ["a 1", "a 1", "undo_a 1 None"]


# --- programming errors


async def test_an_input_that_does_not_fit_stalls_the_saga_and_schedules_nothing() -> None:
    world = World()
    a = world.activity("a")

    @saga
    async def wrong(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, "no order")  # type: ignore[misc]

    async with Harness(app_of(wrong, activities=[a])) as harness:
        handle = await harness.start(wrong, Order(n=1))
        await harness.settle()
        assert await names(harness, handle) == ["SagaStarted", "SagaStalled"]
        stalled = await only(harness, handle, e.SagaStalled)
        assert stalled.error.type == "InvalidPayload"
        assert "Order" in stalled.error.message
        assert stalled.error.traceback is not None
        assert 'ctx.do(a, "no order")' in stalled.error.traceback
        assert await handle.status() == Status.STALLED
        assert world.did == []


async def test_an_input_over_the_limit_stalls_the_saga() -> None:
    @activity
    async def store(text: str) -> None: ...

    @saga
    async def long(ctx: SagaContext) -> None:
        await ctx.do(store, "x" * 300_000)

    async with Harness(app_of(long, activities=[store])) as harness:
        handle = await harness.start(long)
        await harness.settle()
        assert await names(harness, handle) == ["SagaStarted", "SagaStalled"]
        assert (await only(harness, handle, e.SagaStalled)).error.type == "PayloadTooLarge"


async def test_an_activity_that_the_application_lacks_stalls_the_saga() -> None:
    world = World()
    a = world.activity("a")

    @saga
    async def lacks(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(lacks)) as harness:
        handle = await harness.start(lacks, Order(n=1))
        await harness.settle()
        stalled = await only(harness, handle, e.SagaStalled)
        assert stalled.error.type == "NotRegistered"
        assert "App(activities=[…])" in stalled.error.message
        # Registered in the next release, it goes on by itself.
        fixed = app_of(lacks, activities=[a])
        await harness.restart(fixed)
        assert await handle.result() == Receipt(text="a1")


async def test_a_bad_input_that_the_saga_catches_leaves_no_trace() -> None:
    world = World()
    a = world.activity("a")

    @saga
    async def catches(ctx: SagaContext, order: Order) -> Receipt:
        try:
            await ctx.do(a, "no order")  # type: ignore[misc]
        except Exception:
            return await ctx.do(a, order)
        return Receipt(text="?")

    async with Harness(app_of(catches, activities=[a])) as harness:
        handle = await harness.start(catches, Order(n=1))
        assert await handle.result() == Receipt(text="a1")
        assert (await only(harness, handle, e.StepScheduled)).seq == 1


# --- what an activity knows


async def test_an_activity_knows_which_attempt_it_is() -> None:
    seen: list[Any] = []

    @activity(retry=TWICE, timeout=20)
    async def looks(order: Order) -> Receipt:
        seen.append(activity_context())
        if len(seen) == 1:
            raise Broken("cable")
        return Receipt(text="r")

    @looks.undo
    async def unlooks(order: Order, receipt: Receipt | None) -> None:
        seen.append(activity_context())

    @saga
    async def watched(ctx: SagaContext, order: Order) -> None:
        await ctx.do(looks, order)
        raise Refused("no")

    async with Harness(app_of(watched, activities=[looks])) as harness:
        handle: Handle[None] = await harness.start(watched, Order(n=1), id="x")
        await ended(handle)
        first, second, undo = seen
        assert str(first.instance) == "watched/x"
        assert (first.activity, first.seq, first.attempt) == ("looks", 1, 1)
        assert (second.seq, second.attempt) == (1, 2)
        assert first.idempotency_key == second.idempotency_key == "watched/x/1"
        assert first.origin_key is None
        assert (first.deadline, second.deadline) == (at(20), at(21))
        assert (undo.activity, undo.idempotency_key) == ("unlooks", "watched/x/1/unlooks")
        assert undo.origin_key == "watched/x/1"
        assert first.correlation_id == undo.correlation_id != ""


async def test_an_activity_that_exits_or_cancels_itself_has_failed_and_the_engine_runs_on() -> None:
    world = World()
    world.plan["a"] = [SystemExit(3), asyncio.CancelledError()]
    one, app = one_step(world, retry=Retry(max_attempts=3, initial_s=1, jitter=0))
    async with Harness(app) as harness:
        handle = await harness.start(one, Order(n=1))
        assert await handle.result() == Receipt(text="a1")
        errors = [event.error.type for event in await every(harness, handle, e.StepAttemptFailed)]
        assert errors == ["SystemExit", "CancelledError"]

"""What else a saga can ask for: domain events, the time, randomness; the same on every replay."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from amends import SagaContext, Status, event, saga
from amends.domain import events as e
from amends.domain.envelope import decode_metadata
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


@event
class Paid(BaseModel, frozen=True):
    cents: int
    to: str = "nobody"


@event(name="payment.sent", version=3, oldest=3)
class Sent(BaseModel, frozen=True):
    cents: int


# --- domain events


async def test_an_event_stands_in_the_stream_under_its_own_type_and_version() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        ctx.emit(Paid(cents=5, to="ann"))
        ctx.emit(Sent(cents=5))

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await handle.result()
        records = (await handle.journal())[1:3]
        assert [record.type for record in records] == ["Paid", "payment.sent"]
        assert records[0].data == b'{"cents":5,"to":"ann"}'
        metadata = [decode_metadata(record) for record in records]
        assert [fields["schema"] for fields in metadata] == [1, 3]
        assert [fields["seq"] for fields in metadata] == [1, 2]
        first, second = await every(harness, handle, e.DomainEventEmitted)
        assert (first.type, first.data) == ("Paid", {"cents": 5, "to": "ann"})
        assert (second.type, second.schema_version) == ("payment.sent", 3)


@event(name="payment.sent", version=4, oldest=4)
class SentLater(BaseModel, frozen=True):
    pence: int


@event(name="payment.made", version=3, oldest=3)
class Made(BaseModel, frozen=True):
    cents: int


@pytest.mark.parametrize(
    ("emitted", "agrees"),
    [(SentLater(pence=5), True), (Sent(cents=6), False), (Made(cents=5), False)],
    ids=["another version", "other data", "another type"],
)
async def test_an_event_on_record_may_be_emitted_in_another_version_and_not_otherwise(
    emitted: BaseModel, agrees: bool
) -> None:
    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        ctx.emit(Sent(cents=5))
        await asyncio.sleep(10)

    @saga(name="it")
    async def later(ctx: SagaContext) -> None:
        ctx.emit(emitted)
        await asyncio.sleep(10)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.advance(5)
        await harness.restart(app_of(later))
        await harness.advance(10)
        assert await handle.status() == (Status.COMPLETED if agrees else Status.STALLED)


async def test_an_event_is_appended_with_the_step_that_follows_it() -> None:
    world = World()
    world.plan["a"] = [Late(10)]
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        ctx.emit(Paid(cents=order.n))
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        records = await handle.journal()
        assert [record.type for record in records] == ["SagaStarted", "Paid", "StepScheduled"]
        assert len({record.recorded_at for record in records}) == 1


async def test_an_event_stays_on_record_when_its_saga_is_compensated() -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        ctx.emit(Paid(cents=1))
        raise Refused("no")

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        assert await ended(handle) == Status.FAILED
        assert (await only(harness, handle, e.DomainEventEmitted)).type == "Paid"


async def test_another_event_on_replay_is_lost_determinism() -> None:
    def release(cents: int) -> Any:
        @saga(name="it")
        async def it(ctx: SagaContext) -> None:
            ctx.emit(Paid(cents=cents))
            await asyncio.sleep(10)

        return it

    async with Harness(app_of(release(1))) as harness:
        handle = await harness.start(harness.app.sagas["it"])
        await harness.restart(app_of(release(2)))
        await harness.advance(20)
        stalled = await only(harness, handle, e.SagaStalled)
        assert 'event Paid({"cents":1,' in stalled.error.message
        assert 'wants event Paid({"cents":2,' in stalled.error.message


class StepScheduled(BaseModel, frozen=True):
    """A user's own class with a name that the journal needs for itself."""


class Mutable(BaseModel):
    cents: int


@pytest.mark.parametrize(
    ("emitted", "why"),
    [
        (StepScheduled(), "a name of the journal's own"),
        (Mutable(cents=1), "frozen=True"),
        (Paid.model_construct(cents="many"), "Paid"),  # type: ignore[arg-type]
    ],
)
async def test_what_cannot_be_an_event_stalls_with_advice(emitted: BaseModel, why: str) -> None:
    @saga
    async def it(ctx: SagaContext) -> None:
        ctx.emit(emitted)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.settle()
        assert await names(harness, handle) == ["SagaStarted", "SagaStalled"]
        assert why in (await only(harness, handle, e.SagaStalled)).error.message


# --- time and randomness


async def test_time_stands_still_in_a_turn_and_is_that_of_the_input() -> None:
    world = World()
    world.plan["a"] = [Late(10)]
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> list[str]:
        times = [ctx.now(), ctx.now()]
        await ctx.do(a, order)
        times.append(ctx.now())
        await asyncio.sleep(5)
        times.append(ctx.now())
        loop_time = asyncio.get_running_loop().time()
        assert loop_time == ctx.now().timestamp()
        return [f"{(time - times[0]).total_seconds():g}" for time in times]

    async with Harness(app_of(it, activities=[a])) as harness:
        assert await harness.run(it, Order(n=1)) == ["0", "0", "10", "15"]


async def test_random_numbers_and_ids_survive_replays_crashes_and_restarts() -> None:
    seen: list[list[str]] = []

    @saga
    async def it(ctx: SagaContext) -> list[str]:
        drawn = []
        for _ in range(4):
            drawn += [str(ctx.uuid()), str(ctx.random.random()), ctx.random.choice("abcdef")]
            await asyncio.sleep(10)
        seen.append(drawn)
        return drawn

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.advance(15)
        await harness.restart()
        drawn = await handle.result()
        assert all(each == drawn for each in seen)
        ids = [UUID(text) for text in drawn[::3]]
        assert [id.version for id in ids] == [4] * 4
        assert len(set(ids)) == 4
        # Another instance draws others.
        others = await harness.run(it, id="other")
        assert set(others).isdisjoint(drawn[::3])


async def test_a_saga_knows_its_own_name() -> None:
    @saga
    async def it(ctx: SagaContext) -> list[str]:
        return [ctx.id, str(ctx.instance)]

    async with Harness(app_of(it)) as harness:
        assert await harness.run(it, id="x 1") == ["x 1", "it/x 1"]


async def test_a_result_that_does_not_fit_stalls_the_saga() -> None:
    @saga
    async def it(ctx: SagaContext) -> Receipt:
        await asyncio.sleep(1)
        return "no receipt"  # type: ignore[return-value]

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it)
        await harness.advance(2)
        assert (await only(harness, handle, e.SagaStalled)).error.type == "InvalidPayload"

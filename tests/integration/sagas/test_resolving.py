"""Parked: an undo that used up its attempts waits for a person, whose decision is on record."""

from __future__ import annotations

import asyncio

import pytest

from amends import App, Client, Handle, Saga, SagaContext, Status, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.errors import (
    ActionRefused,
    InstanceNotFound,
    InvalidPayload,
    NotRegistered,
    UsageError,
)
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
    every,
    only,
)

pytestmark = pytest.mark.virtual_time


def failing(world: World) -> tuple[Saga[Order, None], App]:
    """Two steps, then a refusal; the undo of the second breaks twice, which is all it has."""
    a, b = world.activity("a"), world.activity("b")
    world.plan["undo_b"] = [Broken("1"), Broken("2")]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        await ctx.do(b, order)
        raise Refused("no")

    return it, app_of(it, activities=[a, b])


async def parked(harness: Harness, it: Saga[Order, None]) -> Handle[None]:
    handle = await harness.start(it, Order(n=1))
    await harness.advance(100)
    assert await handle.status() == Status.PARKED
    return handle


async def test_an_undo_that_used_up_its_attempts_parks() -> None:
    world = World()
    it, app = failing(world)
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        event = await only(harness, handle, e.StepParked)
        assert (event.seq, event.error.message) == (3, "2")
        # Nothing goes on without the person, and nobody else's undo overtakes.
        await harness.advance(1e6)
        assert world.did[2:] == ["undo_b 1 b1", "undo_b 1 b1"]


async def test_retry_runs_it_again_with_attempts_of_its_own() -> None:
    world = World()
    it, app = failing(world)
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        world.plan["undo_b"] = [Broken("3")]
        await handle.resolve("retry", who="ann", why="the line is back")
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[4:] == ["undo_b 1 b1", "undo_b 1 b1", "undo_a 1 a1"]
        resolved = await only(harness, handle, e.StepResolved)
        assert (resolved.seq, resolved.who, resolved.why) == (3, "ann", "the line is back")
        assert resolved.resolution is e.Resolution.RETRY
        attempts = [event.attempt for event in await every(harness, handle, e.StepAttemptFailed)]
        assert attempts == [1, 2, 3]


async def test_a_retry_that_fails_parks_again() -> None:
    world = World()
    it, app = failing(world)
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        world.plan["undo_b"] = [Broken("3"), Broken("4")]
        await handle.resolve("retry", who="ann", why="perhaps")
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        assert len(await every(harness, handle, e.StepParked)) == 2


@pytest.mark.parametrize("resolution", ["skip", "complete"])
async def test_skip_and_complete_go_on_with_the_other_undos(resolution: str) -> None:
    world = World()
    it, app = failing(world)
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        await handle.resolve(resolution, who="bob", why="did it by telephone", seq=3)
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[4:] == ["undo_a 1 a1"]
        resolved = await only(harness, handle, e.StepResolved)
        assert (resolved.who, resolved.why) == ("bob", "did it by telephone")
        assert resolved.resolution == resolution


async def test_a_decision_is_for_one_parked_step_once() -> None:
    """A copy of the decision that comes after the step has parked again decides nothing."""
    world = World()
    it, app = failing(world)
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        retry = m.ResolveStep(
            saga="it", id=handle.id, seq=3, resolution=e.Resolution.RETRY, who="ann", why="once"
        )
        id = (await harness.client.journal(handle.instance))[0].id
        world.plan["undo_b"] = [Broken("3"), Broken("4"), Broken("5"), Broken("6")]
        await harness.client.send(retry, id=id)
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        await harness.client.send(retry, id=id)
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        assert len(await every(harness, handle, e.StepResolved)) == 1
        assert world.plan["undo_b"] == [*world.plan["undo_b"][-2:]]
        assert len(world.plan["undo_b"]) == 2


async def test_what_cannot_be_resolved_is_refused() -> None:
    world = World()
    it, app = failing(world)
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        with pytest.raises(ActionRefused, match=r"3 \(undo_b\)"):
            await handle.resolve("skip", who="ann", why="?", seq=1)
        await handle.resolve("skip", who="ann", why="!")
        await ended(handle)
        with pytest.raises(ActionRefused, match="none"):
            await handle.resolve("skip", who="ann", why="?")
        with pytest.raises(InstanceNotFound):
            await harness.client.handle(it, "nobody").resolve("skip", who="ann", why="?")


async def test_a_result_by_hand_must_fit_the_activity() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    a = world.activity("a", timeout=10, on_unknown="park")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        with pytest.raises(InvalidPayload):
            await handle.resolve("complete", who="ann", why="?", result={"txt": "wrong"})
        assert await handle.status() == Status.PARKED
        # Also when it did not come through this client.
        wrong = m.ResolveStep(
            saga="it", id=handle.id, seq=1, resolution=e.Resolution.COMPLETE, who="x", why="?"
        )
        await harness.client.send(wrong)
        await harness.settle()
        assert await handle.status() == Status.PARKED
        await handle.resolve("complete", who="ann", why="saw it", result=Receipt(text="by hand"))
        assert await handle.result() == Receipt(text="by hand")


async def test_a_result_by_hand_that_nobody_can_check_is_refused_at_the_caller() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    a = world.activity("a", timeout=10, on_unknown="park")

    @saga
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        client = harness.client
        async with Client(App(), client.backend, client.settings) as stranger:
            for result in (None, {"text": "by hand"}):
                with pytest.raises(NotRegistered, match=r"activity 'a' .* Nothing was sent"):
                    await stranger.handle("it", handle.id).resolve(
                        "complete", who="ann", why="?", result=result
                    )
            assert await handle.status() == Status.PARKED
            await stranger.handle("it", handle.id).resolve("skip", who="ann", why="!")
        await harness.settle()
        assert (await only(harness, handle, e.StepResolved)).resolution is e.Resolution.SKIP


async def test_nor_does_an_engine_take_one_that_it_cannot_check() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    a = world.activity("a", timeout=10, on_unknown="park")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        await harness.restart(app_of(activities=[]))
        complete = m.ResolveStep(
            saga="it", id=handle.id, seq=1, resolution=e.Resolution.COMPLETE, who="x", why="?",
            result={"text": "by hand"},
        )  # fmt: skip
        await harness.client.send(complete)
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert "activity 'a' is not registered" in letter.detail
        await harness.restart(app_of(it, activities=[a]))
        await harness.client.backend.broker.redrive([letter.message.id])
        assert await handle.result() == Receipt(text="by hand")


async def test_an_undo_has_no_result_whoever_says_so() -> None:
    it, app = failing(World())
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        client = harness.client
        async with Client(App(), client.backend, client.settings) as stranger:
            undo = stranger.handle("it", handle.id)
            with pytest.raises(InvalidPayload, match="an undo has no result"):
                await undo.resolve("complete", who="ann", why="?", result=7)
            await undo.resolve("complete", who="ann", why="by telephone")
        assert await ended(handle) == Status.COMPENSATED


async def test_what_a_person_completed_is_undone_like_any_other() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    a = world.activity("a", timeout=10, on_unknown="park")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)
        raise Refused("no")

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        await handle.resolve("complete", who="ann", why="saw it", result={"text": "by hand"})
        assert await ended(handle) == Status.COMPENSATED
        assert world.did[-1] == "undo_a 1 by hand"


async def test_a_retry_that_fails_does_not_settle_the_doubt_of_before() -> None:
    """An attempt before the retry may have had its effect: it is asked about, or undone."""
    world = World()
    world.plan["a"] = [Late(100), Broken("1"), Broken("2"), Broken("3")]
    a = world.activity("a", timeout=10, on_unknown="park", total_timeout=15)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await parked(harness, it)
        await handle.resolve("retry", who="ann", why="the line is back")
        await harness.advance(100)
        assert await handle.status() == Status.PARKED
        assert await every(harness, handle, e.StepFailed) == []
        await handle.resolve("skip", who="ann", why="enough")


async def test_each_retry_by_a_person_has_all_its_time_and_no_more() -> None:
    world = World()
    world.plan["b"] = [Broken("1"), Broken("2"), Late(1e6)]
    a, b = world.activity("a"), world.activity("b", timeout=1e5, total_timeout=100, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order, pivot=True)
        await ctx.do(b, order)

    async with Harness(app_of(it, activities=[a, b])) as harness:
        handle = await harness.start(it, Order(n=1))
        for _ in range(2):
            await harness.advance(50)
            assert await handle.status() == Status.PARKED
            await handle.resolve("retry", who="ann", why="again")
        await harness.advance(99)
        assert await handle.status() == Status.RUNNING
        await harness.advance(2)
        assert await handle.status() == Status.PARKED
        await only(harness, handle, e.StepUnknown)


async def test_a_skipped_step_gives_none_whatever_its_type() -> None:
    world = World()
    world.plan["a"] = [Late(100), Late(100)]
    a = world.activity("a", timeout=10, on_unknown="park")

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        receipt = await ctx.do(a, order)
        await asyncio.sleep(1)
        return f"got {receipt!r}"

    async with Harness(app_of(it, activities=[a])) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(100)
        await handle.resolve("skip", who="ann", why="never mind")
        assert await handle.result() == "got None"


async def test_a_word_that_is_no_decision_is_refused_with_the_words_that_are() -> None:
    it, app = failing(World())
    async with Harness(app) as harness:
        handle = await parked(harness, it)
        with pytest.raises(UsageError, match=r"'redo' .* retry, skip, complete"):
            await handle.resolve("redo", who="ann", why="?")

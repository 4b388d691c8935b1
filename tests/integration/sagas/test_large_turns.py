"""Turns that take more than an append may hold: they are split, and nothing is lost or half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from amends import App, Handle, Retry, SagaContext, Settings, Signal, Status, activity, saga
from amends.broker.mail import to_inbox
from amends.cli.checking import judge
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.envelope import NewEvent
from amends.domain.ids import NO_STREAM
from amends.errors import PayloadTooLarge
from amends.sagas.outside import outside_tasks
from amends.sagas.reconcile import reconcile
from amends.stores.memory import MemoryStore
from amends.stores.port import Append, Appended
from amends.testing.harness import EVERY_TURN_REPLAYS, Harness
from amends.testing.invariants import check_journal, check_replay
from tests.integration.sagas.support import every, only

pytestmark = pytest.mark.virtual_time

#: What EventStoreDB before 25.1 takes in one append.
MIB = 1024 * 1024
BULK = "x" * 200_000
COUNT = 12

go = Signal("go", str)


class Bulk(BaseModel):
    number: int
    text: str = BULK


class Told(BaseModel, frozen=True):
    number: int
    text: str = BULK


class Recorder:
    """What was done, in how many appends, and how large they were."""

    def __init__(self) -> None:
        self.did: list[int] = []
        self.sizes: list[int] = []

    def app(self, fn: Any) -> App:
        @activity(retry=Retry(max_attempts=1))
        async def carry(bulk: Bulk) -> str:
            self.did.append(bulk.number)
            return BULK

        @saga(name="it")
        async def it(ctx: SagaContext) -> int:
            done: int = await fn(ctx, carry)
            return done

        return App(sagas=[it], activities=[carry], concurrency={"default": 3})


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    right = MemoryStore.append

    async def append(self: MemoryStore, append: Append) -> Appended:
        made.sizes.append(
            sum(len(new.data) + len(new.metadata) + len(new.type) + 16 for new in append.events)
        )
        return await right(self, append)

    monkeypatch.setattr(MemoryStore, "append", append)
    return made


@asynccontextmanager
async def checked(
    recorder: Recorder, fn: Any, settings: Settings = EVERY_TURN_REPLAYS
) -> AsyncIterator[tuple[Harness, Handle[int]]]:
    """An instance under "1", whose appends stay within bounds and whose journal keeps the rules."""
    app = recorder.app(fn)
    async with Harness(app, settings=settings) as harness:
        handle = await harness.client.submit(app.sagas["it"], id="1")
        yield harness, handle
        check_journal(harness.app, await handle.journal())
        check_replay(harness.app, await handle.journal())
    assert max(recorder.sizes) < MIB


async def all_at_once(ctx: SagaContext, carry: Any) -> int:
    results = await asyncio.gather(*(ctx.do(carry, Bulk(number=n)) for n in range(COUNT)))
    return len(results)


@pytest.mark.parametrize("cache_max", [0, 100])
async def test_steps_that_do_not_fit_one_append_are_all_taken_once(
    recorder: Recorder, cache_max: int
) -> None:
    settings = Settings(store="memory://", cache_max=cache_max, calm_gc=False)
    async with checked(recorder, all_at_once, settings) as (harness, handle):
        assert await handle.result() == COUNT
        assert recorder.did == list(range(COUNT))
        assert len(await every(harness, handle, e.TurnSplit)) == 2
        assert await harness.dead_letters() == []
        scheduled = await every(harness, handle, e.StepScheduled)
        assert [step.seq for step in scheduled] == list(range(1, COUNT + 1))


async def test_events_that_do_not_fit_one_append_follow_each_other(recorder: Recorder) -> None:
    async def tells(ctx: SagaContext, carry: Any) -> int:
        for number in range(COUNT):
            ctx.emit(Told(number=number))
        return COUNT

    async with checked(recorder, tells) as (harness, handle):
        assert await handle.result() == COUNT
        told = await every(harness, handle, e.DomainEventEmitted)
        assert [event.data["number"] for event in told] == list(range(COUNT))


async def test_messages_whose_events_do_not_fit_one_append_take_several_turns(
    recorder: Recorder,
) -> None:
    async def listens(ctx: SagaContext, carry: Any) -> int:
        texts: list[str] = [await ctx.receive(go) for _ in range(COUNT)]
        return sum(map(len, texts))

    async with checked(recorder, listens) as (harness, handle):
        await harness.settle()
        await send_signals(harness, COUNT)
        assert await handle.result() == COUNT * len(BULK)
        assert await harness.dead_letters() == []
        assert len(await every(harness, handle, e.SignalReceived)) == COUNT
        assert await every(harness, handle, e.TurnSplit) == []


async def send_signals(harness: Harness, count: int) -> None:
    """All in one go, so that one turn could take them."""
    await harness.client.backend.broker.publish([
        to_inbox(
            m.DeliverSignal(saga="it", id="1", name="go", payload=BULK), uuid4(),
            partitions=1, correlation_id="c", causation_id="c",
        )
        for _ in range(count)
    ])  # fmt: skip


async def carry_each(ctx: SagaContext, carry: Any) -> int:
    for number in range(COUNT):
        await ctx.receive(go)
        ctx.emit(Told(number=number))
    return COUNT


async def test_what_a_stall_has_held_back_may_take_more_than_an_append(recorder: Recorder) -> None:
    async def buggy(ctx: SagaContext, carry: Any) -> int:
        raise TypeError("a bug")

    app = recorder.app(buggy)
    async with Harness(app) as harness:
        handle = await harness.client.submit(app.sagas["it"], id="1")
        await harness.settle()
        await send_signals(harness, COUNT)
        await harness.settle()
        assert await handle.status() == Status.STALLED
        await harness.restart(recorder.app(carry_each))
        assert await handle.result() == COUNT
        told = await every(harness, handle, e.DomainEventEmitted)
        assert [event.data["number"] for event in told] == list(range(COUNT))
        await only(harness, handle, e.SagaResumed)
        check_journal(harness.app, await handle.journal())
    assert max(recorder.sizes) < MIB


# --- in the middle of a split turn


async def one_part(recorder: Recorder) -> list[NewEvent]:
    """What is on record when the engine dies after the first part of the first turn."""
    app = recorder.app(all_at_once)
    async with Harness(app) as harness:
        handle = await harness.start(app.sagas["it"])
        records = await handle.journal()
    recorder.did.clear()
    length = [record.type for record in records].index("TurnSplit") + 1
    return [NewEvent(r.id, r.type, r.data, r.metadata) for r in records[:length]]


@asynccontextmanager
async def with_one_part(recorder: Recorder, fn: Any) -> AsyncIterator[tuple[Harness, Handle[int]]]:
    part = await one_part(recorder)
    async with Harness(recorder.app(fn)) as harness:
        handle: Handle[int] = harness.client.handle("it", "1")
        append = Append(handle.instance.stream, part, NO_STREAM)
        await harness.client.backend.store.append(append)
        yield harness, handle
        check_journal(harness.app, await handle.journal())


async def test_a_check_of_the_code_says_that_a_turn_goes_on(recorder: Recorder) -> None:
    async with with_one_part(recorder, all_at_once) as (harness, handle):
        verdict = await outside_tasks(
            partial(judge, harness.app, handle.instance, await handle.journal())
        )
        assert verdict.fault == ""
        assert verdict.note.startswith("in the middle of a turn; would go on with step carry")


@pytest.mark.parametrize("how", ["redelivery", "reconcile", "another message"])
async def test_the_rest_of_a_turn_follows_whatever_was_lost(recorder: Recorder, how: str) -> None:
    async with with_one_part(recorder, all_at_once) as (harness, handle):
        backend = harness.client.backend
        if how == "reconcile":
            assert (await reconcile(backend.store, backend.broker)).waiting == 1
        elif how == "redelivery":
            await harness.client.submit(harness.app.sagas["it"], id="1")
        else:
            await handle.signal(go, "on")
        await harness.settle()
        # The steps of the first part were asked for before; or reconcile does it again.
        assert set(recorder.did) >= set(range(4, COUNT))
        await reconcile(backend.store, backend.broker)
        assert await handle.result() == COUNT
        assert sorted(set(recorder.did)) == list(range(COUNT))
        check_replay(harness.app, await handle.journal())


async def test_code_that_breaks_in_between_stalls_and_goes_on_when_it_is_right(
    recorder: Recorder,
) -> None:
    async def buggy(ctx: SagaContext, carry: Any) -> int:
        raise TypeError("a bug")

    async def wants_more(ctx: SagaContext, carry: Any) -> int:
        ctx.emit(Told(number=0))
        return await all_at_once(ctx, carry)

    async with with_one_part(recorder, buggy) as (harness, handle):
        await handle.signal(go, "on")
        await harness.advance(100)
        assert await handle.status() == Status.STALLED
        await harness.restart(recorder.app(wants_more))
        await harness.advance(1000)
        assert await handle.status() == Status.STALLED
        assert recorder.did == []
        await harness.restart(recorder.app(all_at_once))
        await harness.advance(1000)
        await reconcile(harness.client.backend.store, harness.client.backend.broker)
        assert await handle.result() == COUNT
        assert sorted(set(recorder.did)) == list(range(COUNT))


# --- what is too large by itself


async def test_a_message_that_fits_no_append_is_refused_at_the_caller(recorder: Recorder) -> None:
    async def waits(ctx: SagaContext, carry: Any) -> int:
        text: str = await ctx.receive(go)
        return len(text)

    async with checked(recorder, waits) as (harness, handle):
        await harness.settle()
        with pytest.raises(PayloadTooLarge, match="was not acted upon"):
            await handle.cancel(who="ann", why="y" * MIB)
        # One that did not come through a client of ours.
        huge = m.CancelSaga(saga="it", id="1", who="ann", why="y" * MIB)
        await harness.client.backend.broker.publish([
            to_inbox(huge, uuid4(), partitions=1, correlation_id="c", causation_id="c")
        ])  # fmt: skip
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert "is over the limit" in letter.detail
        await handle.signal(go, "on")
        assert await handle.result() == 2

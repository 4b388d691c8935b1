"""The orchestrator: what goes wrong around it is waited out, put aside or repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from amends import App, Saga, SagaContext, Settings, Signal, Status, saga
from amends.backend import Backend
from amends.broker.port import Message
from amends.broker.topology import command_queue, inbox_queue
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.ids import StreamName
from amends.errors import (
    AppendOutcomeUnknown,
    BrokerUnavailable,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from amends.stores.port import Append, Appended
from amends.testing.crashes import CrashPoints, crash_at_every_point
from amends.testing.faults import FaultRates
from amends.testing.harness import Harness, run_app
from tests.integration.sagas.support import (
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
)

ping = Signal("ping", int)

CACHED = Settings(store="memory://", cache_max=2)


def three_steps(world: World) -> tuple[Saga[Order, str], App]:
    activities = [world.activity(name) for name in "abc"]

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> str:
        texts = []
        for each in activities:
            texts.append((await ctx.do(each, order)).text)
            await asyncio.sleep(1)
        return " ".join(texts)

    return it, app_of(it, activities=activities)


# --- the store and the broker fail


class Failing:
    """Makes the next calls of a method raise, before or after they had their effect."""

    def __init__(self, target: Any, method: str) -> None:
        self._call = getattr(target, method)
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        setattr(target, method, self)

    async def __call__(self, *args: Any) -> Any:
        if self.before:
            raise self.before.pop(0)
        result = await self._call(*args)
        if self.after:
            raise self.after.pop(0)
        return result


def engine_backend(harness: Harness) -> Backend:
    return harness.processes[0].backend


@pytest.mark.virtual_time
@pytest.mark.parametrize("error", [StoreUnavailable("locked"), StoreFull("no room")])
async def test_an_append_that_fails_is_tried_again_with_growing_pauses(error: Exception) -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        append = Failing(engine_backend(harness).store, "append")
        append.before = [error] * 8
        handle = await harness.start(it, Order(n=1))
        # 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, then never more than 5.
        assert harness.clock.elapsed_s == pytest.approx(16.3)
        assert await handle.result() == "a1 b1 c1"
        assert world.did == ["a 1", "b 1", "c 1"]


@pytest.mark.virtual_time
async def test_an_append_that_may_have_happened_is_looked_up_and_not_repeated() -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        append = Failing(engine_backend(harness).store, "append")
        append.after = [AppendOutcomeUnknown("timed out") for _ in range(20)]
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == "a1 b1 c1"
        assert world.did == ["a 1", "b 1", "c 1"]
        assert len(await every(harness, handle, e.StepScheduled)) == 3


@pytest.mark.virtual_time
async def test_messages_that_could_not_be_published_after_the_append_are_published_later() -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        publish = Failing(engine_backend(harness).broker, "publish")
        publish.before = [BrokerUnavailable("gone") for _ in range(5)]
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == "a1 b1 c1"
        assert world.did == ["a 1", "b 1", "c 1"]


@pytest.mark.virtual_time
async def test_an_instance_that_waits_for_its_store_does_not_keep_others_waiting() -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        store = engine_backend(harness).store
        append = store.append

        async def picky(wanted: Append) -> Appended:
            if wanted.stream.endswith("-slow") and harness.clock.elapsed_s < 1000:
                raise StoreUnavailable("locked")
            return await append(wanted)

        store.append = picky  # type: ignore[method-assign, assignment]
        slow = await harness.client.submit(it, Order(n=1), id="slow")
        assert await harness.run(it, Order(n=2), id="quick") == "a2 b2 c2"
        assert harness.clock.elapsed_s < 10
        assert await slow.result() == "a1 b1 c1"


# --- messages that make no sense


def odd_message(type: str, body: bytes, *, queue: str = inbox_queue(0)) -> Message:
    return Message(uuid4(), queue, type, "odd", body, "c", "c")


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("type", "body", "detail"),
    [
        ("StartSaga", b"{", "json_invalid"),
        ("StartSaga", b'{"saga":"it"}', "id: missing"),
        ("StartSaga", b'{"saga":"it","id":"1","more":2}', "more: extra_forbidden"),
        ("Nonsense", b"{}", "'Nonsense'"),
    ],
)
async def test_a_message_that_cannot_be_read_is_put_aside_and_the_rest_goes_on(
    type: str, body: bytes, detail: str
) -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        broker = harness.client.backend.broker
        await broker.publish([odd_message(type, body)])
        assert await harness.run(it, Order(n=1)) == "a1 b1 c1"
        [letter] = await harness.dead_letters()
        assert (letter.reason, letter.deliveries) == ("unreadable", 1)
        assert detail in letter.detail


@pytest.mark.virtual_time
async def test_a_command_that_cannot_be_read_or_run_is_put_aside_and_the_rest_goes_on() -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        queue = command_queue("default")
        await harness.client.backend.broker.publish(
            [
                odd_message("RunStep", b"{", queue=queue),
                odd_message("StartSaga", b'{"saga":"it","id":"1"}', queue=queue),
                odd_message(
                    "RunStep",
                    b'{"saga":"it","id":"1","seq":1,"attempt":1,"activity":"gone"}',
                    queue=queue,
                ),
            ]
        )
        assert await harness.run(it, Order(n=1)) == "a1 b1 c1"
        letters = await harness.dead_letters()
        reasons = sorted(letter.reason for letter in letters)
        assert reasons == ["unknown activity", "unreadable", "unreadable"]


@pytest.mark.virtual_time
async def test_an_error_of_the_engines_own_puts_the_messages_aside_with_its_traceback() -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        store = engine_backend(harness).store
        read = store.read

        async def broken(*args: Any, **kwargs: Any) -> Any:
            raise ZeroDivisionError("a bug of the engine")

        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        store.read = broken  # type: ignore[method-assign]
        await harness.advance(5)
        letters = await harness.dead_letters()
        assert {letter.reason for letter in letters} == {"engine error"}
        assert "ZeroDivisionError" in letters[0].detail
        # Nothing is lost: redriven, it goes on.
        store.read = read  # type: ignore[method-assign]
        broker = harness.client.backend.broker
        await broker.redrive([letter.message.id for letter in letters])
        assert await handle.result() == "a1 b1 c1"


@pytest.mark.virtual_time
async def test_an_error_of_the_engines_own_concerns_one_instance_and_not_its_round() -> None:
    world = World()
    it, app = three_steps(world)
    async with Harness(app, settings=CACHED) as harness:
        store = engine_backend(harness).store
        read_backwards = store.read_backwards
        handles = [await harness.client.submit(it, Order(n=n), id=str(n)) for n in range(2)]
        await harness.settle()

        async def broken(stream: StreamName, **kwargs: Any) -> Any:
            if stream == handles[0].instance.stream:
                raise ZeroDivisionError("a bug of the engine")
            return await read_backwards(stream, **kwargs)

        store.read_backwards = broken  # type: ignore[method-assign]
        for handle in handles:  # copies, which are checked against the journal
            await harness.client.send(m.StartSaga(saga="it", id=handle.id, input={"n": 0}))
        assert await handles[1].result() == "a1 b1 c1"
        letters = await harness.dead_letters()
        assert [(letter.message.key, letter.reason) for letter in letters] == [
            ("it/0", "engine error")
        ]


@pytest.mark.virtual_time
async def test_a_message_that_cannot_be_put_aside_keeps_no_others_waiting() -> None:
    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> int:
        return await ctx.receive(ping)

    async with Harness(app_of(it)) as harness:
        handle = await harness.start(it, Order(n=1))
        backend = engine_backend(harness)
        read = Failing(backend.store, "read")
        read.before = [ZeroDivisionError("a bug of the engine")]

        async def fail(*args: Any, **kwargs: Any) -> None:
            raise UsageError("this cannot be stored")

        backend.broker.dead_letter = fail  # type: ignore[method-assign]
        await handle.signal("pong", 1)
        await harness.settle()
        await handle.signal(ping, 2)
        assert await handle.result(60) == 2


@pytest.mark.virtual_time
async def test_a_log_line_that_cannot_be_written_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> int:
        if order.n == 0:
            raise Broken
        return order.n

    class Terminal:
        def __getattr__(self, level: str) -> Any:
            raise UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")

    monkeypatch.setattr("structlog.get_logger", lambda name: Terminal())
    async with Harness(app_of(it)) as harness:
        handles = [await harness.client.submit(it, Order(n=n), id=str(n)) for n in range(3)]
        assert [await handle.result(60) for handle in handles[1:]] == [1, 2]
        assert await handles[0].status() is Status.STALLED
        await handles[0].terminate(who="a test", why="enough")
        await harness.settle()
        assert await handles[0].status() is Status.TERMINATED


# --- duplicates


@pytest.mark.virtual_time
async def test_a_look_at_an_instance_publishes_again_what_is_outstanding() -> None:
    """The command was lost with the broker's disks."""
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        broker = engine_backend(harness).broker
        publish = broker.publish

        async def loses(messages: Sequence[Message]) -> None:
            if not lost:
                lost.extend(messages)
            else:
                await publish(messages)

        lost: list[Message] = []
        broker.publish = loses  # type: ignore[method-assign]
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        assert [message.type for message in lost] == ["RunStep"]
        assert world.did == []
        await harness.client.send(m.WakeSaga(saga="it", id=handle.id))
        assert await handle.result() == "a1 b1 c1"


@pytest.mark.virtual_time
async def test_a_turn_whose_messages_could_not_be_published_goes_on_when_it_is_redriven() -> None:
    """Its queue was deleted; then somebody makes it, and brings the letter back."""
    world = World()
    it, app = three_steps(world)
    async with Harness(app) as harness:
        broker = engine_backend(harness).broker
        publish = Failing(broker, "publish")
        publish.before = [UsageError("queue 'commands.main' was never declared")]
        handle = await harness.client.submit(it, Order(n=1), id="1")
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert (letter.message.type, letter.reason) == ("StartSaga", "engine error")
        assert await names(harness, handle) == ["SagaStarted", "StepScheduled"]
        await harness.client.backend.broker.redrive([letter.message.id])
        assert await handle.result(60) == "a1 b1 c1"


@pytest.mark.parametrize("seed", range(10))
def test_copies_of_any_message_at_any_time_change_nothing(seed: int) -> None:
    world = World()
    world.plan["b"] = [Broken("cable")]
    it, app = three_steps(world)

    async def scenario(harness: Harness) -> None:
        handle = await harness.start(it, Order(n=1))
        assert await handle.result() == "a1 b1 c1"
        await harness.advance(100)
        journal = await names(harness, handle)
        assert [name for name in journal if name != "StepReportedLate"] == [
            *("SagaStarted", "StepScheduled", "StepCompleted", "TimerStarted", "TimerFired"),
            *("StepScheduled", "StepAttemptFailed", "StepRetried", "StepCompleted"),
            *("TimerStarted", "TimerFired", "StepScheduled", "StepCompleted"),
            *("TimerStarted", "TimerFired", "SagaCompleted"),
        ]

    rates = FaultRates(duplicate=0.5, redeliver=0.3, reorder=0.5)
    run_app(app, scenario, rates=rates, seed=seed)


# --- the cache


@pytest.mark.virtual_time
@pytest.mark.parametrize("cache_max", [0, 1, 2, 100])
async def test_however_small_the_cache_is_every_instance_goes_on(cache_max: int) -> None:
    world = World()
    it, app = three_steps(world)
    settings = Settings(store="memory://", cache_max=cache_max)
    async with Harness(app, settings=settings) as harness:
        handles = [await harness.start(it, Order(n=n)) for n in range(10)]
        for n, handle in enumerate(handles):
            assert await handle.result() == f"a{n} b{n} c{n}"


@pytest.mark.virtual_time
async def test_the_one_that_was_used_longest_ago_leaves_the_cache_first() -> None:
    reads: list[str] = []
    ran: list[str] = []

    @saga(name="it")
    async def it(ctx: SagaContext) -> None:
        ran.append(ctx.id)
        await ctx.receive(ping)
        await ctx.receive(ping)
        await ctx.receive(ping)

    async with Harness(app_of(it), settings=CACHED) as harness:
        store = engine_backend(harness).store
        read = store.read

        async def spy(stream: Any, **options: Any) -> Any:
            reads.append(stream.partition("-")[2])
            return await read(stream, **options)

        store.read = spy  # type: ignore[method-assign]
        handles = {id: await harness.start(it, id=id) for id in "xyz"}
        assert ran == ["x", "y", "z"]
        # x is out. y is used, so z goes when x comes back.
        for id, expected in (("y", []), ("x", ["x"]), ("y", ["x"]), ("z", ["x", "z"])):
            await handles[id].signal(ping, 1)
            await harness.settle()
            assert reads == expected


@pytest.mark.virtual_time
async def test_an_instance_that_has_ended_leaves_the_cache() -> None:
    world = World()
    it, app = three_steps(world)
    settings = Settings(store="memory://", cache_max=100)
    async with Harness(app, settings=settings) as harness:
        await harness.run(it, Order(n=1))
        orchestrator = harness.processes[0].engine._orchestrator
        assert orchestrator is not None
        assert len(orchestrator._cache) == 0


# --- crashes


def everything(world: World) -> tuple[Saga[Order, Receipt], App]:
    """A retry, a timer, steps side by side, a timeout, a probe, and a compensation."""
    world.plan["a"] = [Broken("cable")]
    world.plan["slow"] = [Late(100)] * 10
    world.plan["c"] = [Late(3, Refused("no"))] * 10
    a, b, c = (world.activity(name, retry=TWICE) for name in "abc")
    slow = world.activity("slow", timeout=None)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        await asyncio.sleep(5)
        try:
            async with asyncio.timeout(10):
                await ctx.do(slow, order)
        except TimeoutError:
            pass
        receipt, _ = await asyncio.gather(ctx.do(b, order), ctx.do(c, order))
        return receipt

    return it, app_of(it, activities=[a, b, c, slow])


def test_a_crash_at_any_point_of_a_long_story_leaves_its_end_as_it_is() -> None:
    def scenario(points: CrashPoints) -> None:
        world = World()
        it, app = everything(world)

        async def main(harness: Harness) -> None:
            handle = await harness.start(it, Order(n=1))
            assert await ended(handle) == Status.COMPENSATED
            steps = await every(harness, handle, e.StepScheduled)
            # "c" was refused; all others were done, if only after the saga had given them up.
            wanted = [step.seq for step in steps if step.undo and step.activity != "c"]
            assert [step.of for step in steps if step.kind == "undo"] == wanted[::-1]
            assert await harness.dead_letters() == []
            assert (await handle.state()).open_steps() == []

        run_app(app, main, points=points)

    assert crash_at_every_point(scenario) > 50

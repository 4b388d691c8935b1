"""The activity consumer: bounded, graceful, and once for what it has in hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from amends import Activity, App, SagaContext, Settings, activity, activity_context, saga
from amends.activities.consumer import ActivityConsumer
from amends.broker.memory import MemoryBroker
from amends.broker.port import Delivery, Message
from amends.broker.topology import command_queue, inbox_queue
from amends.domain import messages as m
from amends.domain.clock import SystemClock
from amends.domain.events import AttemptOutcome
from amends.errors import BrokerUnavailable, UsageError
from amends.testing.clock import VirtualClock, virtual_clock
from amends.testing.harness import Harness
from tests.integration.sagas.support import Late, Order, World, app_of

QUEUE = command_queue("default")


class Bench:
    """A consumer of the queue "default" over a broker in memory, and no orchestrator."""

    def __init__(self, activities: Sequence[Activity[Any, Any]], **options: Any) -> None:
        self.clock = virtual_clock()
        self.broker = MemoryBroker(self.clock)
        self.consumer = ActivityConsumer(
            queue="default",
            activities={each.name: each for each in activities},
            broker=self.broker,
            clock=self.clock,
            **options,
        )
        self.running: asyncio.Task[None]

    async def command(
        self, name: str, n: int = 1, *, attempt: int = 1, within_s: float | None = None
    ) -> Message:
        deadline = None if within_s is None else self.clock.now() + timedelta(seconds=within_s)
        command = m.RunStep(
            saga="s", id="1", seq=n, attempt=attempt, activity=name, input={"n": n},
            deadline=deadline,
        )  # fmt: skip
        message = Message(
            uuid4(), QUEUE, "RunStep", f"s/1/{n}", m.encode_message(command), "corr", "cause"
        )
        await self.broker.publish([message])
        return message

    async def reports(self) -> list[m.EngineMessage]:
        """What it has reported since it was last asked."""
        found: list[m.EngineMessage] = []
        consumer = self.broker.consume(inbox_queue(0), limit=100)
        while True:
            receiving = asyncio.create_task(consumer.receive())
            await self.clock.settle()
            if not receiving.done():
                receiving.cancel()
                break
            for delivery in receiving.result():
                found.append(m.decode_message(delivery.message.type, delivery.message.body))
                await self.broker.ack([delivery])
        await consumer.close()
        return found

    async def ready(self) -> int:
        """Commands in the queue or in hand."""
        return next(d.ready for d in await self.broker.depths() if d.queue == QUEUE)


@asynccontextmanager
async def bench(*activities: Activity[Any, Any], **options: Any) -> AsyncIterator[Bench]:
    it = Bench(activities, **options)
    await it.broker.declare([QUEUE, inbox_queue(0)])
    it.running = asyncio.create_task(it.consumer.run())
    await it.clock.settle()
    try:
        yield it
    finally:
        it.running.cancel()
        await asyncio.gather(it.running, return_exceptions=True)


@pytest.fixture
def slow() -> Activity[Order, int]:
    @activity(name="slow", timeout=None)
    async def slow(order: Order) -> int:
        await asyncio.sleep(10)
        return order.n

    return slow


@pytest.mark.virtual_time
async def test_a_first_delivery_after_all_time_is_over_leaves_doubt_all_the_same() -> None:
    """The broker was lost with the first report, and the command was published again."""
    world = World()
    world.plan["a"] = [Late(10)]
    a = world.activity("a")
    async with bench(a) as before:
        message = await before.command("a", within_s=5)
        await before.clock.advance(6)
    assert world.did == ["a 1"]
    async with bench(a) as after:
        await after.broker.publish([message])
        [report] = await after.reports()
    assert isinstance(report, m.ReportFailed)
    assert report.outcome is AttemptOutcome.TIMED_OUT
    assert "was over before this one began" in report.error.message
    assert world.did == ["a 1"]


# --- how many at once


@pytest.mark.virtual_time
async def test_no_more_attempts_run_at_once_than_allowed() -> None:
    world = World()
    world.plan["a"] = [Late(10)] * 20
    a = world.activity("a")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(*(ctx.do(a, Order(n=n)) for n in range(10)))

    async with Harness(app_of(it, activities=[a], concurrency={"default": 3})) as harness:
        handle = await harness.start(it, Order())
        for began in (3, 6, 9, 10):
            await harness.settle()
            assert len(world.did) == began
            await harness.advance(10)
        await handle.result()


@pytest.mark.virtual_time
async def test_each_queue_has_a_bound_of_its_own() -> None:
    world = World()
    world.plan["a"], world.plan["b"] = [Late(10)] * 9, [Late(10)] * 9
    a, b = world.activity("a", queue="one"), world.activity("b", queue="two")

    @saga
    async def it(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(*(ctx.do(each, Order(n=n)) for n in range(4) for each in (a, b)))

    app = app_of(it, activities=[a, b], concurrency={"one": 1, "two": 4})
    async with Harness(app) as harness:
        await harness.start(it, Order())
        await harness.settle()
        assert sorted(world.did) == ["a 0", "b 0", "b 1", "b 2", "b 3"]


# --- stopping


@pytest.mark.virtual_time
async def test_a_graceful_stop_finishes_what_began_and_hands_back_the_rest(
    slow: Activity[Order, int],
) -> None:
    async with bench(slow, concurrency=2) as it:
        for n in (1, 2, 3):
            await it.command("slow", n)
        await it.clock.advance(5)
        await it.consumer.stop()
        await it.running
        assert it.clock.elapsed_s == 10
        assert sorted(report.seq for report in await it.reports()) == [1, 2]  # type: ignore[attr-defined]
        assert await it.ready() == 1


@pytest.mark.virtual_time
async def test_a_consumer_that_is_cancelled_hands_everything_back(
    slow: Activity[Order, int],
) -> None:
    async with bench(slow) as it:
        await it.command("slow", 1)
        await it.clock.advance(5)
        it.running.cancel()
        await asyncio.gather(it.running, return_exceptions=True)
        assert await it.reports() == []
        assert await it.ready() == 1


@pytest.mark.virtual_time
async def test_what_outlasts_the_grace_time_is_run_again_by_the_next_engine() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    a = world.activity("a", timeout=None)

    @saga
    async def it(ctx: SagaContext, order: Order) -> str:
        return (await ctx.do(a, order)).text

    settings = Settings(store="memory://", cache_max=0, shutdown_grace_s=20)
    async with Harness(app_of(it, activities=[a]), settings=settings) as harness:
        handle = await harness.start(it, Order(n=1))
        await harness.settle()
        await harness.stop_engines()
        assert harness.clock.elapsed_s == 20
        await harness.start_engine()
        assert await handle.result() == "a1"
        assert world.did == ["a 1", "a 1"]


# --- copies


@pytest.mark.virtual_time
async def test_a_copy_of_what_is_in_hand_is_not_run_and_both_are_let_go(
    slow: Activity[Order, int],
) -> None:
    async with bench(slow) as it:
        message = await it.command("slow", 1)
        await it.clock.advance(5)
        await it.broker.publish([message])
        await it.clock.settle()
        assert await it.ready() == 2
        await it.clock.advance(6)
        assert len(await it.reports()) == 1
        assert await it.ready() == 0


@pytest.mark.virtual_time
async def test_a_copy_that_came_after_a_lost_connection_is_held_until_the_report_is_out(
    slow: Activity[Order, int],
) -> None:
    """The broker knows of the copy only: had it been let go, a crash now would lose the step."""
    async with bench(slow) as it:
        await it.command("slow", 1)
        await it.clock.advance(2)
        it.broker.crash_consumers()
        await it.clock.advance(3)
        assert await it.ready() == 1
        await it.clock.advance(6)
        assert len(await it.reports()) == 1
        assert await it.ready() == 0


@pytest.mark.virtual_time
async def test_a_copy_is_let_go_whenever_it_comes(slow: Activity[Order, int]) -> None:
    """Also in the very moment in which what is in hand is done with."""
    for moment in range(15):
        async with bench(slow) as it:
            message = await it.command("slow", 1)
            await it.clock.advance(10)
            for _ in range(moment):
                await asyncio.sleep(0)
            await it.broker.publish([message])
            await it.clock.advance(30)
            assert await it.ready() == 0, moment


@pytest.mark.virtual_time
async def test_another_attempt_of_the_same_step_is_no_copy() -> None:
    began: list[int] = []

    @activity(name="slow", timeout=None)
    async def slow(order: Order) -> None:
        began.append(activity_context().attempt)
        await asyncio.sleep(10)

    async with bench(slow) as it:
        await it.command("slow", 1, attempt=1)
        await it.command("slow", 1, attempt=2)
        await it.clock.settle()
        assert began == [1, 2]


@pytest.mark.virtual_time
async def test_a_report_that_cannot_be_sent_is_sent_later_and_the_activity_not_run_again() -> None:
    ran: list[int] = []

    @activity(name="quick")
    async def quick(order: Order) -> int:
        ran.append(order.n)
        return order.n

    async with bench(quick) as it:
        reply = it.broker.reply
        failures = [BrokerUnavailable("gone")] * 3

        async def fails(delivery: Delivery, message: Message) -> None:
            if failures:
                raise failures.pop()
            await reply(delivery, message)

        it.broker.reply = fails  # type: ignore[method-assign]
        await it.command("quick", 7)
        await it.clock.advance(10)
        [report] = await it.reports()
        assert report == m.ReportCompleted(saga="s", id="1", seq=7, attempt=1, result=7)
        assert ran == [7]
        assert await it.ready() == 0


# --- what an activity is told


@pytest.mark.virtual_time
async def test_the_context_of_an_attempt() -> None:
    seen: list[Any] = []

    @activity(name="looks", timeout=30)
    async def looks(order: Order) -> None:
        seen.append(activity_context())

    async with bench(looks) as it:
        message = await it.command("looks", 5, attempt=3)
        await it.clock.settle()
        [context] = seen
        assert (str(context.instance), context.activity) == ("s/1", "looks")
        assert (context.seq, context.attempt) == (5, 3)
        assert context.idempotency_key == "s/1/5"
        assert context.correlation_id == "corr"
        assert context.command_id == str(message.id)
        assert (context.deadline - it.clock.now()).total_seconds() == 30


def test_outside_an_activity_there_is_no_context() -> None:
    with pytest.raises(UsageError, match="inside an activity"):
        activity_context()


# --- threads, on a real loop


async def test_plain_functions_run_in_threads_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=20)
    threads: set[str] = set()

    @activity
    def meets(order: Order) -> int:
        threads.add(threading.current_thread().name)
        meeting.wait()
        return activity_context().seq

    @saga
    async def it(ctx: SagaContext) -> list[int]:
        return list(await asyncio.gather(*(ctx.do(meets, Order(n=n)) for n in range(3))))

    async with App(sagas=[it], activities=[meets]).run("memory://") as client:
        assert await (await client.start(it)).result(20) == [1, 2, 3]
    assert len(threads) == 3
    assert all(name.startswith("amends-default") for name in threads)


class Threads:
    """A consumer with one thread, which `hangs` keeps for as long as it is not released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.ran: list[int] = []

        @activity(timeout=0.05)
        def hangs(order: Order) -> int:
            self.ran.append(order.n)
            self.release.wait(20)
            return order.n

        self.broker = MemoryBroker(SystemClock())
        self.consumer = ActivityConsumer(
            queue="default",
            activities={"hangs": hangs},
            broker=self.broker,
            clock=SystemClock(),
            concurrency=1,
        )

    async def begin(self) -> asyncio.Task[None]:
        await self.broker.declare([QUEUE, inbox_queue(0)])
        running = asyncio.create_task(self.consumer.run())
        await asyncio.sleep(0)
        return running

    async def command(self, n: int) -> None:
        command = m.RunStep(saga="s", id="1", seq=n, attempt=1, activity="hangs", input={"n": n})
        body = m.encode_message(command)
        await self.broker.publish([Message(uuid4(), QUEUE, "RunStep", "k", body, "c", "c")])

    async def report(self) -> m.EngineMessage:
        inbox = self.broker.consume(inbox_queue(0), limit=1)
        [delivery] = await inbox.receive()
        await self.broker.ack([delivery])
        await inbox.close()
        return m.decode_message(delivery.message.type, delivery.message.body)

    async def failure(self) -> tuple[int, str]:
        report = await self.report()
        assert isinstance(report, m.ReportFailed)
        return report.seq, report.outcome


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    it = Threads()
    yield it
    it.release.set()
    await it.broker.close()


async def test_a_thread_that_takes_too_long_is_given_up(threads: Threads) -> None:
    running = await threads.begin()
    await threads.command(1)
    assert await threads.failure() == (1, "timed_out")
    threads.release.set()
    await threads.consumer.stop()
    await running


async def test_a_graceful_stop_waits_for_what_will_be_reported_late(threads: Threads) -> None:
    running = await threads.begin()
    await threads.command(1)
    assert await threads.failure() == (1, "timed_out")
    await threads.consumer.stop()
    for _ in range(100):  # passes of the event loop: it needs a few to end
        await asyncio.sleep(0)
    assert not running.done()
    threads.release.set()
    await running
    late = await threads.report()
    assert late == m.ReportCompleted(saga="s", id="1", seq=1, attempt=1, result=1)


async def test_a_function_that_found_no_free_thread_is_not_known_to_have_failed(
    threads: Threads,
) -> None:
    """Not even at the first delivery: an earlier one may have begun, and the broker lost count."""
    running = await threads.begin()
    await threads.command(1)
    assert await threads.failure() == (1, "timed_out")
    await threads.command(2)
    report = await threads.report()
    assert isinstance(report, m.ReportFailed)
    assert (report.seq, report.outcome) == (2, "timed_out")
    assert "found no free thread" in report.error.message
    threads.release.set()
    await threads.consumer.stop()
    await running
    assert threads.ran == [1]


@pytest.mark.virtual_time
async def test_time_does_not_pass_for_a_plain_function(clock: VirtualClock) -> None:
    """In the test kit, a function in a thread takes no virtual time, so none times out."""

    @activity(timeout=5)
    def adds(order: Order) -> int:
        return order.n + 1

    @saga
    async def it(ctx: SagaContext) -> int:
        return await ctx.do(adds, Order(n=1))

    async with Harness(app_of(it, activities=[adds])) as harness:
        assert await harness.run(it) == 2
        assert clock.elapsed_s == 0

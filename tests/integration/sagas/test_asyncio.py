"""Plain asyncio inside a saga: whatever order the outside answers in, each turn replays it.

Every construct runs with the steps answering in every order, on a harness whose every turn is a
replay: a construct that is not deterministic stalls its saga, and `result()` never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from itertools import permutations
from typing import Any

import pytest

from amends import Activity, SagaContext, Status, saga
from amends.domain import events as e
from amends.errors import Failure
from amends.sagas.context import StepCall
from amends.testing.harness import Harness, run_app
from tests.integration.sagas.support import (
    ONCE,
    Late,
    Order,
    Receipt,
    Refused,
    World,
    app_of,
    every,
    names,
    only,
)

Do = Callable[[str], StepCall[Receipt]]
Body = Callable[[SagaContext, Do], Awaitable[Any]]

#: How long "a", "b" and "c" take: in every order, and all at once.
IN_EVERY_ORDER = list(permutations((1.0, 2.0, 3.0)))
SPEEDS = [*IN_EVERY_ORDER, (1.0, 1.0, 1.0)]


def run_body(body: Body, speeds: tuple[float, ...] = (1, 1, 1), **plan: list[object]) -> Any:
    """Run a body as a saga over steps "a", "b", "c" that take so long; return its result."""
    world = World()
    for name, speed in zip("abc", speeds, strict=True):
        world.plan[name] = plan.get(name, [Late(speed)] * 20)
    activities = {name: world.activity(name, retry=ONCE, undo=False) for name in "abc"}

    @saga(name="it")
    async def it(ctx: SagaContext) -> Any:
        return await body(ctx, lambda name: ctx.do(activities[name], Order(n=1)))

    async def scenario(harness: Harness) -> Any:
        handle = await harness.start(it)
        await harness.advance(1000)
        assert await handle.status() == Status.COMPLETED, await harness.journal(handle)
        return await handle.result()

    return run_app(app_of(it, activities=activities.values()), scenario)


def order(speeds: tuple[float, ...]) -> list[str]:
    """In which order the steps answer, if they begin together."""
    return sorted("abc", key=lambda name: (speeds["abc".index(name)], name))


# --- running steps side by side


@pytest.mark.parametrize("speeds", SPEEDS)
def test_gather_keeps_the_order_of_its_arguments(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        return [receipt.text for receipt in await asyncio.gather(*map(do, "abc"))]

    assert run_body(body, speeds) == ["a1", "b1", "c1"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_gather_with_exceptions_as_results(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        found = await asyncio.gather(*map(do, "abc"), return_exceptions=True)
        return [type(each).__name__ for each in found]

    refused: list[object] = [Late(speeds[1], Refused("no"))]
    assert run_body(body, speeds, b=refused) == ["Receipt", "StepFailed", "Receipt"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_gather_of_gathers(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> int:
        inner = [asyncio.gather(do(name), asyncio.sleep(n)) for n, name in enumerate("abc")]
        done, _ = await asyncio.wait(inner)
        return len(done)

    assert run_body(body, speeds) == 3


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_task_group_takes_steps_as_tasks(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(do(name)) for name in "abc"]
        return [task.result().text for task in tasks]

    assert run_body(body, speeds) == ["a1", "b1", "c1"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_task_group_whose_member_fails(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        async def careful(name: str) -> str:
            try:
                return (await do(name)).text
            except asyncio.CancelledError:
                await asyncio.sleep(1)
                log.append(f"{name} cancelled")
                raise

        log: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(careful(name))
        except* Failure as failures:
            log.append(f"{len(failures.exceptions)} failed")
        return log

    refused: list[object] = [Late(speeds[1], Refused("no"))]
    later = [name for name in "ac" if speeds["abc".index(name)] > speeds[1]]
    if speeds == (1.0, 1.0, 1.0):
        later = ["c"]
    assert run_body(body, speeds, b=refused) == [*(f"{n} cancelled" for n in later), "1 failed"]


@pytest.mark.parametrize("speeds", SPEEDS)
@pytest.mark.parametrize("when", [asyncio.FIRST_COMPLETED, asyncio.ALL_COMPLETED])
def test_wait_gives_sets_that_iterate_alike(when: str, speeds: tuple[float, ...]) -> None:
    """Each name that comes out of a set starts a step: another order would be another journal."""

    async def body(ctx: SagaContext, do: Do) -> list[str]:
        pending = {asyncio.create_task(do(name), name=name) for name in "abcabc"}
        log: list[str] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=when)
            for task in done:  # amends: deterministic
                log.append(task.get_name())
                await do(task.get_name())
        return log

    assert sorted(run_body(body, speeds)) == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_wait_for_the_first_exception(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        tasks = [asyncio.create_task(do(name)) for name in "abc"]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = isinstance(tasks[1].exception(), Failure)
        await asyncio.wait(tasks)
        return f"failed={failed}"

    refused: list[object] = [Late(speeds[1], Refused("no"))]
    assert run_body(body, speeds, b=refused) == "failed=True"


@pytest.mark.parametrize("speeds", SPEEDS)
def test_as_completed_gives_the_order_of_the_answers(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        return [(await each).text for each in asyncio.as_completed(map(do, "abc"))]

    assert run_body(body, speeds) == [f"{name}1" for name in order(speeds)]


@pytest.mark.parametrize("speeds", IN_EVERY_ORDER)
def test_the_first_wins_and_the_others_are_cancelled(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        tasks = [asyncio.create_task(do(name)) for name in "abc"]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        [winner] = [task for task in tasks if task in done]
        return winner.result().text

    assert run_body(body, speeds) == f"{order(speeds)[0]}1"


def test_a_timeout_after_a_group_that_failed_is_a_timeout() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        try:
            async with asyncio.timeout(5):
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(do("b"))
                except* Failure:
                    await asyncio.sleep(100)
        except TimeoutError:
            return "in time"
        return "too late"

    assert run_body(body, b=[Refused("no")]) == "in time"


# --- queues, locks and their kin


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_queue_between_a_producer_and_consumers(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
        log: list[str] = []

        async def consume(name: str) -> None:
            while True:
                item = await queue.get()
                await do(name)
                log.append(f"{name}{item}")
                queue.task_done()

        consumers = [asyncio.create_task(consume(name)) for name in "abc"]
        for item in "123456":
            await queue.put(item)
        await queue.join()
        for consumer in consumers:
            consumer.cancel()
        return sorted(each[1] for each in log)

    assert run_body(body, speeds) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_semaphore_bounds_the_steps_that_run_at_once(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> int:
        semaphore = asyncio.Semaphore(2)
        running: list[str] = []
        most = 0

        async def bounded(name: str) -> None:
            nonlocal most
            async with semaphore:
                running.append(name)
                most = max(most, len(running))
                await do(name)
                running.remove(name)

        await asyncio.gather(*map(bounded, "abcabc"))
        return most

    assert run_body(body, speeds) == 2


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_lock_lets_one_in_at_a_time(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        lock = asyncio.Lock()
        log: list[str] = []

        async def locked(name: str) -> None:
            async with lock:
                log.append(f"{name} in")
                await do(name)
                log.append(f"{name} out")

        await asyncio.gather(*map(locked, "abc"))
        return log

    assert run_body(body, speeds) == ["a in", "a out", "b in", "b out", "c in", "c out"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_an_event_wakes_all_who_wait(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        event = asyncio.Event()
        log: list[str] = []

        async def waiter(name: str) -> None:
            await event.wait()
            log.append(name)
            await do(name)

        tasks = [asyncio.create_task(waiter(name)) for name in "bc"]
        await do("a")
        event.set()
        await asyncio.gather(*tasks)
        return log

    assert run_body(body, speeds) == ["b", "c"]


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_condition_and_who_waits_for_it(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> int:
        condition = asyncio.Condition()
        done: list[str] = []

        async def work(name: str) -> None:
            await do(name)
            async with condition:
                done.append(name)
                condition.notify_all()

        tasks = [asyncio.create_task(work(name)) for name in "abc"]
        async with condition:
            await condition.wait_for(lambda: len(done) >= 2)
            count = len(done)
        await asyncio.gather(*tasks)
        return count

    assert run_body(body, speeds) == 2


@pytest.mark.parametrize("speeds", SPEEDS)
def test_a_barrier_holds_all_until_the_last(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        barrier = asyncio.Barrier(3)
        log: list[str] = []

        async def runner(name: str) -> None:
            await do(name)
            log.append("at")
            async with barrier:
                log.append("past")
                await do(name)

        await asyncio.gather(*map(runner, "abc"))
        return log

    assert run_body(body, speeds) == ["at"] * 3 + ["past"] * 3


# --- what surrounds a step


@pytest.mark.parametrize("speeds", SPEEDS)
def test_shield_keeps_a_step_through_a_timeout(speeds: tuple[float, ...]) -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        task = asyncio.ensure_future(do("a"))
        log: list[str] = []
        try:
            async with asyncio.timeout(0.5):
                await asyncio.shield(task)
        except TimeoutError:
            log.append("timeout")
        log.append((await task).text)
        return log

    assert run_body(body, speeds) == ["timeout", "a1"]


def test_sleeping_for_nothing_lets_others_run() -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        log: list[str] = []

        async def talk(name: str) -> None:
            for n in range(3):
                log.append(f"{name}{n}")
                await asyncio.sleep(0)

        await asyncio.gather(talk("x"), talk("y"))
        return log

    assert run_body(body) == ["x0", "y0", "x1", "y1", "x2", "y2"]


def test_an_async_exit_stack_closes_with_steps() -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        log: list[str] = []

        @asynccontextmanager
        async def held(name: str) -> AsyncIterator[None]:
            await do(name)
            try:
                yield
            finally:
                await do(name)
                log.append(f"{name} released")

        async with AsyncExitStack() as stack:
            for name in "abc":
                await stack.enter_async_context(held(name))
        return log

    assert run_body(body) == ["c released", "b released", "a released"]


def test_an_async_generator_with_steps() -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        async def pages() -> AsyncIterator[str]:
            for name in "abc":
                yield (await do(name)).text

        return [page async for page in pages()]

    assert run_body(body) == ["a1", "b1", "c1"]


def test_an_async_generator_that_is_left_early_is_closed_inside_the_saga() -> None:
    async def body(ctx: SagaContext, do: Do) -> list[str]:
        log: list[str] = []

        async def pages() -> AsyncIterator[str]:
            try:
                for name in "abc":
                    yield (await do(name)).text
            finally:
                await do("c")
                log.append("closed")

        async for page in pages():
            log.append(page)
            break
        await do("b")
        return log

    assert run_body(body) == ["a1", "closed"]


def test_an_async_generator_that_is_left_at_the_very_end_still_takes_its_last_steps() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        async def pages() -> AsyncIterator[str]:
            try:
                yield (await do("a")).text
            finally:
                await do("c")
                ctx.now()

        async for page in pages():
            return page
        return ""

    world = World()
    activities = {name: world.activity(name, undo=False) for name in "abc"}

    @saga(name="it")
    async def it(ctx: SagaContext) -> Any:
        return await body(ctx, lambda name: ctx.do(activities[name], Order(n=1)))

    async def scenario(harness: Harness) -> None:
        assert await harness.run(it) == "a1"
        assert world.did == ["a 1", "c 1"]

    run_app(app_of(it, activities=activities.values()), scenario)


def test_context_variables_belong_to_their_tasks() -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")

    async def body(ctx: SagaContext, do: Do) -> list[str]:
        log = [who.get()]

        async def named(name: str) -> None:
            log.append(who.get())
            who.set(name)
            await do(name)
            log.append(who.get())

        who.set("main")
        await asyncio.gather(named("a"), named("b"))
        log.append(who.get())
        return log

    who.set("the engine's")
    assert run_body(body) == ["nobody", "main", "main", "a", "b", "main"]


# --- what is left over at the end


def saga_with(body: Body) -> tuple[World, Any, Any]:
    world = World()
    activities: dict[str, Activity[Order, Receipt]] = {n: world.activity(n) for n in "abc"}

    @saga(name="it")
    async def it(ctx: SagaContext) -> Any:
        return await body(ctx, lambda name: ctx.do(activities[name], Order(n=1)))

    return world, it, app_of(it, activities=activities.values())


@pytest.mark.virtual_time
async def test_tasks_that_are_left_over_are_cancelled_before_the_saga_ends() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        async def forever() -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                await do("b")

        left = asyncio.create_task(forever())
        await do("a")
        return f"done={left.done()}"

    world, it, app = saga_with(body)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await handle.result() == "done=False"
        assert world.did == ["a 1", "b 1"]
        assert (await names(harness, handle))[-1] == "SagaCompleted"


@pytest.mark.virtual_time
async def test_a_step_that_nobody_waits_for_at_the_end_is_abandoned() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        left = asyncio.ensure_future(do("a"))
        await asyncio.sleep(1)
        return f"done={left.done()}"

    world, it, app = saga_with(body)
    world.plan["a"] = [Late(10)]
    async with Harness(app) as harness:
        handle = await harness.start(it)
        assert await handle.result() == "done=False"
        assert (await only(harness, handle, e.StepAbandoned)).seq == 2
        assert world.did == ["a 1", "undo_a 1 a1"]
        assert (await names(harness, handle))[-1] == "SagaCompleted"


@pytest.mark.virtual_time
async def test_a_bug_in_a_task_that_nobody_awaits_stalls_the_saga() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        async def buggy() -> None:
            raise TypeError("a bug")

        task = asyncio.create_task(buggy())
        await do("a")
        return f"done={task.done()}"

    _, it, app = saga_with(body)
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(10)
        assert await handle.status() == Status.STALLED
        assert (await every(harness, handle, e.SagaStalled))[0].error.message == "a bug"


@pytest.mark.virtual_time
async def test_a_failure_in_a_task_that_nobody_awaits_is_its_own() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        task = asyncio.ensure_future(do("b"))
        await do("a")
        return f"done={task.done()}"

    world, it, app = saga_with(body)
    world.plan["a"] = [Late(1)]
    world.plan["b"] = [Refused("no")]
    async with Harness(app) as harness:
        assert await harness.run(it) == "done=True"


@pytest.mark.virtual_time
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_a_saga_that_is_thrown_out_of_memory_does_nothing_in_its_finally_blocks() -> None:
    seen: list[str] = []

    async def body(ctx: SagaContext, do: Do) -> str:
        try:
            await do("a")
        finally:
            seen.append("finally")
            await asyncio.sleep(5)
            await do("b")
            ctx.emit(Receipt(text="x"))
        return "done"

    world, it, app = saga_with(body)
    world.plan["a"] = [Late(10)]
    async with Harness(app) as harness:
        handle = await harness.start(it)
        await harness.advance(3)
        # It was evicted after its first turn: nothing of the block has reached anybody.
        assert seen == ["finally"]
        assert world.did == ["a 1"]
        assert await names(harness, handle) == ["SagaStarted", "StepScheduled"]


@pytest.mark.virtual_time
async def test_a_step_that_is_never_awaited_warns() -> None:
    async def body(ctx: SagaContext, do: Do) -> str:
        _ = do("a")
        del _
        return "done"

    world, it, app = saga_with(body)
    async with Harness(app) as harness:
        with pytest.warns(RuntimeWarning, match=r"ctx\.do\(a, …\) was never awaited"):
            assert await harness.run(it) == "done"
        assert world.did == []

"""On a saga's loop as_completed keeps the given order; everywhere else nothing changed."""

from __future__ import annotations

import asyncio
import asyncio.tasks
import inspect
import sys
from collections.abc import AsyncIterable, Coroutine, Generator
from typing import Any, cast

import pytest

from amends.sagas import as_completed as repairs
from amends.sagas.loop import SagaLoop

ORIGINAL = inspect.unwrap(asyncio.as_completed)


class NumberedFuture(asyncio.Future[Any]):
    """A future that hashes by its number, as a saga's loop makes them."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class ReplayedLoop(asyncio.SelectorEventLoop):
    """A loop that says that it is replayed."""

    is_saga_loop = True
    made = 0

    def create_future(self) -> asyncio.Future[Any]:
        self.made += 1
        future = NumberedFuture(loop=self)
        future.number = self.made
        return future


@pytest.fixture(autouse=True)
def installed() -> None:
    repairs.install()


def run(coroutine: Coroutine[Any, Any, Any], *, replayed: bool = True) -> Any:
    factory = ReplayedLoop if replayed else asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


class Workers:
    """Coroutines that note when they start; `in_set_order` holds them as a set would give them."""

    def __init__(self, count: int) -> None:
        self.started: list[int] = []
        coroutines = [self._work(number) for number in range(count)]
        self.in_set_order = list(set(coroutines))
        self.numbers = [coroutines.index(each) for each in self.in_set_order]

    async def _work(self, number: int) -> int:
        self.started.append(number)
        await asyncio.sleep(0)
        return number


async def results(as_completed: Any, awaitables: Any, **options: Any) -> list[Any]:
    return [await each for each in as_completed(awaitables, **options)]


@pytest.mark.parametrize("count", [2, 3, 10, 60])
def test_tasks_start_in_the_given_order_on_a_sagas_loop(count: int) -> None:
    workers = Workers(count)
    given = workers.numbers[::-1]
    done = run(results(asyncio.as_completed, workers.in_set_order[::-1]))
    assert workers.started == given
    assert done == given


def test_and_so_they_do_on_the_engines_own_loop() -> None:
    class NoTimers:
        def timer_started(self, due_s: float) -> int:
            raise AssertionError

        def timer_cancelled(self, seq: int) -> None:
            raise AssertionError

    workers = Workers(60)
    loop = SagaLoop("saga/1", NoTimers())  # type: ignore[abstract] # the rest is set on the class
    task = loop.create_task(results(asyncio.as_completed, workers.in_set_order[::-1]))
    loop.run_ready()
    assert task.result() == workers.started == workers.numbers[::-1]


def test_the_original_would_start_them_in_the_order_of_a_set() -> None:
    workers = Workers(60)
    run(results(ORIGINAL, workers.in_set_order[::-1]))
    assert workers.started != workers.numbers[::-1]


def test_elsewhere_it_is_the_original() -> None:
    workers = Workers(60)
    run(results(asyncio.as_completed, workers.in_set_order[::-1]), replayed=False)
    assert workers.started != workers.numbers[::-1]


def test_a_generator_of_awaitables_will_do() -> None:
    async def main() -> list[int]:
        async def work(number: int) -> int:
            return number

        return await results(asyncio.as_completed, (work(number) for number in range(5)))

    assert run(main()) == [0, 1, 2, 3, 4]


class Step:
    """An awaitable of one's own, as `ctx.do` returns it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        return self.number


def test_awaitables_of_other_kinds_and_repetitions_are_taken_as_by_the_original() -> None:
    async def main() -> list[int]:
        step = Step(2)
        future = asyncio.get_running_loop().create_future()
        future.set_result(1)
        task = asyncio.ensure_future(Step(3))
        return await results(asyncio.as_completed, [future, step, task, step, future])

    assert sorted(run(main())) == sorted(run(main(), replayed=False)) == [1, 2, 3]


def test_completion_decides_the_order_of_the_results() -> None:
    async def main() -> list[int]:
        first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
        asyncio.get_running_loop().call_soon(second.set_result, 2)
        asyncio.get_running_loop().call_later(0.001, first.set_result, 1)
        return await results(asyncio.as_completed, [first, second])

    assert run(main()) == [2, 1]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="async iteration came with 3.13")
def test_async_iteration_yields_the_given_tasks() -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(Step(number)) for number in range(3)]
        done = cast(AsyncIterable[asyncio.Task[int]], asyncio.as_completed(tasks))
        assert [task async for task in done] == tasks

    run(main())


@pytest.mark.parametrize("replayed", [True, False])
def test_a_timeout_is_raised_as_by_the_original(replayed: bool) -> None:
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            await results(asyncio.as_completed, [never], timeout=0.001)

    run(main(), replayed=replayed)


@pytest.mark.parametrize("replayed", [True, False])
def test_one_awaitable_instead_of_many_is_a_type_error(replayed: bool) -> None:
    async def main() -> None:
        one = Step(1)
        coroutine = results(asyncio.as_completed, [one])
        with pytest.raises(TypeError, match="expect"):
            await results(asyncio.as_completed, coroutine)
        coroutine.close()

    run(main(), replayed=replayed)


def test_installing_again_changes_nothing() -> None:
    wrapper = asyncio.as_completed
    repairs.install()
    assert asyncio.as_completed is wrapper
    assert asyncio.tasks.as_completed is wrapper


def test_signature_and_documentation_are_the_originals() -> None:
    assert inspect.signature(asyncio.as_completed) == inspect.signature(ORIGINAL)
    assert asyncio.as_completed.__doc__ == ORIGINAL.__doc__
    assert asyncio.as_completed.__name__ == "as_completed"


def test_the_original_is_recognised() -> None:
    assert repairs.is_original(ORIGINAL)
    assert not repairs.is_original(asyncio.as_completed)
    assert not repairs.is_original(["unhashable"])


def test_gathered_futures_hash_alike_on_every_replay() -> None:
    async def main() -> list[int]:
        async def one() -> int:
            return 1

        gathered: list[Any] = [asyncio.gather(one()) for _ in range(20)]
        done, _ = await asyncio.wait(gathered)
        assert {hash(future) for future in gathered} == {hash(future) for future in done}
        return [gathered.index(future) for future in done]

    first = run(main())
    assert all(run(main()) == first for _ in range(5))


def test_gathered_futures_elsewhere_hash_as_ever() -> None:
    async def main() -> None:
        future = asyncio.gather(asyncio.sleep(0))
        assert hash(future) == object.__hash__(future)
        await future

    run(main(), replayed=False)


async def fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("no")


async def group_that_fails_at_its_end() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
    except* ValueError:
        pass


def test_a_group_that_failed_leaves_no_cancellation_behind_on_a_sagas_loop() -> None:
    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        await group_that_fails_at_its_end()
        return task.cancelling()

    assert run(main()) == 0


def test_a_timeout_around_a_group_that_failed_is_still_a_timeout_on_a_sagas_loop() -> None:
    async def main() -> None:
        async with asyncio.timeout(0.01):
            await group_that_fails_at_its_end()
            await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError):
        run(main())


def test_a_cancellation_from_outside_is_still_one_after_a_group_that_failed() -> None:
    async def main() -> None:
        await group_that_fails_at_its_end()
        await asyncio.get_running_loop().create_future()

    async def outer() -> bool:
        task = asyncio.ensure_future(main())
        for _ in range(100):  # passes of the event loop, until it waits for good
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(outer())

"""What an engine asks of Python's garbage collector, and what it leaves for it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amends import App, Failure, SagaContext, SagaNotCompleted, activity, saga
from amends.backend import open_backend
from amends.settings import Settings
from amends.worker import CalmGarbageCollector, Engine


class Refused(Failure):
    pass


@activity
async def withdraw(amount: int) -> int:
    return amount


@withdraw.undo
async def refund(amount: int, taken: int | None) -> None:
    return None


@activity
async def deposit(amount: int) -> int:
    if amount < 0:
        raise Refused("no")
    return amount


@saga
async def transfer(ctx: SagaContext, amount: int) -> int:
    await ctx.do(withdraw, amount)
    return await ctx.do(deposit, amount)


app = App(sagas=[transfer], activities=[withdraw, deposit])


@contextmanager
def garbage() -> Iterator[list[object]]:
    """What only the garbage collector could free, of what was made inside."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(("amount", "outcome"), [(5, "completed"), (-5, "compensated")])
async def test_a_saga_leaves_nothing_that_only_the_collector_could_free(
    tmp_path: Path, amount: int, outcome: str
) -> None:
    async def run() -> str:
        handle = await client.start(transfer, amount)
        try:
            await handle.result()
        except SagaNotCompleted as ended:
            return ended.state
        return "completed"

    async with app.run(tmp_path / "a.db") as client:
        await run()
        with garbage() as found:
            assert [await run() for _ in range(5)] == [outcome] * 5
    engine_made = [each for each in found if type(each).__module__.startswith("amends.")]
    assert engine_made == []


@pytest.fixture
def no_other_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests that end like a crash leave engines behind which nobody has left."""
    found = gc.get_threshold()
    monkeypatch.setattr(CalmGarbageCollector, "_entered", 0)
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*found)


@pytest.mark.usefixtures("no_other_engine")
async def test_an_engine_calms_the_collector_and_puts_it_back(tmp_path: Path) -> None:
    before = gc.get_threshold()
    async with app.run(tmp_path / "a.db"):
        calm = gc.get_threshold()
        assert calm[0] > before[0]
        async with app.run(tmp_path / "b.db"):
            assert gc.get_threshold() == calm
        assert gc.get_threshold() == calm
    assert gc.get_threshold() == before


@pytest.mark.usefixtures("no_other_engine")
def test_engines_that_begin_in_two_threads_at_once_count_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, get_threshold = gc.get_threshold(), gc.get_threshold
    collector = CalmGarbageCollector()
    other = threading.Thread(target=collector.__enter__)

    def get_threshold_while_the_other_begins() -> tuple[int, int, int]:
        if other.ident is None:
            other.start()
            other.join(0.1)  # it has to wait
        return get_threshold()

    monkeypatch.setattr(gc, "get_threshold", get_threshold_while_the_other_begins)
    with collector:
        other.join()
        collector.__exit__()
        assert get_threshold() != before
    assert get_threshold() == before


@pytest.mark.usefixtures("no_other_engine")
async def test_an_engine_leaves_frozen_what_the_application_has_frozen(tmp_path: Path) -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        async with app.run(tmp_path / "a.db"):
            assert 0 < gc.get_freeze_count() <= frozen
        assert 0 < gc.get_freeze_count() <= frozen
    finally:
        gc.unfreeze()


@pytest.mark.usefixtures("no_other_engine")
async def test_an_engine_that_is_cancelled_while_it_begins_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    before, tasks = gc.get_threshold(), asyncio.all_tasks()
    settings = Settings(store=f"sqlite:///{tmp_path}/a.db")
    async with open_backend(settings, engine=True) as backend:
        beginning = asyncio.ensure_future(Engine(app, backend, settings).__aenter__())
        while gc.get_threshold() == before:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert gc.get_threshold() == before
    assert asyncio.all_tasks() == tasks


@pytest.mark.usefixtures("no_other_engine")
async def test_an_engine_leaves_the_collector_alone_when_told_to(tmp_path: Path) -> None:
    before = gc.get_threshold()
    settings = Settings(store=f"sqlite:///{tmp_path}/a.db", calm_gc=False)
    async with app.run(settings):
        assert gc.get_threshold() == before

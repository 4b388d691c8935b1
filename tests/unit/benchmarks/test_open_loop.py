"""The open loop: who arrives when, and that no wait is missing from the latencies."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from benchmarks.latency import percentile_ms
from benchmarks.measure import drive
from benchmarks.open_loop import arrivals, offer


def test_arrivals_are_a_poisson_process_at_the_rate_that_is_wanted() -> None:
    due_s = arrivals(200, 60, seed=3)
    assert len(due_s) == pytest.approx(200 * 60, rel=0.03)
    assert due_s[0] > 0
    assert due_s[-1] < 60
    gaps_s = [after - before for before, after in pairwise(due_s)]
    assert min(gaps_s) > 0
    # What tells this process from others: gaps spread as widely as they are long.
    assert fmean(gaps_s) == pytest.approx(1 / 200, rel=0.03)
    assert pstdev(gaps_s) == pytest.approx(1 / 200, rel=0.05)


def test_a_seed_gives_the_same_arrivals_each_time() -> None:
    assert arrivals(50, 5, seed=4) == arrivals(50, 5, seed=4)
    assert arrivals(50, 5, seed=4) != arrivals(50, 5, seed=5)


class Stalling:
    """An engine that answers at once, but stops for a time when it is asked first."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._busy_until: float | None = None

    async def answer(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._busy_until is None:
            self._busy_until = now + self._for_s
        await asyncio.sleep(max(0.0, self._busy_until - now))


@pytest.mark.virtual_time
async def test_a_stall_is_in_the_latency_of_all_who_came_meanwhile() -> None:
    loop = asyncio.get_running_loop()
    engine = Stalling(for_s=5.0)
    latencies_s: list[float] = []

    async def call(number: int, due: float) -> None:
        await engine.answer()
        latencies_s.append(loop.time() - due)

    await offer([n / 10 for n in range(100)], call, began=loop.time())
    assert len(latencies_s) == 100
    assert percentile_ms(latencies_s, 99) == pytest.approx(4900, abs=50)
    assert percentile_ms(latencies_s, 25) == pytest.approx(0, abs=1)
    assert sum(latency_s > 1 for latency_s in latencies_s) == 40

    # A closed loop waits along with its engine: one latency is bad, whoever else would have come.
    engine = Stalling(for_s=5.0)
    driven = await drive(100, 1, lambda number: engine.answer())
    assert len(driven.latencies_s) == 100


@pytest.mark.virtual_time
async def test_calls_that_are_due_are_not_held_up_by_those_before_them() -> None:
    loop = asyncio.get_running_loop()
    begun: list[tuple[int, float]] = []
    began = loop.time()

    async def call(number: int, due: float) -> None:
        assert due == began + number
        begun.append((number, loop.time() - began))
        await asyncio.sleep(100)

    await offer([0, 1, 2], call, began=began)
    assert begun == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.virtual_time
async def test_a_call_that_fails_ends_the_load() -> None:
    async def call(number: int, due: float) -> None:
        await asyncio.sleep(1)
        raise ValueError(number)

    with pytest.raises(ExceptionGroup) as raised:
        await offer([0, 50], call, began=asyncio.get_running_loop().time())
    assert [str(error) for error in raised.value.exceptions] == ["0"]

"""The search for the highest rate, over an engine whose capacity is known."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.search import highest_rate


class Engine:
    """Keeps up with a rate or does not, and remembers what it was asked."""

    def __init__(self, capacity: float, *, long_capacity: float | None = None) -> None:
        self.quick_capacity = capacity
        self.long_capacity = capacity if long_capacity is None else long_capacity
        self.quick: list[float] = []
        self.sure: list[float] = []

    def keeps_up(self, rate: float) -> bool:
        self.quick.append(rate)
        return rate <= self.quick_capacity

    def keeps_up_for_long(self, rate: float) -> bool:
        self.sure.append(rate)
        return rate <= self.long_capacity

    def highest(self) -> float | None:
        return highest_rate(
            self.keeps_up, self.keeps_up_for_long, first=100, lowest=1, precision=0.05
        )


@pytest.mark.parametrize("capacity", [2.0, 3, 49.9, 99.9, 100, 101, 199.9, 200, 387, 5000])
def test_it_finds_the_capacity_within_its_precision(capacity: float) -> None:
    engine = Engine(capacity)
    found = engine.highest()
    assert found is not None
    assert capacity / 1.05 <= found <= capacity
    assert engine.sure == [found]
    assert len(engine.quick) < 30


def test_what_keeps_up_with_nothing_has_no_highest_rate() -> None:
    engine = Engine(0.5)
    assert engine.highest() is None
    assert engine.sure == []


def test_a_rate_that_only_a_long_hold_refutes_is_lowered() -> None:
    engine = Engine(400, long_capacity=350)
    found = engine.highest()
    assert found is not None
    assert 350 / 1.05 <= found <= 350
    assert engine.sure[-1] == found
    assert engine.sure == sorted(engine.sure, reverse=True)


def test_what_is_never_confirmed_is_not_said() -> None:
    engine = Engine(400, long_capacity=50)
    assert engine.highest() is None
    assert len(engine.sure) == 5


def test_one_failure_is_blamed_on_others() -> None:
    engine = Engine(400)
    asked: Counter[float] = Counter()

    def disturbed(rate: float) -> bool:
        asked[rate] += 1
        return asked[rate] > 1 and engine.keeps_up(rate)

    found = highest_rate(disturbed, engine.keeps_up_for_long, first=100, lowest=1, precision=0.05)
    assert found is not None
    assert 400 / 1.05 <= found <= 400
    assert max(asked.values()) == 2

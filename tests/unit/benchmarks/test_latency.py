"""Percentiles and histograms: what they say of latencies whose distribution is known."""

from __future__ import annotations

import random

import pytest

from benchmarks.latency import BUCKETS_PER_DECADE, added, histogram, percentile_ms


def test_percentiles_are_latencies_that_occurred() -> None:
    latencies_s = [n / 1000 for n in range(1, 102)]
    random.Random(1).shuffle(latencies_s)
    assert percentile_ms(latencies_s, 0) == 1
    assert percentile_ms(latencies_s, 50) == 51
    assert percentile_ms(latencies_s, 99) == 100
    assert percentile_ms(latencies_s, 100) == 101
    assert percentile_ms([0.2], 99) == 200


@pytest.mark.parametrize("latency_ms", [0.013, 0.5, 1, 3.7, 10, 99.9, 1000, 61_234])
def test_a_latency_is_counted_below_the_first_bound_that_it_does_not_exceed(
    latency_ms: float,
) -> None:
    ((bound_ms, count),) = histogram([latency_ms / 1000])
    assert count == 1
    # Bounds are given to three digits.
    assert latency_ms <= bound_ms * 1.005
    assert latency_ms > bound_ms / 10 ** (1 / BUCKETS_PER_DECADE) * 0.995


def test_nothing_is_too_quick_to_be_counted() -> None:
    assert histogram([0.0, -1e-9, 1e-6]) == [(0.01, 3)]


def test_a_histogram_has_every_latency_once_and_its_buckets_in_order() -> None:
    source = random.Random(2)
    latencies_s = [source.lognormvariate(-4, 1) for _ in range(5000)]
    buckets = histogram(latencies_s)
    bounds_ms = [bound_ms for bound_ms, _ in buckets]
    assert sum(count for _, count in buckets) == 5000
    assert bounds_ms == sorted(set(bounds_ms))
    below = sum(count for bound_ms, count in buckets if bound_ms <= percentile_ms(latencies_s, 99))
    assert 0.97 * 5000 < below <= 0.99 * 5000 + 1


def test_histograms_of_several_runs_are_one() -> None:
    first, second = [0.001, 0.02, 0.02], [0.02, 3.0]
    assert added([histogram(first), histogram(second)]) == histogram(first + second)
    assert added([]) == []

"""Latencies: percentiles, and histograms whose buckets grow by a constant factor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

#: How finely a histogram tells latencies apart: each bucket reaches 10^(1/20) = 1.12 times as far
#: as the one before it.
BUCKETS_PER_DECADE: Final = 20
#: What is quicker is counted with this.
FINEST_MS: Final = 0.01

Buckets = Sequence[tuple[float, int]]
"""Upper bounds in milliseconds, each with how many latencies came to that or less but to more
than the bound of the bucket below. Empty buckets are left out.
"""


def percentile_ms(latencies_s: Iterable[float], percent: float) -> float:
    """The latency, of those in seconds, that so many percent do not exceed; in milliseconds."""
    ordered = sorted(latencies_s)
    return ordered[round(percent / 100 * (len(ordered) - 1))] * 1000


def histogram(latencies_s: Iterable[float]) -> Buckets:
    """Latencies in seconds, counted."""
    counts = Counter(_bucket(latency_s * 1000) for latency_s in latencies_s)
    return [(_bound_ms(bucket), counts[bucket]) for bucket in sorted(counts)]


def added(histograms: Iterable[Buckets]) -> Buckets:
    """Several histograms as one."""
    counts: Counter[float] = Counter()
    for each in histograms:
        for bound_ms, count in each:
            counts[bound_ms] += count
    return sorted(counts.items())


def _bucket(latency_ms: float) -> int:
    return math.ceil(math.log10(max(latency_ms, FINEST_MS)) * BUCKETS_PER_DECADE)


def _bound_ms(bucket: int) -> float:
    return float(f"{10 ** (bucket / BUCKETS_PER_DECADE):.3g}")

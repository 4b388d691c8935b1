"""W7/search: the highest rate of the mixed load at which the engine still answers in time."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Final

from benchmarks.measure import Figures
from benchmarks.mixed import HOLD
from benchmarks.workloads import run_in_child

#: At a rate that holds, 99 of 100 latencies stay below this.
P99_MAX_MS: Final = 100.0
#: How long a rate is held while looking for it.
QUICK_HOLD_S: Final = 12.0
FIRST_RATE: Final = 100.0
LOWEST_RATE: Final = 1.0
#: The rate that is found is within 5 % of one that does not hold.
PRECISION: Final = 0.05
#: Short holds end before a backlog has grown that a long one shows.
CONFIRMATIONS_MAX: Final = 5

#: Whether the engine keeps up with so many sagas a second.
Probe = Callable[[float], bool]


def search(folder: Path, scale: float) -> list[Figures]:
    """The hold of 60 s that confirms the highest rate, and the rate. `scale` shortens all holds.

    If none was confirmed: the last hold that was tried, and no rate. Raises CheckFailed.
    """
    held: list[Figures] = []

    def holds(hold_s: float, rate_per_s: float) -> bool:
        workload = replace(HOLD, rate_per_s=rate_per_s, hold_s=hold_s).scaled(scale)
        with tempfile.TemporaryDirectory(dir=folder) as own:
            everything, *_ = run_in_child(workload, Path(own))
        held.append(everything)
        p99_ms = everything.p99_ms
        assert p99_ms is not None
        said = f"{rate_per_s:.0f}/s for {workload.hold_s:g} s: p99 {p99_ms:.1f} ms"
        print(f"W7/search: {said}", file=sys.stderr)
        return p99_ms < P99_MAX_MS

    highest = highest_rate(
        lambda rate: holds(QUICK_HOLD_S, rate),
        lambda rate: holds(HOLD.hold_s, rate),
        first=FIRST_RATE,
        lowest=LOWEST_RATE,
        precision=PRECISION,
    )
    what = f"mixed load: highest rate with p99 under {P99_MAX_MS:g} ms"
    return [replace(held[-1], what=what, highest_rate_per_s=highest)]


def highest_rate(
    quick: Probe, sure: Probe, *, first: float, lowest: float, precision: float
) -> float | None:
    """The highest rate that holds: doubled from `first` until one does not, then narrowed down
    until that is within `precision` of one that does, then confirmed by the longer probe `sure`,
    or else the next lower one. None if none was confirmed, or nothing held on the way
    down to `lowest`.

    A rate is too high when it failed twice: what others did meanwhile is no fault of the rate.
    """

    def holds(rate: float) -> bool:
        return quick(rate) or quick(rate)

    low = first
    if holds(low):
        while holds(2 * low):
            low *= 2
    else:
        low /= 2
        while low >= lowest and not holds(low):
            low /= 2
    high = 2 * low
    while low >= lowest and high > low * (1 + precision):
        middle = sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    lower = [low / (1 + precision) ** number for number in range(CONFIRMATIONS_MAX)]
    return next((rate for rate in lower if rate >= lowest and sure(rate)), None)

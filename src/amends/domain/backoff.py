"""Waiting before a store or a broker that could not be used is tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from amends.domain.clock import Clock

BACKOFF_INITIAL_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0


def backoff_s(failures: int) -> float:
    """How many seconds to wait after so many failures in a row, from 1."""
    return min(BACKOFF_MAX_S, BACKOFF_INITIAL_S * 2.0 ** min(failures - 1, 20))


async def back_off(clock: Clock, failures: int) -> None:
    """Wait so long."""
    await clock.sleep_until(clock.now() + timedelta(seconds=backoff_s(failures)))

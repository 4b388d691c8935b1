"""An open loop: calls that are made when they are due, whatever became of those before them.

A closed loop asks for more only when it has an answer. So whenever the engine hesitates the load
does too, and the wait of those who would have come meanwhile is in no figure (coordinated
omission). Here a clock says when each call is due, and whoever measures begins at that moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.measure import TIMEOUT_S


def arrivals(rate_per_s: float, hold_s: float, seed: int) -> list[float]:
    """When each call of a hold is due, in seconds from its beginning: a Poisson process, in which
    nobody knows of the others. The same for the same seed.
    """
    source = random.Random(seed)
    due_s: list[float] = []
    at_s = source.expovariate(rate_per_s)
    while at_s < hold_s:
        due_s.append(at_s)
        at_s += source.expovariate(rate_per_s)
    return due_s


async def offer(
    due_s: Sequence[float], call: Callable[[int, float], Awaitable[None]], *, began: float
) -> None:
    """Make call number n, with the moment at which it was due, as soon as that comes; and wait
    for all of them. Moments are of the loop's time, and `due_s` counts from `began`.

    Raises what a call raises, and TimeoutError.
    """
    async with asyncio.timeout(due_s[-1] + TIMEOUT_S), asyncio.TaskGroup() as group:
        for number, after_s in enumerate(due_s):
            await until(began + after_s)
            group.create_task(call(number, began + after_s))  # type: ignore[arg-type]


async def until(due: float) -> None:
    """Wait for a moment of the loop's time; one that has passed is not waited for."""
    left_s = due - asyncio.get_running_loop().time()
    if left_s > 0:
        await asyncio.sleep(left_s)

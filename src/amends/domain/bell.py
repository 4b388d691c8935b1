"""Waking whoever waits for a change: the one primitive of the in-memory adapters and clocks."""

from __future__ import annotations

import asyncio
from datetime import datetime

from amends.domain.clock import Clock


class Bell:
    """Wakes every waiter of the moment, in the order in which they began to wait.

    It remembers nothing, so look and wait without an `await` in between. Unlike `asyncio.Event`
    it belongs to no event loop, because what it guards may outlive one. Not for threads.
    """

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake all that wait now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            # A crashed engine leaves waiters on a loop that is gone.
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next ring."""
        waiter = self._join()
        try:
            await waiter
        finally:
            self._leave(waiter)

    async def wait_until(self, clock: Clock, when: datetime) -> None:
        """Return at the next ring, or when `when` has come."""
        # Joined here and not in a task of its own, which a ring could come before.
        waiter = self._join()
        timer = asyncio.ensure_future(clock.sleep_until(when))
        try:
            await asyncio.wait([waiter, timer], return_when=asyncio.FIRST_COMPLETED)
            if timer.done():
                timer.result()
        finally:
            timer.cancel()
            self._leave(waiter)

    def _join(self) -> asyncio.Future[None]:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

"""The clock port: every wait and every timestamp of the engine goes through it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """The present moment, in UTC."""
        ...

    async def sleep_until(self, when: datetime) -> None:
        """Return when `when` has come; at once if it is past."""
        ...


class SystemClock:
    """The machine's own clock."""

    #: asyncio cannot wait for decades in one go, and a wall clock may be set meanwhile.
    NAP_S_MAX = 60.0

    def now(self) -> datetime:
        """The present moment, in UTC."""
        return datetime.now(UTC)

    async def sleep_until(self, when: datetime) -> None:
        """Wait in naps, so that a clock that was set is noticed within a minute."""
        while (left_s := (when - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - waits for time
            await asyncio.sleep(min(left_s, self.NAP_S_MAX))

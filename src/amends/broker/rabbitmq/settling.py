"""Telling the server what became of deliveries: acknowledged, or handed back.

What is settled in one pass of the event loop is told together, and one frame acknowledges all that
comes before the first delivery which is not settled yet. So frames must not overtake one another:
one would acknowledge what another is about to hand back, or what was acknowledged already, which
costs the channel. A single task writes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from aiormq.channel import Channel as Wire

from amends.broker.rabbitmq.connection import LOST


class Settling:
    """Of one channel. `unsettled` has the delivery tags in hand, in the order of delivery; who
    settles one has taken it out there before.
    """

    def __init__(self, wire: Wire, unsettled: Mapping[int, object]) -> None:
        self._wire = wire
        self._unsettled = unsettled
        self._done: list[int] = []
        self._returned: list[int] = []
        self._telling: asyncio.Task[None] | None = None

    def done(self, tag: int) -> None:
        """Acknowledge a delivery."""
        self._done.append(tag)
        self._begin()

    def returned(self, tag: int) -> None:
        """Hand a delivery back."""
        self._returned.append(tag)
        self._begin()

    async def told(self) -> None:
        """Return when all was written that was settled before."""
        if self._telling is not None:
            await asyncio.wait([self._telling])

    def abandon(self) -> None:
        """Settle nothing more: it comes again, and so does what is unsettled."""
        self._done.clear()
        self._returned.clear()

    def _begin(self) -> None:
        if self._telling is None or self._telling.done():
            # In a task: what else is settled in this pass of the event loop goes along.
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._done or self._returned:
            done, self._done = sorted(self._done), []
            returned, self._returned = self._returned, []
            first = next(iter(self._unsettled), None)
            together = [tag for tag in done if first is None or tag < first]
            # What does not get through was never settled.
            with suppress(*LOST):
                for tag in returned:
                    # Rejected, because newer servers do not count what is "nacked".
                    await self._wire.basic_reject(tag, requeue=True, wait=False)
                if together:
                    await self._wire.basic_ack(together[-1], multiple=True, wait=False)
                for tag in done[len(together) :]:
                    await self._wire.basic_ack(tag, wait=False)

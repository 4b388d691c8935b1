"""Packing messages to inboxes into parcels.

While few parcels are under way, whatever is put here goes at once, with all that came in the same
pass of the event loop. While more are, it waits for one of them to arrive, or a few milliseconds,
and what comes meanwhile goes with it. So a quiet system waits for nothing, and the busier it is, the
fuller its parcels are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from amends.broker.port import Message
from amends.broker.rabbitmq.wire import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX

#: Parcels of this process, to whatever inbox, beyond which others wait a little.
FEW: Final = 2
#: For how long at most: an inbox that takes nothing holds up the others for no longer.
PATIENCE_S: Final = 0.005
#: Parcels to one inbox that are under way.
IN_FLIGHT_MAX: Final = 2

Send = Callable[[str, Sequence[Message]], Coroutine[Any, Any, None]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Parcels:
    """All that is to go to inboxes. `send` sends a parcel to the inbox with a logical name and
    returns when it has arrived; `spawn` runs it in a task.
    """

    def __init__(self, send: Send, spawn: Spawn) -> None:
        self._send = send
        self._spawn = spawn
        self._boxes: dict[str, _Box] = {}
        self._waiting: dict[_Box, None] = {}
        self._under_way = 0
        self._is_expected = False
        self._timer: asyncio.TimerHandle | None = None

    def put(self, message: Message) -> asyncio.Future[None]:
        """Send a message to its inbox; the future is done when it has arrived."""
        loop = asyncio.get_running_loop()
        box = self._boxes.setdefault(message.queue, _Box(message.queue))
        arrived: asyncio.Future[None] = loop.create_future()
        if not box.waiting:
            box.since = loop.time()
            self._waiting[box] = None
        box.waiting.append((message, arrived))
        if not self._is_expected:
            # Not at once: what else comes in this pass of the event loop can go along.
            self._is_expected = True
            loop.call_soon(self._pack)
        return arrived

    def _pack(self) -> None:
        self._is_expected = False
        loop = asyncio.get_running_loop()
        now = loop.time()
        for box in list(self._waiting):
            while box.waiting and box.under_way < IN_FLIGHT_MAX:
                if self._under_way >= FEW and now - box.since < PATIENCE_S:
                    self._pack_at(box.since + PATIENCE_S)
                    break
                self._under_way += 1
                box.under_way += 1
                self._spawn(self._deliver(box, box.take()))
            if not box.waiting:
                del self._waiting[box]

    def _pack_at(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer.when() <= loop.time():
            self._timer = loop.call_at(when, self._pack)

    async def _deliver(
        self, box: _Box, taken: Sequence[tuple[Message, asyncio.Future[None]]]
    ) -> None:
        try:
            await self._send(box.queue, [message for message, _ in taken])
        except BaseException as error:
            for _, arrived in taken:
                if arrived.done():
                    continue
                if isinstance(error, Exception):
                    arrived.set_exception(error)
                    arrived.exception()  # nobody may wait any more
                else:
                    arrived.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for _, arrived in taken:
                if not arrived.done():
                    arrived.set_result(None)
        finally:
            self._under_way -= 1
            box.under_way -= 1
            self._pack()


class _Box:
    """What waits for one inbox, and since when."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.waiting: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self.since = 0.0
        self.under_way = 0

    def take(self) -> list[tuple[Message, asyncio.Future[None]]]:
        """What fits into one parcel: something always does."""
        taken = [self.waiting.popleft()]
        room = PARCEL_BYTES_MAX - len(taken[0][0].body)
        while self.waiting and len(taken) < PARCEL_MESSAGES_MAX:
            room -= len(self.waiting[0][0].body)
            if room < 0:
                break
            taken.append(self.waiting.popleft())
        return taken

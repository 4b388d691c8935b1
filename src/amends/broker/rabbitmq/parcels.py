"""Packing messages to inboxes into parcels.

After a silence, whatever is put here goes at once, with all that came in the same pass of the event
loop. After a parcel, the next one waits for a while, and what comes meanwhile goes with it: a few
milliseconds for each message that went before, and never more than a few more. So a process that
sends little waits for nothing, and the busier it is, the fuller its parcels are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from amends.broker.port import Message
from amends.broker.rabbitmq.wire import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX

#: For how long others wait after a message went: who sends fewer than one in that time never waits.
PAUSE_S: Final = 0.004
#: For how long they wait after many.
PAUSE_MAX_S: Final = 0.010
#: Parcels to one inbox that are under way.
IN_FLIGHT_MAX: Final = 2

Send = Callable[[str, Sequence[Message]], Coroutine[Any, Any, None]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
#: A message, and the future of its arrival.
_Put = tuple[Message, asyncio.Future[None]]


class Parcels:
    """All that is to go to inboxes. `send` sends a parcel into the inbox with a logical name and
    returns when it has arrived; `spawn` runs it in a task.
    """

    def __init__(self, send: Send, spawn: Spawn) -> None:
        self._send = send
        self._spawn = spawn
        self._boxes: dict[str, _Box] = {}
        self._waiting: dict[_Box, None] = {}
        self._next_at = float("-inf")
        self._packing: asyncio.Handle | None = None

    def put(self, message: Message, carrier: str) -> asyncio.Future[None]:
        """Send a message into the inbox `carrier`, its own or another of the same owner's; the
        future is done when it has arrived.
        """
        loop = asyncio.get_running_loop()
        box = self._boxes.setdefault(carrier, _Box(carrier))
        arrived: asyncio.Future[None] = loop.create_future()
        box.waiting.append((message, arrived))
        self._waiting[box] = None
        if self._packing is None:
            # Not at once: what else comes in this pass of the event loop can go along.
            self._packing = (
                loop.call_soon(self._pack)
                if loop.time() >= self._next_at
                else loop.call_at(self._next_at, self._pack)
            )
        return arrived

    def _pack(self) -> None:
        self._packing = None
        went = 0
        for box in list(self._waiting):
            while box.waiting and box.under_way < IN_FLIGHT_MAX:
                taken = box.take()
                went += len(taken)
                box.under_way += 1
                sending = self._spawn(self._send(box.queue, [message for message, _ in taken]))
                sending.add_done_callback(partial(self._sent, box, taken))
            if not box.waiting:
                del self._waiting[box]
        if went:
            now = asyncio.get_running_loop().time()
            self._next_at = now + min(went * PAUSE_S, PAUSE_MAX_S)

    def _sent(self, box: _Box, taken: Sequence[_Put], sending: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before it begins tells nobody anything.
        error = None if sending.cancelled() else sending.exception()
        for _, arrived in taken:
            if arrived.done():
                continue
            if sending.cancelled():
                arrived.cancel()
            elif error is not None:
                arrived.set_exception(error)
                arrived.exception()  # nobody may wait any more
            else:
                arrived.set_result(None)
        box.under_way -= 1
        if box.waiting and self._packing is None:
            self._pack()


class _Box:
    """What waits to go into one inbox."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.waiting: deque[_Put] = deque()
        self.under_way = 0

    def take(self) -> list[_Put]:
        """What fits into one parcel: something always does."""
        taken = [self.waiting.popleft()]
        room = PARCEL_BYTES_MAX - len(taken[0][0].body)
        while self.waiting and len(taken) < PARCEL_MESSAGES_MAX:
            room -= len(self.waiting[0][0].body)
            if room < 0:
                break
            taken.append(self.waiting.popleft())
        return taken

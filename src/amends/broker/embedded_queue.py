"""The part of an embedded queue that is in memory: what consumers hold, and where they are.

A message is a row until it is acknowledged. A queue remembers how far its rows were looked at
(`cursor`), which of those rows are held by somebody (`held`, bounded by the consumers' limits), which
are known and wait for room (`ahead`, bounded too), and whether rows may wait behind the cursor
(`behind`). While none wait there, what is published in this process is handed over in memory, and
nothing is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final
from uuid import UUID

from amends.broker.port import Delivery, Message
from amends.domain.bell import Bell
from amends.stores.sqlite.moments import from_us
from amends.stores.sqlite.schema import PLACE_BITS

#: Replies and requests that wait in memory for one queue; beyond that they become rows.
IN_MEMORY_MAX: Final = 1000

#: Rows that are known and wait for a consumer's room; beyond that they are read again later.
AHEAD_MAX: Final = 1000
AHEAD_BYTES_MAX: Final = 4 * 1024 * 1024

#: Of a request, which is in memory only; rows count from 1.
NO_ROW: Final = 0

COLUMNS: Final = "id, type, key, body, correlation_id, causation_id, trace_parent"


class State(Enum):
    """What became of a message that was given to a consumer."""

    HELD = "held"
    REPLIED = "replied"  # a reply in memory keeps its row
    DONE = "done"
    RETURNED = "returned"


class Held:
    """A message in memory: a row of its queue, or a reply or a request without a row of its own.

    `row` is what acknowledging it deletes: for a reply, the row of the message that it answers,
    which is `origin` and comes again if the reply is lost. For a request it is NO_ROW.
    """

    __slots__ = ("count", "hands", "message", "origin", "queue", "row", "state")

    def __init__(
        self, message: Message, row: int, queue: Queue, *, count: int = 1,
        origin: Held | None = None,
    ) -> None:  # fmt: skip
        self.message = message
        self.row = row
        self.queue = queue
        self.count = count
        self.origin = origin
        self.state = State.HELD
        self.hands: Hands | None = None

    @property
    def has_own_row(self) -> bool:
        """Whether it is a row of its queue."""
        return self.row != NO_ROW and self.origin is None

    def settle(self, state: State) -> None:
        """It is in nobody's hands any more."""
        if self.state is not State.HELD:
            return
        self.state = state
        if self.hands is not None:
            self.hands.drop(self)
        if state is State.REPLIED:
            return
        if self.row != NO_ROW:
            (self.origin or self).queue.held.pop(self.row, None)
        if state is State.RETURNED:
            self.queue.look_again(self.row if self.has_own_row else None)
            if self.origin is not None:
                self.origin.queue.look_again(self.origin.row)


class Hands:
    """What one consumer holds: received or waiting to be received, at most `limit`."""

    def __init__(self, limit: int, queue: Queue) -> None:
        self.limit = limit
        self.buffer: list[Held] = []
        self.received: set[Held] = set()
        self._queue = queue

    @property
    def room(self) -> int:
        """How many more it may hold."""
        return self.limit - len(self.buffer) - len(self.received)

    def put(self, held: Held) -> None:
        """Give it a message, which waits to be received."""
        held.hands = self
        self.buffer.append(held)
        self._queue.bell.ring()

    def receive(self) -> list[Delivery]:
        """Everything that waits to be received."""
        taken, self.buffer = self.buffer, []
        self.received.update(taken)
        return [Delivery(held.message, held.count, held) for held in taken]

    def drop(self, held: Held) -> None:
        """It holds this no more, and may hold something else."""
        self.received.discard(held)
        if self._queue.has_more:
            self._queue.bell.ring()


class Queue:
    """One queue. `base` is below the `seq` of all its messages, `ceiling` above them."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.base = number << PLACE_BITS
        self.ceiling = (number + 1) << PLACE_BITS
        self.cursor = self.base
        self._seen = self.base
        self.behind = True
        self.held: dict[int, Held] = {}
        self.in_memory: deque[Held] = deque()
        self.ahead: deque[Held] = deque()
        self._ahead_bytes = 0
        self.hands: list[Hands] = []
        self.bell = Bell()
        self._row_next = False

    @property
    def has_more(self) -> bool:
        """Whether anything may wait for room."""
        return self.behind or bool(self.ahead or self.in_memory)

    # --- what comes in

    def hand_over(self, seq: int, message: Message) -> None:
        """A message of this process was committed; called in the order of `seq`."""
        if not self.hands:
            self.behind = True
            return
        if self.behind or seq <= self._seen:
            # Rows wait in front of it; or it was among those that were looked at just now.
            self.bell.ring()
            return
        hands = None if self.ahead else self._roomiest()
        if hands is None and not self._has_room_ahead():
            self.behind = True
            return
        self.cursor = self._seen = seq
        held = Held(message, seq, self)
        if hands is None:
            self.ahead.append(held)
            self._ahead_bytes += len(message.body)
        else:
            self._give(held, hands)

    def _has_room_ahead(self) -> bool:
        return len(self.ahead) < AHEAD_MAX and self._ahead_bytes < AHEAD_BYTES_MAX

    def look_again(self, row: int | None = None) -> None:
        """There are rows that were not handed over: anywhere, or at this one."""
        if self.ahead:
            # They are read again with the others, in their order.
            self.cursor = min(self.cursor, self.ahead[0].row - 1)
            self.ahead.clear()
            self._ahead_bytes = 0
        if row is not None:
            self.cursor = min(self.cursor, row - 1)
        self.behind = True
        self.bell.ring()

    def has_room_in_memory(self) -> bool:
        """Whether a reply or a request may wait in memory here."""
        return bool(self.hands) and len(self.in_memory) < IN_MEMORY_MAX

    def put(self, held: Held) -> None:
        """Take what has no row of its own. It overtakes rows that wait: replies are about what is
        begun, and somebody waits for the answer to a request.
        """
        hands = None if self.in_memory else self._roomiest()
        if hands is None:
            self.in_memory.append(held)
            self.bell.ring()
        else:
            hands.put(held)

    def _roomiest(self) -> Hands | None:
        if len(self.hands) == 1:
            return self.hands[0] if self.hands[0].room > 0 else None
        best = max(self.hands, key=lambda hands: hands.room, default=None)
        return best if best is not None and best.room > 0 else None

    def _give(self, held: Held, hands: Hands) -> None:
        self.held[held.row] = held
        hands.put(held)

    # --- what goes out

    def fill(self, hands: Hands, query: Callable[[str, Sequence[Any]], list[Any]]) -> None:
        """Give a consumer what waits, in memory and in rows."""
        if hands not in self.hands:
            # It was stopped while it waited for the file.
            return
        for _ in range(min(self._share_in_memory(hands.room), len(self.in_memory))):
            hands.put(self.in_memory.popleft())
        while self.ahead and hands.room > 0:
            held = self.ahead.popleft()
            self._ahead_bytes -= len(held.message.body)
            self._give(held, hands)
        if self.behind and hands.room > 0:
            self._fetch(hands, query)
        # What the rows did not need.
        for _ in range(min(hands.room, len(self.in_memory))):
            hands.put(self.in_memory.popleft())

    def _share_in_memory(self, room: int) -> int:
        """Rows that wait get a quarter of the room, or every other message: none starves."""
        if not (self.behind or self.ahead) or room <= 0:
            return room
        if room > 1:
            return room - max(1, room // 4)
        self._row_next = not self._row_next
        return 0 if self._row_next else room

    def _fetch(self, hands: Hands, query: Callable[[str, Sequence[Any]], list[Any]]) -> None:
        # After messages were handed back, others behind the cursor are still held.
        wanted = hands.room + len(self.held)
        rows = query(
            f"SELECT seq, deliveries, due, {COLUMNS} FROM messages "
            "WHERE seq > ? AND seq < ? ORDER BY seq LIMIT ?",
            [self.cursor, self.ceiling, wanted],
        )
        for seq, deliveries, due, *columns in rows:
            if hands.room <= 0:
                return
            self.cursor = seq
            self._seen = max(self._seen, seq)
            if seq not in self.held:
                message = read_message(self.name, due, *columns)
                self._give(Held(message, seq, self, count=deliveries + 1), hands)
        self.behind = len(rows) == wanted

    def join(self, hands: Hands) -> None:
        """A consumer comes."""
        self.hands.append(hands)

    def leave(self, hands: Hands) -> list[Held]:
        """A consumer takes no more. Returns what waits in memory, if nobody is left to take it."""
        if hands in self.hands:
            self.hands.remove(hands)
        buffer, hands.buffer = hands.buffer, []
        for held in buffer:
            held.hands = None
            if held.has_own_row:
                self.held.pop(held.row, None)
                self.look_again(held.row)
            else:
                self.in_memory.append(held)
        self.bell.ring()
        if self.hands:
            return []
        if self.ahead:
            self.look_again()
        orphans, self.in_memory = list(self.in_memory), deque()
        return orphans


def columns_of(message: Message) -> tuple[Any, ...]:
    """The columns of a message, from its id on."""
    return (
        message.id.bytes,
        message.type,
        message.key,
        message.body,
        message.correlation_id,
        message.causation_id,
        message.trace_parent,
    )


def read_message(
    queue: str, due: int | None, id: bytes, type: str, key: str, body: bytes,
    correlation_id: str, causation_id: str, trace_parent: str | None,
) -> Message:  # fmt: skip
    """The message of a row."""
    return Message(
        UUID(bytes=id),
        queue,
        type,
        key,
        body,
        correlation_id,
        causation_id,
        trace_parent,
        None if due is None else from_us(due),
    )

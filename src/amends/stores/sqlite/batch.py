"""Planning a batch: which rows the writes of many callers come to.

What the writer knows (the last position, the versions of recently used streams) it knows from its
own writes, and the first row of every batch checks that nobody else has written since. So the
common batch needs no read at all; whatever does not fit goes the careful way in `commit.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from amends.domain.ids import NO_STREAM, Position
from amends.stores.port import Append, Appended
from amends.stores.sqlite.schema import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_PER_ROW,
    DELAYED,
    EVENT,
    HEAD,
    ROW_WIDTH,
    STREAM,
)

#: Streams whose version is kept in memory, some 300 bytes each; others are looked up, all those of
#: a batch by one query.
STREAMS_KNOWN_MAX: Final = 10_000
WORK_COST_MIN: Final = 256


class Outgoing(NamedTuple):
    """A message as the writer takes it: the kind of its row, what is below every `seq` of its
    queue, its columns from id to trace_parent, and its `since` or `due` time in microseconds.
    """

    kind: int
    base: int
    moment: int
    fields: tuple[Any, ...]


class Ticket:
    """What somebody waits on who has asked for several works: `future` ends with the last."""

    __slots__ = ("_left", "future")

    def __init__(self, works: int, future: asyncio.Future[None]) -> None:
        self._left = works
        self.future = future

    def one_is_done(self) -> None:
        """One of the works was committed, or has failed."""
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result(None)


class Work:
    """Something for the writer to do, and how its end is told.

    `finished` is called with it in the event loop, in commit order, even if nobody waits any more;
    it looks at `error`. `bytes` bounds what waits in memory.
    """

    __slots__ = ("bytes", "error", "finished", "ticket")

    def __init__(self, bytes: int) -> None:
        self.bytes = bytes + WORK_COST_MIN
        self.finished: Callable[[Any], None] | None = None
        self.error: Exception | None = None
        self.ticket: Ticket | None = None

    def finish(self) -> None:
        """Call `finished`, in the event loop."""
        if self.finished is not None:
            self.finished(self)


class Write(Work):
    """Events, messages and acknowledgements: all of it, or nothing.

    Afterwards `appended` tells where the events are (`is_repeat`: since an earlier time), and
    `first_place` the place of the first message (the others follow), or None if some were waiting
    already under their ids.
    """

    __slots__ = (
        "acknowledged", "append", "appended", "at", "first_place", "is_repeat", "outgoing",
    )  # fmt: skip

    def __init__(
        self,
        at: int,
        append: Append | None = None,
        outgoing: Sequence[Outgoing] = (),
        acknowledged: Sequence[int] = (),
    ) -> None:
        size = sum(len(out.fields[3]) + WORK_COST_MIN for out in outgoing)
        if append is not None:
            size += sum(len(e.data) + len(e.metadata) + WORK_COST_MIN for e in append.events)
        super().__init__(size)
        self.at = at
        self.append = append
        self.outgoing = outgoing
        self.acknowledged = acknowledged
        self.appended: Appended | None = None
        self.is_repeat = False
        self.first_place: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.append is None and not self.outgoing and not self.acknowledged


class StreamHead(NamedTuple):
    """A stream's number and the version of its last event (-1: there is none)."""

    id: int
    version: int


class Known:
    """What the writer knows of the file while nobody else writes."""

    def __init__(self) -> None:
        #: The counter in `head`, which every commit of every process moves. None: not known.
        self.n: int | None = None
        self.position = -1
        self.streams = 0
        self.heads: dict[str, StreamHead] = {}

    def forget(self) -> None:
        """Somebody else wrote, or a commit failed."""
        self.n = None
        self.heads.clear()

    def learn(self, plan: Plan) -> None:
        """A planned batch was written."""
        self.n = plan.n
        self.position = plan.position
        self.streams = plan.streams
        heads = self.heads
        for name, head in plan.heads.items():
            # Taken out first: then the oldest in the dict is the one unused for longest.
            heads.pop(name, None)
            heads[name] = head
        if len(heads) > STREAMS_KNOWN_MAX:
            for name in list(heads)[: STREAMS_KNOWN_MAX // 10]:
                del heads[name]


class Plan:
    """The rows of one batch, as one flat list of their columns.

    `waiting` are the keys of messages that wait in the file already; None plans in the hope that
    there are none, and that streams which are not known do not exist.
    """

    def __init__(self, known: Known, waiting: set[str] | None = None) -> None:
        assert known.n is not None
        self._known = known
        self._waiting = waiting
        self._acknowledged: list[int] = []
        self._place = known.n
        self.position = known.position
        self.streams = known.streams
        self.heads: dict[str, StreamHead] = {}
        self.values: list[Any] = [HEAD, known.n, None, *(None,) * 7]
        self.writes: list[Write] = []
        #: Writes that do not simply extend their stream: a lost race, a retry, an open version.
        self.aside: list[Write] = []

    @property
    def n(self) -> int:
        """The counter after this batch: it moves even when no message took a place."""
        assert self._known.n is not None
        return max(self._place, self._known.n + 1)

    def add(self, write: Write) -> None:
        """Plan a write if it simply extends its stream; otherwise put it aside."""
        if write.append is not None:
            head = self.head(write.append.stream)
            if not _extends(head, write.append.expected):
                self.aside.append(write)
                return
            self.add_events(write, write.append, head)
        self.add_rest(write)

    def head(self, stream: str) -> StreamHead | None:
        """The stream's head, as it will be; None if it is not known or does not exist."""
        return self.heads.get(stream) or self._known.heads.get(stream)

    def add_events(
        self, write: Write, append: Append, head: StreamHead | None, *, kind: int = EVENT
    ) -> None:
        """Plan the events of a write, behind the head of their stream."""
        values = self.values
        if head is None:
            self.streams += 1
            head = StreamHead(self.streams, -1)
            values += (STREAM, head.id, append.stream, *(None,) * 7)
        id, version = head
        position = self.position
        at = write.at
        for event in append.events:
            version += 1
            position += 1
            values += (
                kind, position, id, version, event.id.bytes,
                event.type, event.data, event.metadata, at, None,
            )  # fmt: skip
        self.position = position
        self.heads[append.stream] = StreamHead(id, version)
        write.appended = Appended(version, Position(position))

    def add_rest(self, write: Write) -> None:
        """Plan the messages and acknowledgements of a write."""
        self.writes.append(write)
        self._acknowledged += write.acknowledged
        place = self._place
        values = self.values
        write.first_place = place + 1
        for out in write.outgoing:
            if self._waiting is not None and self._is_waiting(out):
                write.first_place = None
                continue
            place += 1
            values += (out.kind, out.base + place, *out.fields, out.moment)
        self._place = place

    def _is_waiting(self, out: Outgoing) -> bool:
        assert self._waiting is not None
        key = waiting_key(out)
        if key in self._waiting:
            return True
        self._waiting.add(key)
        return False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return len(self.values) == ROW_WIDTH and not self._acknowledged

    def finish(self) -> list[Any]:
        """The columns of all rows."""
        self.values[2] = self.n
        for start in range(0, len(self._acknowledged), ACKNOWLEDGED_PER_ROW):
            seqs = self._acknowledged[start : start + ACKNOWLEDGED_PER_ROW]
            self.values += (ACKNOWLEDGED, *seqs, *(None,) * (ACKNOWLEDGED_PER_ROW - len(seqs)))
        return self.values


def _extends(head: StreamHead | None, expected: int) -> bool:
    version = -1 if head is None else head.version
    return expected >= NO_STREAM and version == expected


def waiting_key(out: Outgoing) -> str:
    """What copies of a message have in common, in the form in which SQL gives it."""
    due = out.moment if out.kind == DELAYED else ""
    return f"{out.fields[0].hex().upper()}/{out.base}/{due}"


def streams_to_look_up(writes: Iterable[Write], known: Known, *, new_too: bool) -> list[str]:
    """The streams whose head must be read before a batch can be planned."""
    return [
        write.append.stream
        for write in writes
        if write.append is not None
        and write.append.stream not in known.heads
        and (new_too or write.append.expected != NO_STREAM)
    ]

"""The event store in memory: the reference for what the port means, and the store of tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Final

from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import NO_STREAM, START, STREAM_EXISTS, Position, StreamName
from amends.errors import StoreClosed, WrongExpectedVersion
from amends.stores.checks import check_append, check_removals
from amends.stores.port import EVERYTHING, Append, Appended, EventFilter, Removal

#: How many events a subscription passes on before it lets others run.
SUBSCRIPTION_PAGE: Final = 100


class _Log:
    """What a real store would have on disk: it outlives the store objects that use it."""

    def __init__(self) -> None:
        #: By position; None is where an event was removed.
        self.events: list[RecordedEvent | None] = []
        self.streams: dict[StreamName, list[RecordedEvent]] = {}
        self.changed = Bell()


class MemoryStore:
    """Implements `EventStore` for one process, without durability and without threads.

    A position is the event's index in the log. A retried append is recognised by its ids in its
    own stream, whatever expected version it has, and for as long as the store lives.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._log = _Log()
        self._closed = False

    def reopened(self) -> MemoryStore:
        """Another store over the same log: what a restarted engine or a second client sees."""
        other = MemoryStore(self._clock)
        other._log = self._log
        return other

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`."""
        # Let others run first, as a server would: otherwise no append would ever lose a race.
        await asyncio.sleep(0)
        self._check_open()
        check_append(append)
        stream = self._log.streams.get(append.stream, [])
        first = _first_version(append, stream)
        if first == len(stream):
            self._write(append)
            stream = self._log.streams[append.stream]
        last = stream[first + len(append.events) - 1]
        return Appended(last.version, last.position)

    def _write(self, append: Append) -> None:
        stream = self._log.streams.setdefault(append.stream, [])
        recorded_at = self._clock.now()
        for event in append.events:
            recorded = RecordedEvent(
                stream=append.stream,
                version=len(stream),
                position=Position(len(self._log.events)),
                id=event.id,
                type=event.type,
                data=event.data,
                metadata=event.metadata,
                recorded_at=recorded_at,
            )
            stream.append(recorded)
            self._log.events.append(recorded)
        self._log.changed.ring()

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read`."""
        await asyncio.sleep(0)
        self._check_open()
        return self._log.streams.get(stream, [])[max(start, 0) :][:limit]

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read_backwards`."""
        await asyncio.sleep(0)
        self._check_open()
        events = self._log.streams.get(stream, [])
        if start is not None:
            events = events[: max(start + 1, 0)]
        return events[::-1][:limit]

    async def read_all(
        self, after: Position = START, *, filter: EventFilter = EVERYTHING, limit: int = 1000
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all`."""
        await asyncio.sleep(0)
        self._check_open()
        return self._after(after, filter, limit)

    def _after(self, after: Position, filter: EventFilter, limit: int) -> list[RecordedEvent]:
        return self._select(range(max(after + 1, 0), len(self._log.events)), filter, limit)

    def _select(self, indexes: range, filter: EventFilter, limit: int) -> list[RecordedEvent]:
        candidates = (self._log.events[index] for index in indexes)
        wanted = (e for e in candidates if e is not None and filter.matches(e.stream, e.type))
        return list(islice(wanted, limit))

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all_backwards`."""
        await asyncio.sleep(0)
        self._check_open()
        end = len(self._log.events)
        if before is not None:
            end = min(max(before, 0), end)
        return self._select(range(end - 1, -1, -1), filter, limit)

    async def subscribe(
        self, after: Position | None = None, *, filter: EventFilter = EVERYTHING
    ) -> AsyncIterator[RecordedEvent]:
        """See `EventStore.subscribe`. Holds a position and one page of events, no queue."""
        self._check_open()
        # An async generator runs from its first `__anext__`, which is where "now" is.
        seen = self._end() if after is None else after
        while True:
            for event in self._after(seen, filter, SUBSCRIPTION_PAGE):
                yield event
                self._check_open()
                seen = event.position
            await asyncio.sleep(0)
            self._check_open()
            if not self._after(seen, filter, 1):
                # Seen or filtered out, the whole log is behind us: do not look at it again.
                seen = max(seen, self._end())
                await self._log.changed.wait()
                self._check_open()

    async def end(self) -> Position:
        """See `EventStore.end`."""
        await asyncio.sleep(0)
        self._check_open()
        return self._end()

    def _end(self) -> Position:
        return Position(len(self._log.events) - 1)

    async def remove(self, removals: Sequence[Removal]) -> list[StreamName]:
        """See `EventStore.remove`."""
        await asyncio.sleep(0)
        self._check_open()
        check_removals(removals)
        return [removal.stream for removal in removals if self._remove(removal)]

    def _remove(self, removal: Removal) -> bool:
        stream = self._log.streams.get(removal.stream, [])
        if removal.version != len(stream) - 1:
            return False
        for event in self._log.streams.pop(removal.stream):
            self._log.events[event.position] = None
        return True

    async def close(self) -> None:
        """See `EventStore.close`."""
        self._closed = True
        self._log.changed.ring()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store is closed; nothing was written. Open it again to use it.")


def _first_version(append: Append, stream: Sequence[RecordedEvent]) -> int:
    """Where the append's first event belongs: at the stream's end, or, for a retry, where it is.

    Raises WrongExpectedVersion when it belongs nowhere.
    """
    expected = append.expected
    first = expected + 1 if expected >= NO_STREAM else _find(append.events[0], stream)
    known = [event.id for event in stream[first : first + len(append.events)]]
    is_retry = known == [event.id for event in append.events]
    lost = first != len(stream) or (expected == STREAM_EXISTS and not stream)
    if lost and not is_retry:
        raise WrongExpectedVersion(append.stream, expected, len(stream) - 1)
    return first


def _find(event: NewEvent, stream: Sequence[RecordedEvent]) -> int:
    """The version of the event with that id, or where the next event goes."""
    return next((known.version for known in stream if known.id == event.id), len(stream))

"""The event store on a SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID, SafeUUID

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import (
    START,
    Position,
    StreamName,
)
from amends.errors import StoreClosed, StoreUnavailable
from amends.stores.checks import check_append, check_removals
from amends.stores.port import EVERYTHING, Append, Appended, EventFilter, Removal
from amends.stores.sqlite import removal
from amends.stores.sqlite.batch import Write
from amends.stores.sqlite.commit import Task
from amends.stores.sqlite.database import SqliteDatabase
from amends.stores.sqlite.moments import from_us

#: Events read in one go, in the event loop: about half a millisecond.
PAGE: Final = 250
#: Positions looked at in one go for the few that pass a filter.
FILTERED_PAGE: Final = 2000

_COLUMNS: Final = "version, position, e.id, type, data, metadata, recorded_at"
_STREAM: Final = "stream = (SELECT id FROM streams WHERE name = ?)"


class SqliteStore:
    """Implements `EventStore` on an open database.

    Events are durable when `append` returns: the file has been synchronised. A retry at an exact
    version is recognised by what is at that version, one at an open version (any, exists) by an
    index of the ids that were appended so. Positions have no gaps but those of removed streams.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._closed = False

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`."""
        self._check_open()
        check_append(append)
        write = Write(self._database.now_us(), append)
        await self._database.writer.submit(write)
        assert write.appended is not None
        return write.appended

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read`."""
        return await self._read(stream, max(start, 0), limit, ">=", "ASC", 1)

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read_backwards`."""
        return await self._read(stream, 2**62 if start is None else start, limit, "<=", "DESC", -1)

    async def _read(
        self, stream: StreamName, start: int, limit: int | None, side: str, order: str, step: int
    ) -> list[RecordedEvent]:
        events: list[RecordedEvent] = []
        at = start
        while (page := _page(limit, len(events))) > 0:
            self._check_open()
            rows = await self._database.read(
                f"SELECT {_COLUMNS} FROM events e WHERE {_STREAM} AND version {side} ? "
                f"ORDER BY version {order} LIMIT ?",
                [stream, at, page],
            )
            # Later pages belong to the first one only if the stream was not removed in between.
            if events and not await self._database.read(_EXISTS, [events[0].position]):
                events, at = [], start
                continue
            events += [_recorded(stream, *row) for row in rows]
            if len(rows) < page:
                break
            at = events[-1].version + step
        return events

    async def read_all(
        self, after: Position = START, *, filter: EventFilter = EVERYTHING, limit: int = 1000
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all`."""
        events: list[RecordedEvent] = []
        end = await self.end()
        while after < end and len(events) < limit:
            found, after = await self._scan(after, end, filter, limit - len(events))
            events += found
        return events

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all_backwards`."""
        events: list[RecordedEvent] = []
        end = await self.end()
        at = end + 1 if before is None else min(before, end + 1)
        where, parameters = _where(filter)
        while at > 0 and len(events) < limit:
            self._check_open()
            page = min(PAGE, limit - len(events))
            floor = max(0, at - (PAGE if filter == EVERYTHING else FILTERED_PAGE))
            rows = await self._database.read(
                _select_all(where, "e.position >= ? AND e.position < ?", "DESC"),
                [floor, at, *parameters, page],
            )
            events += [_recorded(StreamName(name), *row) for name, *row in rows]
            at = events[-1].position if len(rows) == page else floor
            if not rows and at > 0:
                # What was removed leaves gaps, and they may be wide.
                at = (await self._database.read(_LAST_BEFORE, [at]))[0][0] + 1
        return events

    async def subscribe(
        self, after: Position | None = None, *, filter: EventFilter = EVERYTHING
    ) -> AsyncIterator[RecordedEvent]:
        """See `EventStore.subscribe`. Holds a position and one page of events, no queue."""
        self._check_open()
        database, tail = self._database, self._database.writer.tail
        # An async generator runs from its first `__anext__`, which is where "now" is: no `end()`,
        # which would let others run, and append, before it looks.
        at = await database.patiently(self._end_now) if after is None else after
        with database.writer.watching():
            while True:
                # Look and wait without an await in between, or a ring could be missed.
                following = tail.after(at, filter)
                if following is None:
                    try:
                        end = self._end_now() if tail.end is None else tail.end
                    except StoreUnavailable:
                        await database.patiently(self._end_now)
                        continue  # with a look of its own
                    if at >= end:
                        await database.writer.changed.wait()
                        self._check_open()
                        continue
                    following = await self._scan(at, end, filter, PAGE)
                found, scanned = following
                for event in found:
                    yield event
                    self._check_open()
                at = scanned

    async def _scan(
        self, after: int, end: int, filter: EventFilter, limit: int
    ) -> tuple[list[RecordedEvent], Position]:
        """One page of matching events after a position, and how far it was looked."""
        self._check_open()
        page = min(PAGE, limit)
        ceiling = min(end, after + (PAGE if filter == EVERYTHING else FILTERED_PAGE))
        where, parameters = _where(filter)
        rows = await self._database.read(
            _select_all(where, "e.position > ? AND e.position <= ?", "ASC"),
            [after, ceiling, *parameters, page],
        )
        events = [_recorded(StreamName(name), *row) for name, *row in rows]
        if len(rows) == page:
            return events, events[-1].position
        if not rows and ceiling < end:
            # What was removed leaves gaps, and they may be wide.
            ceiling = (await self._database.read(_FIRST_AFTER, [ceiling]))[0][0] - 1
        return events, Position(ceiling)

    async def end(self) -> Position:
        """See `EventStore.end`."""
        self._check_open()
        rows = await self._database.read(_END)
        return Position(rows[0][0])

    def _end_now(self) -> int:
        return int(self._database.query(_END)[0][0])

    async def remove(self, removals: Sequence[Removal]) -> list[StreamName]:
        """See `EventStore.remove`. One transaction; the file's pages are used again."""
        self._check_open()
        check_removals(removals)
        writer = self._database.writer
        task = Task(removal.remove(removals))
        # Also if nobody waits any more.
        task.finished = lambda _: writer.tail.forget()
        await writer.submit(task)
        removed: list[StreamName] = task.result
        return removed

    async def close(self) -> None:
        """See `EventStore.close`. Closes the database too: close a broker that uses it before."""
        self._closed = True
        self._database.writer.changed.ring()
        await self._database.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store is closed; nothing was written. Open it again to use it.")


_END: Final = "SELECT coalesce(max(position), -1) FROM events"
#: Looked up once: an enumeration takes its time.
_UNKNOWN: Final = SafeUUID.unknown
_EXISTS: Final = "SELECT 1 FROM events WHERE position = ?"
#: The last event of the log always has its row, so that there is one after any before it.
_FIRST_AFTER: Final = "SELECT min(position) FROM events WHERE position > ?"
_LAST_BEFORE: Final = "SELECT coalesce(max(position), -1) FROM events WHERE position < ?"


def _page(limit: int | None, have: int) -> int:
    return PAGE if limit is None else min(PAGE, limit - have)


def _where(filter: EventFilter) -> tuple[str, list[Any]]:
    """SQL of a filter, beginning with AND, and its parameters."""
    sql = ""
    parameters: list[Any] = []
    if filter.types:
        sql += f" AND e.type IN ({','.join('?' * len(filter.types))})"
        parameters += filter.types
    if filter.stream_prefixes:
        # By length, in characters: a range of names would need the prefix's successor.
        tests = " OR ".join(["substr(s.name, 1, ?) = ?"] * len(filter.stream_prefixes))
        sql += f" AND ({tests})"
        for prefix in filter.stream_prefixes:
            parameters += (len(prefix), prefix)
    return sql, parameters


def _select_all(where: str, window: str, direction: str) -> str:
    return (
        f"SELECT s.name, {_COLUMNS} FROM events e CROSS JOIN streams s ON s.id = e.stream "
        f"WHERE {window}{where} ORDER BY e.position {direction} LIMIT ?"
    )


def _recorded(
    stream: StreamName, version: int, position: int, id: bytes, type: str, data: bytes,
    metadata: bytes, recorded_at: int,
) -> RecordedEvent:  # fmt: skip
    return RecordedEvent(
        stream, version, Position(position), _uuid(id), type, data, metadata, from_us(recorded_at),
    )  # fmt: skip


def _uuid(bytes: bytes) -> UUID:
    """What `UUID(bytes=…)` gives; that takes longer than all else that is done with an event."""
    made = object.__new__(UUID)
    object.__setattr__(made, "int", int.from_bytes(bytes))
    object.__setattr__(made, "is_safe", _UNKNOWN)
    return made

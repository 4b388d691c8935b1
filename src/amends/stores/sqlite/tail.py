"""The end of the log in memory: who follows it is handed what this process has just committed."""

from __future__ import annotations

from typing import Final, NamedTuple

from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import Position, StreamName
from amends.errors import WrongExpectedVersion
from amends.stores.port import EventFilter
from amends.stores.sqlite.batch import Write
from amends.stores.sqlite.moments import from_us

#: What is kept; whoever is further behind reads the file.
BYTES_MAX: Final = 1024 * 1024


class _Entry(NamedTuple):
    stream: StreamName
    events: tuple[NewEvent, ...]
    version: int
    position: Position
    at: int
    bytes: int


class LogTail:
    """The last appends of this process, as long as nobody else has appended between them."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        #: By the position before their first event. They follow one another in the log.
        self._after: dict[int, _Entry] = {}
        self._bytes = 0
        self._bytes_max = bytes_max
        self.end: Position | None = None
        """The end of the log, if it is known."""

    def add(self, write: Write) -> None:
        """An append of this process was committed, or failed; to be called in commit order."""
        append, appended = write.append, write.appended
        if isinstance(write.error, WrongExpectedVersion):
            return
        if append is None or appended is None or write.error is not None:
            self.forget()  # after most errors it may be in the file all the same
            return
        if write.is_repeat:
            if self.end is None or appended.position > self.end:
                self.forget()  # it tells nothing of where the log ends
            return
        before = appended.position - len(append.events)
        if before != self.end:
            self.forget()
        # Whoever appended may do with his list what he likes.
        events = tuple(append.events)
        self._after[before] = _Entry(append.stream, events, *appended, write.at, write.bytes)
        self._bytes += write.bytes
        self.end = appended.position
        while self._bytes > self._bytes_max and len(self._after) > 1:
            self._bytes -= self._after.pop(next(iter(self._after))).bytes

    def forget(self) -> None:
        """Others have written, or events were removed."""
        self._after.clear()
        self._bytes = 0
        self.end = None

    def after(
        self, position: int, filter: EventFilter
    ) -> tuple[list[RecordedEvent], Position] | None:
        """What the append after a position has for a reader, and its own last position; None if
        it is not here.
        """
        entry = self._after.get(position)
        if entry is None:
            return None
        stream, version = entry.stream, entry.version - len(entry.events)
        events = [
            RecordedEvent(
                stream, version + number, Position(position + number),
                event.id, event.type, event.data, event.metadata, from_us(entry.at),
            )
            for number, event in enumerate(entry.events, 1)
            if filter.matches(stream, event.type)
        ]  # fmt: skip
        return events, entry.position

"""The event store port: what every backend promises. `amends.testing` has its contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import START, ExpectedVersion, Position, StreamName


class Append(NamedTuple):
    """Events for one stream, whole or absent, at an expected version."""

    stream: StreamName
    events: Sequence[NewEvent]
    expected: ExpectedVersion


class Appended(NamedTuple):
    """Where an append ended: the stream's last version and that event's position."""

    version: int
    position: Position


class Removal(NamedTuple):
    """A stream to be removed whole, provided that its last event has this version."""

    stream: StreamName
    version: int


class EventFilter(NamedTuple):
    """Which events a reader wants; both conditions must hold, an empty one always does.

    `stream_prefixes` match the beginning of the stream name, `types` the whole event type.
    """

    stream_prefixes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    def matches(self, stream: str, type: str) -> bool:
        """Whether an event passes."""
        return (not self.types or type in self.types) and (
            not self.stream_prefixes or stream.startswith(self.stream_prefixes)
        )


EVERYTHING = EventFilter()


class EventStore(Protocol):
    """A log of streams with one total order over all of them. Events are appended and never
    changed; they go only with their whole stream, and only when somebody removes it.
    """

    async def append(self, append: Append) -> Appended:
        """Append events atomically and durably: when this returns, a crash keeps them.

        Retrying with the same event ids at the same expected version is a success without a
        second copy. Raises WrongExpectedVersion (with the actual version; nothing written),
        StoreUnavailable (nothing written), AppendOutcomeUnknown, StoreFull, StoreReadOnly,
        StoreCorrupt, StoreClosed, UsageError for an empty append or an id that is used twice
        in it, and PayloadTooLarge for more than the backend takes at once.
        """
        ...

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """Events of one stream from version `start` on, in order; empty if there are none."""
        ...

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        """Events of one stream from version `start` (default: the last) back to the first."""
        ...

    async def read_all(
        self,
        after: Position = START,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        """The first `limit` matching events after a position, in log order."""
        ...

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        """The last `limit` matching events before a position (default: the end), latest first."""
        ...

    def subscribe(
        self, after: Position | None = None, *, filter: EventFilter = EVERYTHING
    ) -> AsyncIterator[RecordedEvent]:
        """Every matching event after a position, then each new one as it is appended, by anyone.

        `after=None` means from now on: everything appended after the first `__anext__` is
        awaited. In log order, without a gap or a double, in bounded memory: a slow reader is
        slowed down, never dropped. Ends only with StoreClosed, an error or cancellation.
        """
        ...

    async def end(self) -> Position:
        """The position of the last event that was appended, removed or not; or START."""
        ...

    async def remove(self, removals: Sequence[Removal]) -> list[StreamName]:
        """Remove streams for good, each whole or not at all; returns those that were removed.

        A stream whose last event has another version is left as it is, and so is one that does
        not exist: an append that comes first wins, and one that comes later meets no stream.
        When this returns, a crash brings nothing back.

        Readers of the log and subscriptions pass over what was removed; a stream that was read
        meanwhile was read whole, or is empty. Positions are never used again. Names are: nothing
        is remembered of the stream, so that an append at "no stream" makes a new one, from
        version 0 on, even if it is a late retry of an append to the old one.

        Streams in one call share a sync where the backend has such a thing: pass many, but no
        more than others may wait for. On EventStoreDB the log shows the events until the server
        is scavenged.

        Raises UsageError for a version below 0, and otherwise what `append` raises, but for
        WrongExpectedVersion. After an error all, some or none of the streams are gone; removing
        them again is safe.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted and release everything. Idempotent."""
        ...

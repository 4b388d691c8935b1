"""The event store on EventStoreDB and KurrentDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from amends.domain.bell import Bell
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import ANY, START, STREAM_EXISTS, Position, StreamName
from amends.errors import StoreClosed, StoreUnavailable
from amends.stores.checks import check_append, check_removals
from amends.stores.eventstoredb.address import StoreAddress
from amends.stores.eventstoredb.connection import CLOSED, Connection
from amends.stores.eventstoredb.log_reading import LogReader
from amends.stores.eventstoredb.places import Places
from amends.stores.eventstoredb.reading import StreamReader
from amends.stores.eventstoredb.wire import check_events
from amends.stores.eventstoredb.writing import StreamWriter
from amends.stores.port import EVERYTHING, Append, Appended, EventFilter, Removal


class EventStoreDb:
    """Implements `EventStore` on EventStoreDB, 22.10 and later, and KurrentDB.

    It connects when it is first used. `timeout_s` is how long one call may take, however often it
    is tried meanwhile, until it fails with StoreUnavailable; an append whose outcome is then in
    doubt takes as long again to find out. `read_all` and `end` may take thirty times as long,
    because a filter may have the server look through all there is.

    A position is a commit position. `append` at `ANY` or `STREAM_EXISTS` reads the tail first, and
    does not recognise a repeat. A removed stream keeps one event on the server, which says so, and
    the log shows the others until the server is scavenged.

    Use it in one event loop.
    """

    def __init__(self, address: StoreAddress, *, timeout_s: float = 10.0) -> None:
        self._leader = Connection(address, "leader", timeout_s)
        self._follower = self._leader
        if address.node_preference != "leader":
            self._follower = Connection(address, address.node_preference, timeout_s)
        places = Places()
        self._reader = StreamReader(self._leader, places, timeout_s)
        self._writer = StreamWriter(self._leader, places, self._reader, timeout_s)
        self._log = LogReader(self._leader, self._follower, timeout_s)
        self._timeout_s = timeout_s
        self._closed = False
        self._calls = 0
        self._quiet = Bell()
        #: Held by who finds out where the log ends now.
        self._now_asked = asyncio.Lock()

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`. Raises PayloadTooLarge for what is over 1 MiB."""
        with self._call():
            check_append(append)
            check_events(append)
            await self._after_now()
            if append.expected in (ANY, STREAM_EXISTS):
                must_exist = append.expected == STREAM_EXISTS
                return await self._writer.append_to_tail(append, must_exist=must_exist)
            return await self._writer.append(append)

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read`."""
        with self._call():
            return await self._reader.forwards(stream, start, limit)

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read_backwards`."""
        with self._call():
            return await self._reader.backwards(stream, start, limit)

    async def read_all(
        self, after: Position = START, *, filter: EventFilter = EVERYTHING, limit: int = 1000
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all`."""
        with self._call():
            return await self._log.read(None if after < 0 else after, filter, limit=limit)

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all_backwards`."""
        with self._call():
            if before is not None and before <= 0:
                return []
            return await self._log.read(before, filter, limit=limit, backwards=True)

    def subscribe(
        self, after: Position | None = None, *, filter: EventFilter = EVERYTHING
    ) -> AsyncIterator[RecordedEvent]:
        """See `EventStore.subscribe`. While the server is away it waits, and then goes on."""
        return self._log.follow(after, filter, self._now)

    async def _now(self) -> Position:
        """Where the log ends. What is appended here meanwhile comes after that."""
        async with self._now_asked:
            return await self.end()

    async def _after_now(self) -> None:
        """What is appended from now on comes after what is "now" to somebody else."""
        try:
            async with asyncio.timeout(self._timeout_s), self._now_asked:
                pass
        except TimeoutError:
            raise StoreUnavailable(
                "the server does not say where its log ends. A subscription from now on waits for "
                "that, and appends wait for it; nothing was written. Try again."
            ) from None

    async def end(self) -> Position:
        """See `EventStore.end`."""
        with self._call():
            return await self._log.end()

    async def remove(self, removals: Sequence[Removal]) -> list[StreamName]:
        """See `EventStore.remove`."""
        with self._call():
            check_removals(removals)
            once = list(dict.fromkeys(removals))
            removing = map(self._writer.remove, once)
            # Also when one fails, the others come to their end within this call.
            removed = await asyncio.gather(*removing, return_exceptions=True)
            for outcome in removed:
                if isinstance(outcome, BaseException):
                    raise outcome
            return [one.stream for one, gone in zip(once, removed, strict=True) if gone]

    async def close(self) -> None:
        """See `EventStore.close`."""
        self._closed = True
        while self._calls:
            await self._quiet.wait()
        await self._leader.close()
        await self._follower.close()

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Count a call: what was begun is brought to its end before the store is closed."""
        self._check_open()
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.ring()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(CLOSED)

"""Reading one stream: its present life only, from version 0 on.

What a stream's events are numbered from (see `wire`) need not be known beforehand. It is taken to be
what it was when the stream was seen last, and each event tells whether that is still so; if not, the
stream was removed meanwhile, and is read anew.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

import grpc

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import StreamName
from amends.stores.eventstoredb.calling import call
from amends.stores.eventstoredb.connection import Connection
from amends.stores.eventstoredb.errors import is_stream_deleted
from amends.stores.eventstoredb.link import Link
from amends.stores.eventstoredb.places import NOWHERE, Place, Places
from amends.stores.eventstoredb.wire import Read, read_event, stream_request

#: Events that one call asks for, so that its deadline fits its work.
PAGE: Final = 1000


class StreamReader:
    """Reads streams at the leader, and learns where they are."""

    def __init__(self, connection: Connection, places: Places, timeout_s: float) -> None:
        self._connection = connection
        self._places = places
        self._timeout_s = timeout_s

    async def look(self, stream: str) -> Place:
        """Where the stream is now, as its last event tells."""
        page = await self.page(stream, None, backwards=True, count=1)
        if not page:
            return NOWHERE
        last = page[0]
        place = Place(last.number + 1 if last.is_end else last.base, last.number)
        self._places.learn(stream, place)
        return place

    async def page(
        self, stream: str, number: int | None, *, backwards: bool = False, count: int
    ) -> list[Read] | None:
        """Events from a number on, at most so many; None when there is no such stream."""
        request = stream_request(stream, number=number, backwards=backwards, count=count)

        async def ask(link: Link, timeout_s: float) -> list[Read] | None:
            return await _collect(link.read(request, timeout_s))

        return await call(self._connection, self._timeout_s, ask)

    async def forwards(
        self, stream: StreamName, start: int, limit: int | None
    ) -> list[RecordedEvent]:
        """See `EventStore.read`."""
        base = self._places.get(stream).base
        while True:
            found = await self._forwards(stream, base, max(start, 0), limit)
            if isinstance(found, list):
                return found
            base = found

    async def _forwards(
        self, stream: StreamName, base: int, start: int, limit: int | None
    ) -> list[RecordedEvent] | int:
        """The events; or the base to try again with, because there is a later one."""
        records: list[RecordedEvent] = []
        number = base + start
        while (count := _count(limit, records)) > 0:
            page = await self.page(stream, number, count=count) or []
            for read in page:
                if (later := _base_after(read)) > base:
                    return later
                records.append(_in_life(read, base))
            if len(page) < count:
                break
            number = page[-1].number + 1
        if records:
            self._places.learn(stream, Place(base, base + records[-1].version))
        return records

    async def backwards(
        self, stream: StreamName, start: int | None, limit: int | None
    ) -> list[RecordedEvent]:
        """See `EventStore.read_backwards`."""
        if start is not None and start < 0:
            return []
        base = self._places.get(stream).base
        while True:
            found = await self._backwards(stream, base, start, limit)
            if isinstance(found, list):
                return found
            base = found

    async def _backwards(
        self, stream: StreamName, base: int, start: int | None, limit: int | None
    ) -> list[RecordedEvent] | int:
        """The events; or the base to try again with, because there is a later one."""
        records: list[RecordedEvent] = []
        number = None if start is None else base + start
        while (count := _count(limit, records)) > 0:
            page = await self.page(stream, number, backwards=True, count=count)
            if page is None and not records:
                return []
            for read in page or []:
                if (later := _base_after(read)) > base:
                    return later
                if read.number < base:
                    return records
                records.append(_in_life(read, base))
            if not page or (len(page) < count and page[-1].number > base):
                # It does not go back to version 0: was it removed meanwhile?
                place = await self.look(stream)
                return place.base if place.base > base else records
            if len(page) < count or page[-1].number == base:
                break
            number = page[-1].number - 1
        if records and start is None:
            self._places.learn(stream, Place(base, base + records[0].version))
        return records


async def _collect(answers: Any) -> list[Read] | None:
    reads: list[Read] = []
    try:
        async with aclosing(answers):
            async for answer in answers:
                content = answer.WhichOneof("content")
                if content == "event":
                    reads.append(read_event(answer.event))
                elif content == "stream_not_found":
                    return None
    except grpc.aio.AioRpcError as error:
        if is_stream_deleted(error):
            return None
        raise
    return reads


def _count(limit: int | None, records: list[RecordedEvent]) -> int:
    return PAGE if limit is None else min(PAGE, limit - len(records))


def _base_after(read: Read) -> int:
    """The base that holds from an event on."""
    return read.number + 1 if read.is_end else read.base


def _in_life(read: Read, base: int) -> RecordedEvent:
    """The event with its version. One that others wrote does not say what it counts from."""
    return read.record if read.base == base else read.record._replace(version=read.number - base)

"""Appending, and ending streams.

An append goes to an exact number on the server, never to "any". A stream at whose end this process
has seen it is believed to be there still; of any other the tail is read first, because a number that
is right by chance (in a later life of the stream) would be accepted. A stream of which nothing is
known is believed not to exist. The server refuses what is wrong; then the tail is read, too.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple
from uuid import uuid4

from amends.domain.envelope import NewEvent
from amends.domain.ids import ExpectedVersion, Position, StreamName
from amends.errors import (
    AppendOutcomeUnknown,
    StoreReadOnly,
    StoreUnavailable,
    UsageError,
    WrongExpectedVersion,
)
from amends.stores.eventstoredb.connection import Connection, pause
from amends.stores.eventstoredb.errors import Conflict, Doubt, NotWritten, Refused, doubt, of_append
from amends.stores.eventstoredb.places import Place, Places
from amends.stores.eventstoredb.reading import StreamReader
from amends.stores.eventstoredb.wire import (
    METADATA_PREFIX,
    METADATA_TYPE,
    REMOVED,
    append_request,
)
from amends.stores.port import Append, Appended, Removal

#: Appends under way at once; more wait for their turn.
APPENDS_MAX: Final = 128


class _Written(NamedTuple):
    """Where an append stands."""

    place: Place
    position: Position


class _Patience:
    """How long one append may be tried, and whether it is in doubt."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self.until = self._loop.time() + timeout_s
        self.doubt: Doubt | None = None
        self.failures = 0

    @property
    def left_s(self) -> float:
        return max(self.until - self._loop.time(), 0.001)

    def doubts(self, doubt: Doubt) -> None:
        """Allow for as much time again, once, to find out."""
        if self.doubt is None:
            self.until = self._loop.time() + self._timeout_s
        self.doubt = doubt

    async def wait(self) -> bool:
        """Wait before the next try, if there is time for one."""
        self.failures += 1
        return await pause(self.failures, self.until)


class StreamWriter:
    """Appends at the leader."""

    def __init__(
        self, connection: Connection, places: Places, reader: StreamReader, timeout_s: float
    ) -> None:
        self._connection = connection
        self._places = places
        self._reader = reader
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(APPENDS_MAX)

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`."""
        written = await self._append(append)
        return Appended(written.place.version, written.position)

    async def append_to_tail(self, append: Append, *, must_exist: bool) -> Appended:
        """Append wherever the stream ends. A repeat is not recognised."""
        while True:
            version = (await self._reader.look(append.stream)).version
            if must_exist and version < 0:
                raise WrongExpectedVersion(append.stream, append.expected, version)
            try:
                return await self.append(append._replace(expected=ExpectedVersion(version)))
            except WrongExpectedVersion:
                continue  # somebody else was faster, and so there is another tail

    async def remove(self, removal: Removal) -> bool:
        """Whether this removed the stream."""
        end = NewEvent(uuid4(), REMOVED, b"{}", b"{}")
        append = Append(removal.stream, [end], ExpectedVersion(removal.version))
        try:
            last = (await self._append(append)).place.last
        except WrongExpectedVersion as conflict:
            if conflict.actual < 0 and (last := self._places.get(removal.stream).last) >= 0:
                # Who removed it may have died before the next step.
                await self._truncate(removal.stream, last)
            return False
        self._places.learn(removal.stream, Place(last + 1, last))
        await self._truncate(removal.stream, last)
        return True

    # --- where to

    async def _append(self, append: Append) -> _Written:
        patience = _Patience(self._timeout_s)
        stream, expected = append.stream, append.expected
        place = self._places.get(stream)
        if expected + place.base > place.last:
            place = await self._look(stream, patience)
        while (at := expected + place.base) <= place.last:
            base = place.base
            try:
                position = await self._write(append, at, base, patience)
            except Conflict:
                position = None
            if position is not None:
                place = Place(base, at + len(append.events))
                self._places.learn(stream, place)
                return _Written(place, position)
            place = await self._look(stream, patience)
            if place.base == base and place.last > at:
                break
            # Either it was removed meanwhile; or the event that was in the way cannot be read yet.
            if not await patience.wait():
                raise patience.doubt or NotWritten(
                    f"the server refuses an append to {stream!r} because of an event that cannot be "
                    "read yet; nothing was written. Try again."
                )
        raise WrongExpectedVersion(stream, expected, place.version)

    async def _look(self, stream: str, patience: _Patience) -> Place:
        try:
            return await self._reader.look(stream)
        except StoreUnavailable as error:
            if patience.doubt is not None:
                raise patience.doubt from error
            raise

    # --- one place

    async def _write(
        self, append: Append, at: int, base: int, patience: _Patience
    ) -> Position | None:
        """The position of the last event; None when all was there already, and is not any more.

        Raises Conflict, AppendOutcomeUnknown, StoreUnavailable, and what the server has against
        the append itself.
        """
        while True:
            try:
                answer = await self._send(append, at, base, patience)
                if answer.success.WhichOneof("position_option") == "position":
                    return Position(answer.success.position.commit_position)
                # It was there already, and its end cannot be shown.
                patience.doubts(doubt(append.stream, "it was appended before"))
                return await self._find(append, at, base, patience)
            except (Refused, StoreReadOnly, UsageError) as error:
                raise patience.doubt or error from error
            except Doubt as caught:
                patience.doubts(caught)
                position = await self._find(append, at, base, patience)
                if position is not None:
                    return position
                trouble: Exception = caught
            except StoreUnavailable as error:
                trouble = patience.doubt or error
            # The very same append may go out again: the server takes the two for one, by the ids.
            if not await patience.wait():
                raise trouble

    async def _send(self, append: Append, at: int, base: int, patience: _Patience) -> Any:
        async with self._slots:
            link = await self._connection.link(patience.left_s)
            timeout_s = patience.left_s
            request = append_request(
                append.stream, append.events, at=at, base=base, timeout_s=timeout_s
            )
            try:
                answer = await link.append(append.stream, request, timeout_s)
                if answer.WhichOneof("result") == "success":
                    return answer
                raise of_append(append.stream, answer.error)
            except (Doubt, NotWritten):
                self._connection.drop(link)
                raise

    async def _find(
        self, append: Append, at: int, base: int, patience: _Patience
    ) -> Position | None:
        """The position of the last event of an append in doubt, if it stands where it should."""
        count = len(append.events)
        try:
            found = await self._reader.page(append.stream, at + 1, count=count) or []
        except StoreUnavailable as error:
            raise patience.doubt or error from error
        if [read.record.id for read in found] != [event.id for event in append.events]:
            return None
        if found[0].number != at + 1 or found[0].base != base:
            return None
        return found[-1].record.position

    # --- hiding what was removed

    async def _truncate(self, stream: StreamName, before: int) -> None:
        """Let the server hide, and some time scavenge, all events before a number."""
        metadata_stream = StreamName(METADATA_PREFIX + stream)
        while True:
            page = await self._reader.page(metadata_stream, None, backwards=True, count=1)
            known, number = _metadata(page[0].record.data if page else b""), -1
            if page:
                number = page[0].number
            if known.get("$tb", 0) >= before:
                return
            data = json.dumps(known | {"$tb": before}).encode()
            append = Append(
                metadata_stream,
                [NewEvent(uuid4(), METADATA_TYPE, data, b"")],
                ExpectedVersion(number),
            )
            try:
                await self._write(append, number, 0, _Patience(self._timeout_s))
            except Conflict:
                continue  # somebody else changed it
            except AppendOutcomeUnknown as error:
                raise StoreUnavailable(
                    f"stream {stream!r} is removed, but its events may still be in the way of a "
                    "scavenge. Removing it again puts that right."
                ) from error
            return


def _metadata(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

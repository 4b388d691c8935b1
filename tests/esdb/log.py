"""The log of the protocol double: what was written, at which position, and who may read it.

Where the rules come from (EventStore/EventStore, src/EventStore.Core):

- Positions grow by the size of a record, so that they have gaps; an event of a committed append has
  one position for commit and prepare: LogRecords/PrepareLogRecord.cs, ReaderIndex/AllReader.cs.
- The last number of a stream, also of one that is deleted, and that the metadata stream of a
  tombstoned stream is tombstoned with it: ReaderIndex/IndexReader.cs.
- `$tb`, `$maxCount` and `$maxAge` (seconds) in the last event of `$$stream`: Data/StreamMetadata.cs.
  `$tb` of the largest number there is means "deleted"; metadata streams keep one event.
- Ids are remembered in a cache that is bounded and empty after a start: ReaderIndex/IndexWriter.cs.
- A scavenge removes what can no longer be read, but never the last event of a stream:
  documentation, "Scavenging".
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

#: The number of the event that ends a tombstoned stream, and the `$tb` of a soft-deleted one.
DELETED = 2**63 - 1
NO_STREAM = -1

METADATA_TYPE = "$metadata"
TOMBSTONE_TYPE = "$streamDeleted"

TICKS_PER_SECOND = 10_000_000
_RECORD_OVERHEAD = 92  # framing, flags, ids and times


class Proposed(NamedTuple):
    """An event as somebody wants it written."""

    id: UUID
    type: str
    data: bytes = b""
    metadata: bytes = b""
    is_json: bool = True

    @property
    def size(self) -> int:
        """What counts towards the limit of an append (Data/Event.cs, `SizeOnDisk`)."""
        return len(self.data) + len(self.metadata) + 2 * len(self.type)


@dataclass(slots=True)
class Record:
    """An event as it was written."""

    position: int
    stream: str
    number: int
    event: Proposed
    created: int  # ticks of 100 ns since 1970
    message: Any = None  # the reply that shows it, made once


class StreamMetadata(NamedTuple):
    """What a stream's metadata says about reading it."""

    truncate_before: int | None = None
    max_count: int | None = None
    max_age_s: float | None = None

    @classmethod
    def parse(cls, data: bytes) -> StreamMetadata:
        try:
            found = json.loads(data)
            return cls(found.get("$tb"), found.get("$maxCount"), found.get("$maxAge"))
        except (ValueError, AttributeError):
            return cls()  # as the server has it: what it cannot read is no metadata


def meta_stream(stream: str) -> str:
    return f"$${stream}"


def is_meta_stream(stream: str) -> bool:
    return stream.startswith("$$")


class Log:
    """Records in order, and per stream by number."""

    def __init__(self, *, ids_remembered: int = 1_000_000) -> None:
        self.records: list[Record] = []
        self.listeners: set[Callable[[], None]] = set()
        #: Called with the records of an append before anybody can read them.
        self.persist: Callable[[list[Record]], None] = lambda _: None
        self._streams: dict[str, dict[int, Record]] = {}
        self._last: dict[str, int] = {}
        self._written: OrderedDict[UUID, tuple[str, int]] = OrderedDict()
        self._ids_remembered = ids_remembered
        self._end = 0
        self._held_at: int | None = None
        self._was_scavenged = False

    # Writing

    def write(self, stream: str, first: int, events: Iterable[Proposed]) -> list[Record]:
        """Write events whose numbers begin at `first`. Nothing is checked."""
        created = time.time_ns() // 100
        records = []
        for number, event in enumerate(events, first):
            records.append(Record(self._end, stream, number, event, created))
            self._end += _RECORD_OVERHEAD + len(stream.encode()) + event.size
        self.load(records)
        self.persist(records)
        for listener in tuple(self.listeners):
            listener()
        return records

    def load(self, records: Iterable[Record]) -> None:
        """Take records as they are, in order: those just written, or those of an earlier run."""
        for record in records:
            self.records.append(record)
            self._streams.setdefault(record.stream, {})[record.number] = record
            self._last[record.stream] = record.number
            self._written[record.event.id] = (record.stream, record.number)
            end = record.position + _RECORD_OVERHEAD
            self._end = max(self._end, end + len(record.stream.encode()) + record.event.size)
        while len(self._written) > self._ids_remembered:
            self._written.popitem(last=False)

    def forget_ids(self) -> None:
        """As after a start of the server."""
        self._written.clear()

    def skip(self, size: int) -> None:
        """Leave a gap, as a record does that no reader ever sees."""
        self._end += size

    # What the writer knows: everything that was written

    def last_number(self, stream: str) -> int:
        if is_meta_stream(stream) and self._last.get(stream[2:]) == DELETED:
            return DELETED
        return self._last.get(stream, NO_STREAM)

    def written(self, id: UUID) -> tuple[str, int] | None:
        """Where an id was written, if that is still remembered."""
        return self._written.get(id)

    def prepared(self, stream: str, number: int) -> Record | None:
        """An event of a stream, whether or not it can still be read."""
        return self._streams.get(stream, {}).get(number)

    def raw_metadata(self, stream: str) -> bytes:
        name = meta_stream(stream)
        last = self.prepared(name, self._last.get(name, NO_STREAM))
        return last.event.data if last else b"{}"

    def metadata(self, stream: str) -> StreamMetadata:
        if is_meta_stream(stream):
            return StreamMetadata(max_count=1)
        return StreamMetadata.parse(self.raw_metadata(stream))

    def is_soft_deleted(self, stream: str) -> bool:
        return self.metadata(stream).truncate_before == DELETED

    # What readers know: what is committed in the cluster

    def hold(self) -> None:
        """Commit nothing more in the cluster: what is written from now on, nobody can read yet."""
        self._held_at = self._end

    def release(self) -> None:
        """Commit what was held."""
        self._held_at = None
        for listener in tuple(self.listeners):
            listener()

    def is_committed(self, record: Record) -> bool:
        return self._held_at is None or record.position < self._held_at

    @property
    def readable(self) -> int:
        """How many records can be read."""
        return len(self.records) if self._held_at is None else self.index_of(self._held_at)

    def index_of(self, position: int) -> int:
        """The index of the first record at a position or after it."""
        return bisect_left(self.records, position, key=attrgetter("position"))

    def is_position(self, position: int) -> bool:
        """Whether a record begins there or did before a scavenge, or one may begin there yet."""
        if self._was_scavenged or position == 0:
            return True
        index = self.index_of(position)
        if index == len(self.records):
            return position >= self._end
        return self.records[index].position == position

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self._end

    def readable_numbers(self, stream: str) -> range:
        """The numbers that a read of a stream may show, but for `$maxAge`."""
        last, metadata = self.last_number(stream), self.metadata(stream)
        first = max(
            0,
            metadata.truncate_before or 0,
            0 if metadata.max_count is None else last - metadata.max_count + 1,
        )
        return range(min(first, last + 1), last + 1)

    def is_visible(self, record: Record) -> bool:
        """Whether a read of its stream shows it."""
        max_age_s = self.metadata(record.stream).max_age_s
        young = (
            max_age_s is None
            or record.created >= time.time_ns() // 100 - max_age_s * TICKS_PER_SECOND
        )
        return young and self.is_committed(record)

    def scavenge(self) -> None:
        """Remove from the disk what no read of its stream shows any more."""
        kept = []
        for record in self.records:
            last = self.last_number(record.stream)
            keep = record.number == self._last[record.stream] or (
                last != DELETED
                and record.number in self.readable_numbers(record.stream)
                and self.is_visible(record)
            )
            if keep:
                kept.append(record)
            else:
                del self._streams[record.stream][record.number]
        self.records[:] = kept
        self._was_scavenged = True

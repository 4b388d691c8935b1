"""The chain: what is hashed of an event, and how records hang together.

    content = SHA-256(canonical JSON of what the store holds of the event)
    hash    = SHA-256(canonical JSON of [previous record's hash, content], both in hex)

Two hashes for each record, so that one can be shown without its event: whoever has `content` can
go on with the chain, and learns nothing of what happened.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from amends.domain.envelope import RecordedEvent
from amends.projections.audit.canonical import canonical, digest

#: What the first record has for the hash of a predecessor.
GENESIS: Final = bytes(32)


class Content(NamedTuple):
    """What a record says of its event. `data` and `metadata` are the SHA-256 of the bytes as they
    are stored, so that every byte counts, whatever JSON makes of it.
    """

    position: int
    stream: str
    version: int
    id: str
    type: str
    recorded_at: str
    data: bytes
    metadata: bytes

    @property
    def hash(self) -> bytes:
        """The `content` hash of the record."""
        fields = self._asdict() | {"data": self.data.hex(), "metadata": self.metadata.hex()}
        return digest(canonical(fields))


def content_of(record: RecordedEvent) -> Content:
    """What is to be on record of an event."""
    return Content(
        record.position, record.stream, record.version, str(record.id), record.type,
        moment_text(record.recorded_at), digest(stored(record.data)), digest(stored(record.metadata)),
    )  # fmt: skip


def stored(data: Any) -> bytes:
    """What a store gives back. Whoever edits a SQLite file by hand may leave text there."""
    return data if isinstance(data, bytes) else str(data).encode()


def moment_text(moment: datetime) -> str:
    """A moment as it is hashed: UTC, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def link(previous: bytes, content: bytes) -> bytes:
    """The hash of a record that follows another."""
    return digest(canonical([previous.hex(), content.hex()]))

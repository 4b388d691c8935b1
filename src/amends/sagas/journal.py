"""The journal: an instance's events between memory and the event store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from amends.domain import events as e
from amends.domain.envelope import (
    SCHEMA_VERSION,
    NewEvent,
    RecordedEvent,
    decode_metadata,
    encode_metadata,
)
from amends.errors import DecodeError, InvalidJournal, UnknownEventType, UnknownSchemaVersion

#: Schema version of the journal's own events.
JOURNAL_SCHEMA: Final = 1
#: Metadata of an emitted domain event: its place among the saga's decisions.
EMITTED_SEQ: Final = "seq"

_BY_NAME: Final = {cls.__name__: cls for cls in e.JOURNAL_EVENTS}
_HAS_OUR_SCHEMA: Final = re.compile(f'"{SCHEMA_VERSION}":{JOURNAL_SCHEMA}[,}}]'.encode()).search

RESERVED_TYPES: Final = frozenset(_BY_NAME)
"""Type names that a user's own events cannot have."""


def message_mark(message_id: UUID) -> int:
    """What the id of an event tells of the message that it came with."""
    return int.from_bytes(blake2b(message_id.bytes, digest_size=8).digest())


def marked_id(mark: int, fresh: int) -> UUID:
    """An event id that tells of a message, and is still nobody else's: were it the message's own,
    two engines that take the same turn would append the same ids, and the loser would take his
    append for done.
    """
    return UUID(int=mark << 64 | fresh & 0xFFFF_FFFF_FFFF_FFFF)


def mark_of(event_id: UUID) -> int:
    """The mark in an event id that has one."""
    return event_id.int >> 64


def encode_data(event: e.JournalEvent) -> bytes:
    """The JSON body of an event."""
    if isinstance(event, e.DomainEventEmitted):
        return to_json(event.data)
    # Defaults are left out: most fields of most events have theirs.
    return event.__pydantic_serializer__.to_json(event, exclude_defaults=True)


def encode_turn(
    events: Sequence[e.JournalEvent],
    bodies: Iterable[bytes],
    ids: Iterable[UUID],
    *,
    correlation_id: str,
    causation_id: str,
    trace_parent: str | None,
) -> list[NewEvent]:
    """The events of one turn, with their bodies, in the form in which a store takes them."""
    shared = encode_metadata(
        correlation_id=correlation_id,
        causation_id=causation_id,
        schema_version=JOURNAL_SCHEMA,
        trace_parent=trace_parent,
    )
    encoded = []
    for event, data, id in zip(events, bodies, ids, strict=False):
        if isinstance(event, e.DomainEventEmitted):
            own = encode_metadata(
                correlation_id=correlation_id,
                causation_id=causation_id,
                schema_version=event.schema_version,
                trace_parent=trace_parent,
                **{EMITTED_SEQ: event.seq},
            )
            encoded.append(NewEvent(id, event.type, data, own))
        else:
            encoded.append(NewEvent(id, type(event).__name__, data, shared))
    return encoded


def decode(record: RecordedEvent) -> e.JournalEvent:
    """One event of a journal.

    Raises UnknownSchemaVersion or UnknownEventType (written by a newer Amends) or DecodeError,
    which name the stream, the position and the type.
    """
    cls = _BY_NAME.get(record.type)
    try:
        if cls is None:
            return _decode_emitted(record)
        if not _HAS_OUR_SCHEMA(record.metadata):
            _check_schema(record)
        event: e.JournalEvent = cls.__pydantic_validator__.validate_json(record.data)
        return event
    except (ValidationError, ValueError) as error:
        raise DecodeError(
            f"this event of a journal cannot be read: {_faults(error)}",
            stream=record.stream,
            position=record.position,
            type=record.type,
        ) from None


def check_sequence(records: Sequence[RecordedEvent], *, first: int = 0) -> None:
    """Raise InvalidJournal unless the versions are first, first + 1, …: none missing or doubled."""
    for expected, record in enumerate(records, first):
        if record.version != expected:
            raise InvalidJournal(
                f"the journal {record.stream} has version {record.version} where {expected} "
                "must stand: events are missing, doubled or out of order. Nothing was run. "
                "Restore the event store from a backup"
            )


def _decode_emitted(record: RecordedEvent) -> e.DomainEventEmitted:
    metadata = decode_metadata(record)
    seq = metadata.get(EMITTED_SEQ)
    if not isinstance(seq, int):
        raise UnknownEventType(
            "neither a journal event that this version knows nor an emitted domain event",
            stream=record.stream,
            position=record.position,
            type=record.type,
        )
    return e.DomainEventEmitted(
        seq=seq,
        type=record.type,
        schema_version=metadata.get(SCHEMA_VERSION, 1),
        data=from_json(record.data),
    )


def _check_schema(record: RecordedEvent) -> None:
    version: Any = decode_metadata(record).get(SCHEMA_VERSION, JOURNAL_SCHEMA)
    if version != JOURNAL_SCHEMA:
        raise UnknownSchemaVersion(
            f"schema version {version}, and this version of Amends knows {JOURNAL_SCHEMA}: "
            "deploy the version that wrote it",
            stream=record.stream,
            position=record.position,
            type=record.type,
        )


def _faults(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "not JSON"
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['type']}"
        for fault in error.errors(include_input=False, include_url=False)
    )

"""The envelope of an event: what a store keeps around the JSON of the event itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from pydantic_core import from_json, to_json

from amends.domain.ids import Position, StreamName

CORRELATION_ID: Final = "$correlationId"
CAUSATION_ID: Final = "$causationId"
SCHEMA_VERSION: Final = "schema"
TRACE_PARENT: Final = "traceparent"


class NewEvent(NamedTuple):
    """An event on its way into a store.

    `data` and `metadata` are UTF-8 JSON objects. `id` makes a retried append recognisable.
    """

    id: UUID
    type: str
    data: bytes
    metadata: bytes


class RecordedEvent(NamedTuple):
    """An event as a store gives it back. `version` counts from 0 in its stream."""

    stream: StreamName
    version: int
    position: Position
    id: UUID
    type: str
    data: bytes
    metadata: bytes
    recorded_at: datetime


def encode_metadata(
    *,
    correlation_id: str,
    causation_id: str,
    schema_version: int = 1,
    trace_parent: str | None = None,
    **more: Any,
) -> bytes:
    """The metadata JSON of an event, by EventStoreDB's own conventions and W3C trace context."""
    fields: dict[str, Any] = {
        CORRELATION_ID: correlation_id,
        CAUSATION_ID: causation_id,
        SCHEMA_VERSION: schema_version,
        **more,
    }
    if trace_parent is not None:
        fields[TRACE_PARENT] = trace_parent
    return to_json(fields)


def decode_metadata(event: RecordedEvent) -> dict[str, Any]:
    """The metadata of an event as a dict; an event written by others may have none."""
    if not event.metadata:
        return {}
    fields = from_json(event.metadata)
    return fields if isinstance(fields, dict) else {}

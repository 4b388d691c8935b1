"""Putting engine messages into envelopes."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from amends.broker.port import Message
from amends.broker.topology import inbox_of
from amends.domain.ids import InstanceId
from amends.domain.messages import EngineMessage, encode_message


def message_id(instance: InstanceId, kind: str, seq: int = 0, attempt: int = 0) -> UUID:
    """The id of the one message of its kind about a step's attempt: deterministic, so that
    publishing it again is the same message to the broker.
    """
    text = f"{instance.saga}/{instance.id}\0{kind}\0{seq}\0{attempt}"
    return UUID(bytes=blake2b(text.encode(), digest_size=16).digest())


def to_inbox(
    message: EngineMessage,
    id: UUID,
    *,
    partitions: int,
    correlation_id: str,
    causation_id: str,
    trace_parent: str | None = None,
    due: datetime | None = None,
) -> Message:
    """A message to the inbox of the instance that it names."""
    instance = message.instance
    return Message(
        id,
        inbox_of(instance, partitions),
        type(message).__name__,
        f"{instance.saga}/{instance.id}",
        encode_message(message),
        correlation_id,
        causation_id,
        trace_parent,
        due,
    )

"""How messages look on the wire. Pure.

A *command*, and whatever is delayed, is one AMQP message: its body is the JSON of the message, its
AMQP type and message id are the message's own, and the rest stands in headers; people can read it
in RabbitMQ's own pages. It keeps a delivery count of its own, and goes to whichever consumer is
free.

Messages to inboxes travel in *parcels*, because there is one consumer who takes them all, and
what RabbitMQ and its clients do for each AMQP message is most of what a message costs. A parcel's
body is one line, a JSON list with an entry for each message, and the bodies behind it. It is
acknowledged when all of its messages are. It may come through another inbox than that of a message:
each says which is its own.

What cannot be understood is delivered all the same, as a message of a type that nobody knows, with
everything that it had, so that it is put aside with its way back and lost by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pydantic_core import from_json, to_json

from amends.broker.port import Message

#: What a parcel holds at most.
PARCEL_MESSAGES_MAX: Final = 64
PARCEL_BYTES_MAX: Final = 256 * 1024
#: The AMQP type of a parcel.
PARCEL: Final = "Parcel"
#: Of a message id: AMQP has room for 255, and a number is to stand behind it.
ID_BYTES_MAX: Final = 200

APP_ID: Final = "amends"
KEY: Final = "key"
CORRELATION: Final = "correlation"
CAUSATION: Final = "causation"
TRACE: Final = "traceparent"
DUE: Final = "due"
#: The queue that a message is for, if it came through another.
FOR: Final = "for"
#: Deliveries before this journey began.
EARLIER: Final = "amends-earlier-deliveries"
#: What a quorum queue counts: deliveries before this one that were not acknowledged.
DELIVERY_COUNT: Final = "x-delivery-count"

Properties = Basic.Properties

_PERSISTENT: Final = 2


class Post(NamedTuple):
    """An AMQP message on its way out."""

    body: bytes
    properties: Properties


class Arrived(NamedTuple):
    """One message of an AMQP message that arrived, and how often it was delivered, from 1."""

    message: Message
    count: int  # type: ignore[assignment] # as in `Delivery`


# --- out


def post(message: Message, *, at: datetime, earlier: int = 0, through: str | None = None) -> Post:
    """A message by itself. `earlier` is how often it was delivered before; `through` is the queue
    that it goes into, unless that is its own.
    """
    headers: dict[str, Any] = {
        KEY: message.key,
        CORRELATION: message.correlation_id,
        CAUSATION: message.causation_id,
    }
    if message.trace_parent is not None:
        headers[TRACE] = message.trace_parent
    if message.due is not None:
        headers[DUE] = message.due.isoformat()
    if earlier:
        headers[EARLIER] = earlier
    if through not in (None, message.queue):
        headers[FOR] = message.queue
    properties = _properties(message.type, str(message.id), at, headers)
    return Post(message.body, properties)


def parcel(messages: Sequence[Message], *, at: datetime, through: str) -> Post:
    """Several messages for inboxes, through one of them; one alone needs no wrapping."""
    if len(messages) == 1:
        return post(messages[0], at=at, through=through)
    index = to_json(
        [
            (
                str(message.id),
                message.type,
                message.key,
                message.correlation_id,
                message.causation_id,
                message.trace_parent,
                None if message.due is None else message.due.isoformat(),
                len(message.body),
                None if message.queue == through else message.queue,
            )
            for message in messages
        ]
    )
    body = b"".join((index, b"\n", *(message.body for message in messages)))
    properties = _properties(PARCEL, str(messages[0].id), at, {})
    properties.content_type = "application/octet-stream"
    return Post(body, properties)


def _properties(type: str, id: str, at: datetime, headers: dict[str, Any]) -> Properties:
    return Properties(
        content_type="application/json",
        delivery_mode=_PERSISTENT,
        message_id=id,
        message_type=type,
        timestamp=at,
        app_id=APP_ID,
        headers=headers,
    )


# --- in


def unpack(queue: str, delivered: DeliveredMessage) -> list[Arrived]:
    """The messages of what arrived from a queue with this logical name: at least one."""
    properties = delivered.header.properties
    headers = properties.headers or {}
    count = 1 + _earlier(headers, bool(delivered.redelivered))
    try:
        if properties.app_id != APP_ID:
            raise ValueError("somebody else's")
        if properties.message_type == PARCEL:
            return [Arrived(message, count) for message in _open(queue, delivered.body)]
        return [Arrived(_message(queue, properties, headers, delivered.body), count)]
    except Exception:
        # Whatever is wrong with it. If it were in nobody's hands, it would be acknowledged with those
        # that come after it.
        return [Arrived(_foreign(queue, properties, delivered.body), count)]


def earlier_deliveries(headers: dict[str, Any]) -> int:
    """How often a message was delivered before this journey began."""
    return _natural(headers.get(EARLIER)) or 0


def _earlier(headers: dict[str, Any], redelivered: bool) -> int:
    counted = _natural(headers.get(DELIVERY_COUNT))
    this_journey = int(redelivered) if counted is None else counted
    return earlier_deliveries(headers) + this_journey


def _natural(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _open(queue: str, body: bytes) -> Iterator[Message]:
    end = body.index(b"\n")
    place = end + 1
    index = from_json(body[:end])
    sizes = [entry[7] for entry in index]
    if not sizes or min(sizes) < 0 or place + sum(sizes) != len(body):
        raise ValueError("the index does not fit what follows")
    for id, type, key, correlation, causation, trace, due, size, own in index:
        part = body[place : place + size]
        to = queue if own is None else own
        yield _checked(to, id, type, key, part, correlation, causation, trace, due)
        place += size


def _message(queue: str, properties: Properties, headers: dict[str, Any], body: bytes) -> Message:
    return _checked(
        headers.get(FOR, queue),
        message_id_of(properties),
        properties.message_type or "",
        headers[KEY],
        body,
        headers[CORRELATION],
        headers[CAUSATION],
        headers.get(TRACE),
        headers.get(DUE),
    )


def _checked(
    queue: str,
    id: Any,
    type: Any,
    key: Any,
    body: bytes,
    correlation: Any,
    causation: Any,
    trace: Any,
    due: Any,
) -> Message:
    """A message of what should be its parts. Raises whatever one of them leads to that is not."""
    for text in (queue, type, key, correlation, causation, "" if trace is None else trace):
        if not isinstance(text, str):
            raise TypeError("not a text")
    when = None if due is None else datetime.fromisoformat(due)
    if when is not None and when.tzinfo is None:
        raise ValueError("nobody knows when that is")
    return Message(UUID(id), queue, type, key, body, correlation, causation, trace, when)


def message_id_of(properties: Properties) -> str:
    """The message's own id: on the wire, a number behind "#" tells copies apart. One that is
    too long for that, which is none of ours, is cut.
    """
    id = (properties.message_id or "").partition("#")[0]
    return id.encode()[:ID_BYTES_MAX].decode(errors="ignore")


def _foreign(queue: str, properties: Properties, body: bytes) -> Message:
    """A message whose sender is none of ours, or that was spoilt on the way."""
    name = message_id_of(properties)
    id = blake2b(f"{name}\0{queue}\0".encode() + body, digest_size=16).digest()
    type = f"foreign {properties.message_type or ''}".strip()
    return Message(UUID(bytes=id), queue, type, name, body, "", "")


def sent_at(properties: Properties) -> datetime | None:
    """When an AMQP message was published, by its sender's clock, to the second."""
    moment = properties.timestamp
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

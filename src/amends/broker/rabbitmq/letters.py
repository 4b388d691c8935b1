"""What a dead letter is: the AMQP message that it was, and a few headers that say why. Pure.

Those that RabbitMQ put aside by itself have its headers instead. What cannot be understood is a
letter all the same: nothing that somebody put into the queue may hide the others.
"""

from __future__ import annotations

import struct
from copy import copy
from datetime import UTC, datetime
from typing import Any, Final

from aiormq.abc import DeliveredMessage
from pamqp.encode import encode_table_value

from amends.broker.port import DeadLetter
from amends.broker.rabbitmq.delays import target_of
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.wire import (
    APP_ID,
    DELIVERY_COUNT,
    EARLIER,
    Post,
    Properties,
    earlier_deliveries,
    message_id_of,
    unpack,
)

QUEUE: Final = "amends-dead-queue"
REASON: Final = "amends-dead-reason"
DETAIL: Final = "amends-dead-detail"
DIED_AT: Final = "amends-dead-at"
DELIVERIES: Final = "amends-dead-deliveries"
_OURS: Final = (QUEUE, REASON, DETAIL, DIED_AT, DELIVERIES)

#: Properties and headers travel in one AMQP frame, of 128 KiB; that is for the original's.
DETAIL_BYTES_MAX: Final = 16 * 1024
HEADER_BYTES_MAX: Final = 120 * 1024

#: Of what was due while its queue, or the way to it, was not there.
NO_QUEUE: Final = "no such queue"

#: What RabbitMQ says of what it puts aside by itself, in our words.
_REASONS: Final = {
    "delivery_limit": "delivered too often",
    "rejected": "rejected",
    "expired": "expired in its queue",
    "maxlen": "its queue was full",
}


def to_dead(
    mail: Post, *, queue: str, reason: str, detail: str, deliveries: int, now: datetime
) -> Post:
    """The AMQP message of a dead letter. A long detail is cut."""
    properties = copy(mail.properties)
    # It must not expire here, and only its sender may send in its sender's name.
    properties.expiration = properties.user_id = None
    ours: dict[str, Any] = {
        QUEUE: queue,
        REASON: reason,
        DETAIL: _cut(detail),
        DIED_AT: now.isoformat(),
        DELIVERIES: deliveries,
    }
    headers = {name: _sendable(value) for name, value in (properties.headers or {}).items()}
    properties.headers = {**headers, **ours}
    if len(properties.marshal()) > HEADER_BYTES_MAX:
        dropped = f"its {len(headers)} headers did not fit beside this, and were dropped. {detail}"
        properties.headers = {**ours, DETAIL: _cut(dropped)}
    return Post(mail.body, properties)


def read_letter(raw: DeliveredMessage, names: Names, *, deliveries_max: int) -> DeadLetter:
    """The letter that an AMQP message in the queue of dead letters is. `deliveries_max` is after
    how many RabbitMQ puts a command aside.
    """
    headers = raw.header.properties.headers or {}
    return _put_aside_by_us(raw, headers) or _put_aside_by_the_server(
        raw, headers, names, deliveries_max
    )


def revived(properties: Properties) -> Properties:
    """As it was before it died. Its deliveries are counted anew, but for one: see `Broker.redrive`."""
    alive = copy(properties)
    headers = {
        name: value
        for name, value in (properties.headers or {}).items()
        if name not in (*_OURS, EARLIER, DELIVERY_COUNT)
        and not name.startswith(("x-death", "x-first-death", "x-last-death"))
    }
    if properties.app_id == APP_ID:
        headers[EARLIER] = 1
    alive.headers = headers
    alive.message_id = message_id_of(properties) or None
    return alive


def _sendable(value: Any) -> Any:
    """The client library reads more than it can send."""
    if isinstance(value, bytes):
        return bytearray(value)
    if isinstance(value, list):
        return [_sendable(item) for item in value]
    if isinstance(value, dict):
        return {name: _sendable(item) for name, item in value.items()}
    try:
        encode_table_value(value)
    except (ArithmeticError, TypeError, ValueError, struct.error):
        return str(value)
    return value


def _cut(detail: str) -> str:
    encoded = detail.encode(errors="backslashreplace")
    if len(encoded) <= DETAIL_BYTES_MAX:
        return encoded.decode()
    return encoded[:DETAIL_BYTES_MAX].decode(errors="ignore") + " … (cut)"


def _put_aside_by_us(raw: DeliveredMessage, headers: dict[str, Any]) -> DeadLetter | None:
    queue, reason, detail, died_at, deliveries = (headers.get(name) for name in _OURS)
    texts = queue, reason, detail, died_at
    if not all(isinstance(text, str) for text in texts) or not isinstance(deliveries, int):
        return None
    (message, _), *_ = unpack(str(queue), raw)
    return DeadLetter(message, str(reason), str(detail), _moment(died_at), deliveries)


def _put_aside_by_the_server(
    raw: DeliveredMessage, headers: dict[str, Any], names: Names, deliveries_max: int
) -> DeadLetter:
    death = _last_death(headers)
    deliveries = earlier_deliveries(headers)
    physical = str(death.get("queue", ""))
    if names.is_delay(physical):
        queue = target_of(raw.routing_key or "")
        reason, told = NO_QUEUE, "its queue was gone when it was due"
    else:
        queue = names.logical(physical) or physical
        told = str(death.get("reason", "nobody said why"))
        reason = _REASONS.get(told, told)
        deliveries += deliveries_max if told == "delivery_limit" else 0
    (message, _), *others = unpack(queue, raw)
    detail = f"RabbitMQ put it aside by itself: {told}"
    if others:
        detail += f". It is a parcel, with {len(others)} more, which share its fate"
    return DeadLetter(message, reason, detail, _moment(death.get("time")), deliveries)


def _last_death(headers: dict[str, Any]) -> dict[str, Any]:
    """What RabbitMQ wrote down last; before that, it may have been delayed."""
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    return last if isinstance(last, dict) else {}


def _moment(told: object) -> datetime:
    """When it died; at the beginning of time if nobody knows."""
    if isinstance(told, str):
        try:
            told = datetime.fromisoformat(told)
        except ValueError:
            told = None
    if not isinstance(told, datetime):
        return datetime.fromtimestamp(0, UTC)
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)

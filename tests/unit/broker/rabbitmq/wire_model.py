"""What is posted, as it arrives: through the client library's own encoder and decoder."""

from __future__ import annotations

from typing import Any, cast

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from amends.broker.rabbitmq.wire import Post


def arrived(mail: Post, *, redelivered: bool = False, **headers: Any) -> DeliveredMessage:
    """A post at its consumer; `headers` are those that the server adds."""
    sent = ContentHeader(body_size=len(mail.body), properties=mail.properties).marshal()
    return delivered(sent, mail.body, redelivered=redelivered, **headers)


def delivered(
    sent: bytes, body: bytes, *, redelivered: bool = False, exchange: str = "", **headers: Any
) -> DeliveredMessage:
    """What arrives of an AMQP header in bytes and a body."""
    header = ContentHeader()
    header.unmarshal(sent)
    properties = header.properties
    if headers:
        properties.headers = {**(properties.headers or {}), **headers}
    return DeliveredMessage(
        Basic.Deliver("ctag", 1, redelivered, exchange, "key"), header, body, cast(Any, None)
    )

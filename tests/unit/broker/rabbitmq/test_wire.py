"""What is posted or parcelled arrives as it was, and whatever else arrives is one message."""

from __future__ import annotations

import string
import struct
from copy import copy
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from amends.broker.port import Message
from amends.broker.rabbitmq.unreadable import UNREADABLE, read_anything
from amends.broker.rabbitmq.wire import (
    APP_ID,
    CAUSATION,
    CORRELATION,
    DELIVERY_COUNT,
    DUE,
    EARLIER,
    FOR,
    KEY,
    PARCEL,
    TRACE,
    Post,
    Properties,
    parcel,
    post,
    sent_at,
    unpack,
)
from amends.domain.messages import decode_message
from amends.errors import InvalidMessage
from tests.unit.broker.rabbitmq.wire_model import arrived, delivered

quick = settings(max_examples=100, deadline=None, derandomize=True)

read_anything()

QUEUE = "inbox.0"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

#: Its UTF-8 fits what AMQP calls a short string.
types = st.text(max_size=60).filter(lambda type: type != PARCEL)
texts = st.text(max_size=40)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(datetime(1900, 1, 1), datetime(9990, 1, 1), timezones=offsets)  # noqa: DTZ001 - hypothesis adds the zone
messages = st.builds(
    Message,
    id=st.uuids(),
    queue=st.just(QUEUE),
    type=types,
    key=texts,
    body=st.binary(max_size=100),
    correlation_id=texts,
    causation_id=texts,
    trace_parent=st.none() | texts,
    due=st.none() | moments,
)
to_inboxes = st.builds(Message._replace, messages, queue=st.sampled_from([QUEUE, "inbox.1"]))
#: Whatever may stand in a header, or in JSON.
scalars: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(width=32) | st.text()
)
garbage: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=20), inner, max_size=4)
    ),
    max_leaves=10,
)


# --- what is ours


@quick
@given(messages, st.integers(0, 1000))
def test_a_message_arrives_as_it_was(message: Message, earlier: int) -> None:
    ((came, count),) = unpack(QUEUE, arrived(post(message, at=NOW, earlier=earlier)))
    assert came == message
    assert count == earlier + 1


@quick
@given(st.lists(to_inboxes, min_size=1, max_size=8))
def test_a_parcel_arrives_as_it_was(sent: list[Message]) -> None:
    came = unpack(QUEUE, arrived(parcel(sent, at=NOW, through=QUEUE)))
    assert [message for message, _ in came] == sent
    assert {count for _, count in came} == {1}


@pytest.mark.parametrize(
    ("headers", "redelivered", "count"),
    [
        ({}, False, 1),
        ({}, True, 2),
        ({DELIVERY_COUNT: 0}, True, 1),
        ({DELIVERY_COUNT: 7}, True, 8),
        ({EARLIER: 3}, False, 4),
        ({EARLIER: 3, DELIVERY_COUNT: 7}, True, 11),
        ({EARLIER: -3, DELIVERY_COUNT: -7}, False, 1),
        ({EARLIER: "3", DELIVERY_COUNT: [7]}, True, 2),
    ],
)
def test_deliveries_are_counted(headers: dict[str, Any], redelivered: bool, count: int) -> None:
    mail = parcel([new_message(), new_message()], at=NOW, through=QUEUE)
    came = unpack(QUEUE, arrived(mail, redelivered=redelivered, **headers))
    assert [each.count for each in came] == [count, count]


def test_copies_in_flight_are_told_apart_by_what_is_behind_the_id() -> None:
    message = new_message()
    mail = post(message, at=NOW)
    mail.properties.message_id = f"{message.id}#17"
    assert unpack(QUEUE, arrived(mail))[0].message == message


def test_when_it_was_sent_is_known_to_the_second() -> None:
    at = datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC)
    properties = arrived(post(new_message(), at=at)).header.properties
    assert sent_at(properties) == at.replace(microsecond=0)
    assert sent_at(Properties()) is None
    assert sent_at(Properties(timestamp=datetime(2026, 1, 1))) == NOW  # noqa: DTZ001 - as a library may hand it over


# --- what is not


@quick
@given(st.binary(max_size=200))
def test_any_body_is_one_message_at_least(body: bytes) -> None:
    """As a message of somebody else's, as one of ours, and as a parcel."""
    headers: dict[str, Any] = {KEY: "", CORRELATION: "", CAUSATION: ""}
    ours = Properties(app_id=APP_ID, message_id=str(uuid4()), message_type="T", headers=headers)
    assert one(Post(body, ours)).body == body
    assert_foreign(Post(body, Properties()))
    assert unpack(QUEUE, arrived(Post(body, Properties(app_id=APP_ID, message_type=PARCEL))))


@quick
@given(garbage, st.binary(max_size=50))
def test_a_parcel_with_any_index_is_one_message(index: Any, rest: bytes) -> None:
    body = to_json(index, inf_nan_mode="constants") + b"\n" + rest
    assert_foreign(Post(body, Properties(app_id=APP_ID, message_type=PARCEL)))


@quick
@given(st.integers(0, 8), garbage)
def test_a_parcel_with_anything_in_its_index_is_no_error(field: int, value: Any) -> None:
    """It may be right by chance: a key is any text."""
    mail = parcel([new_message(), new_message()], at=NOW, through=QUEUE)
    end = mail.body.index(b"\n")
    index = from_json(mail.body[:end])
    index[1][field] = value
    body = to_json(index, inf_nan_mode="constants") + mail.body[end:]
    for message, _ in unpack(QUEUE, arrived(Post(body, mail.properties))):
        assert_usable(message)


@pytest.mark.parametrize(
    "index",
    [
        b"[]",
        b"{}",
        b"[[]]",
        b'["12345678"]',
        b'[["00000000-0000-0000-0000-000000000000","T","k","","",null,null,6,null]]',
        b'[["00000000-0000-0000-0000-000000000000","T","k","","",null,null,5,null,1]]',
        b'[["00000000-0000-0000-0000-000000000000","T","k","","",null,null,7,null],'
        b'["00000000-0000-0000-0000-000000000000","T","k","","",null,null,-2,null]]',
        b'[["no id","T","k","","",null,null,5,null]]',
        b'[["00000000-0000-0000-0000-000000000000","T","k","","",null,"2026-01-01",5,null]]',
        b'[["00000000-0000-0000-0000-000000000000","T","k","","",null,"2026-01-01T00:00:00",5,null]]',
    ],
)
def test_a_parcel_that_is_broken_is_one_message(index: bytes) -> None:
    assert_foreign(Post(index + b"\n" + b"12345", Properties(app_id=APP_ID, message_type=PARCEL)))


@quick
@given(
    st.sampled_from([KEY, CORRELATION, CAUSATION, TRACE, DUE, EARLIER, DELIVERY_COUNT, FOR]),
    garbage,
)
def test_anything_in_a_header_is_no_error(name: str, value: Any) -> None:
    mail = post(new_message(), at=NOW)
    mail.properties.headers = {**(mail.properties.headers or {}), name: value}
    ((message, count),) = unpack(QUEUE, arrived(mail))
    assert_usable(message)
    assert count >= 1


@pytest.mark.parametrize("name", [KEY, CORRELATION, CAUSATION])
def test_without_a_header_it_is_not_ours(name: str) -> None:
    mail = post(new_message(), at=NOW)
    mail.properties.headers = {
        k: v for k, v in (mail.properties.headers or {}).items() if k != name
    }
    assert_foreign(mail)


@pytest.mark.parametrize("name", [KEY, CORRELATION, CAUSATION, TRACE])
@pytest.mark.parametrize("value", [7, None, bytearray(b"\xff"), ["a"], {"a": 1}, Decimal("1.5")])
def test_what_is_no_text_is_not_ours(name: str, value: Any) -> None:
    if (name, value) == (TRACE, None):
        return
    mail = post(new_message(), at=NOW)
    mail.properties.headers = {**(mail.properties.headers or {}), name: value}
    assert_foreign(mail)


@pytest.mark.parametrize("id", ["", "17", "#17", "no-uuid", None])
def test_without_an_id_it_is_not_ours(id: str | None) -> None:
    mail = post(new_message(), at=NOW)
    mail.properties.message_id = id
    assert_foreign(mail)


def test_a_parcel_of_somebody_elses_is_not_ours() -> None:
    mail = parcel([new_message(), new_message()], at=NOW, through=QUEUE)
    mail.properties.app_id = "another"
    assert_foreign(mail)


@quick
@given(st.text(string.printable, max_size=40), st.text(max_size=40), st.binary(max_size=100))
def test_the_id_of_somebody_elses_message_never_changes(name: str, type: str, body: bytes) -> None:
    """The publisher puts a number behind it whenever it is put aside and redriven."""
    theirs = Post(body, Properties(message_id=name, message_type=type))
    first = one(theirs)
    for number in (3, 4711):
        again = copy(theirs.properties)
        again.message_id = f"{name.partition('#')[0]}#{number}"
        assert one(Post(body, again)).id == first.id
    assert unpack("inbox.1", arrived(theirs))[0].message.id != first.id
    assert one(Post(body + b"!", theirs.properties)).id != first.id


def test_what_somebody_else_says_of_it_is_kept_for_people() -> None:
    theirs = Properties(message_id="order-17#2", message_type="OrderPlaced")
    message = one(Post(b"<order/>", theirs))
    assert (message.type, message.key, message.body) == (
        "foreign OrderPlaced", "order-17", b"<order/>",
    )  # fmt: skip


# --- what the client library cannot read

UNREADABLES = {
    "a time in nanoseconds": (1 << 6, struct.pack(">Q", 1_790_000_000_000_000_000)),
    "a time in microseconds": (1 << 6, struct.pack(">Q", 1_790_000_000_000_000)),
    "the last time there is": (1 << 6, b"\xff" * 8),
    "an id in Latin-1": (1 << 7, b"\x04caf\xe9"),
    "a header's name in Latin-1": (1 << 13, b"\x00\x00\x00\x0a\x04caf\xe9S\x00\x00\x00\x00"),
    "a header of an unknown type": (1 << 13, b"\x00\x00\x00\x03\x01aZ"),
    "a header with such a time": (1 << 13, b"\x00\x00\x00\x0b\x01aT" + b"\x7f" * 8),
    "headers that end too early": (1 << 13, b"\x00\x00\x00\x7f\x01a"),
}


@pytest.mark.parametrize(("flag", "value"), UNREADABLES.values(), ids=UNREADABLES.keys())
def test_what_the_library_cannot_read_is_a_message_too(flag: int, value: bytes) -> None:
    raw = struct.pack(">H", flag) + value
    came = delivered(struct.pack(">HxxQ", 60, 2) + raw, b"{}")
    ((message, count),) = unpack(QUEUE, came)
    assert (message.type, message.body, count) == ("foreign", b"{}", 1)
    headers = came.header.properties.headers
    assert headers == {UNREADABLE: raw}
    assert_foreign(Post(b"{}", came.header.properties))  # it can be sent on


def test_a_header_that_is_none_is_an_error_still() -> None:
    with pytest.raises((ValueError, struct.error)):
        delivered(b"\x00\x3c\x00", b"")


# --- helpers


def new_message() -> Message:
    return Message(uuid4(), QUEUE, "RunStep", "transfer/1", b"12345", "correlation", "causation")


def one(mail: Post) -> Message:
    ((message, _),) = unpack(QUEUE, arrived(mail))
    return message


def assert_foreign(mail: Post) -> None:
    message = one(mail)
    assert message.body == mail.body
    assert_usable(message)
    with pytest.raises(InvalidMessage):
        decode_message(message.type, message.body)


def assert_usable(message: Message) -> None:
    assert isinstance(message.id, UUID)
    assert isinstance(message.body, bytes)
    texts = (message.queue, message.type, message.key, message.correlation_id, message.causation_id)
    assert all(isinstance(text, str) for text in texts)
    assert isinstance(message.trace_parent, str | None)
    assert message.due is None or message.due.tzinfo is not None

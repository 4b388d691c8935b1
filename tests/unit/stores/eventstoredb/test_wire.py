"""How events and requests look on the wire: everything comes back, and every filter is one anchored
expression.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from amends.domain.envelope import NewEvent
from amends.domain.ids import NO_STREAM, StreamName
from amends.errors import NotAnAmendsStore, PayloadTooLarge, UsageError
from amends.stores.eventstoredb import wire
from amends.stores.eventstoredb.client import streams
from amends.stores.port import Append, EventFilter
from amends.testing.contracts.data import new_event
from tests.esdb import replies
from tests.esdb.filters import matcher
from tests.esdb.log import Proposed, Record

quick = settings(max_examples=300, deadline=None, derandomize=True)
objects = st.dictionaries(st.text(max_size=5), st.none() | st.text(max_size=5), max_size=3)
STREAM = StreamName("saga.transfer-1")


def message_of(event: NewEvent, base: int) -> Any:
    request = wire.append_request(STREAM, [event], at=base, base=base, timeout_s=2.5)
    return request.proposed_messages[0]


def as_read(event: NewEvent, *, number: int, base: int = 0, position: int = 100) -> wire.Read:
    """The event as it comes back from a server."""
    message = message_of(event, base)
    proposed = Proposed(
        UUID(message.id.string), message.metadata["type"], message.data, message.custom_metadata
    )
    record = Record(position, STREAM, number, proposed, 17_000_000_000_000_005)
    return wire.read_event(replies.recorded(record).event)


@quick
@given(objects.map(to_json) | st.just(b"") | st.just(b"{ }"), st.integers(0, 10**12))
@example(b"{}", 1)
def test_metadata_comes_back_whatever_life_of_the_stream_it_is_in(
    metadata: bytes, base: int
) -> None:
    event = NewEvent(uuid4(), "Paid", b"{}", metadata)
    written = message_of(event, base).custom_metadata
    if written:
        assert isinstance(from_json(written), dict), "a projection could not read it"
    read = as_read(event, number=base + 3, base=base)
    assert (read.record.metadata, read.base, read.number) == (metadata, base, base + 3)
    assert read.record.version == 3


def test_an_event_of_a_first_life_is_written_as_it_is() -> None:
    event = new_event("Paid", b'{"a":1}', b'{"$correlationId":"c"}')
    request = wire.append_request(STREAM, [event], at=-1, base=0, timeout_s=2.5)
    assert request.options.WhichOneof("expected_stream_position") == "no_stream"
    assert (request.options.deadline.seconds, request.options.deadline.nanos) == (2, 500_000_000)
    (message,) = request.proposed_messages
    assert dict(message.metadata) == {"type": "Paid", "content-type": "application/json"}
    assert (message.data, message.custom_metadata) == (event.data, event.metadata)
    record = as_read(event, number=0).record
    assert record.recorded_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert record.id == event.id


def test_a_server_that_tells_no_positions_is_too_old() -> None:
    with pytest.raises(NotAnAmendsStore, match=r"22\.10"):
        as_read(new_event(), number=0, position=2**64 - 1)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (new_event("$metadata"), "cannot be an event's type"),
        (new_event(wire.REMOVED), "cannot be an event's type"),
        (new_event(metadata=b"[]"), "no JSON object"),
        (new_event(metadata=b'{"streamBase":1}'), "no JSON object"),
    ],
)
def test_what_could_not_come_back_is_refused(event: NewEvent, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        wire.check_events(Append(STREAM, [new_event(), event], NO_STREAM))


def test_an_append_is_as_large_as_the_server_counts_it() -> None:
    full = new_event("ab", b"x" * (wire.APPEND_BYTES_MAX - 6), b"{}")
    wire.check_events(Append(STREAM, [full], NO_STREAM))
    for more in (
        [full._replace(data=full.data + b"x")],
        [full._replace(metadata=b"{ }")],
        [full._replace(type="abc")],
        [full, new_event("", b"x", b"")],
    ):
        with pytest.raises(PayloadTooLarge, match="nothing was written"):
            wire.check_events(Append(STREAM, more, NO_STREAM))


# --- filters

names = st.sampled_from(["saga.", "saga.a-", "saga.b-1", "sagaxa-1", "$saga.a-1", "a|b", "a.*", ""])
types = st.sampled_from(["A", "AB", "B", "a", "A|B", "A.B", "AxB", "A B", "ž(", "$x", wire.REMOVED])


@quick
@given(
    st.builds(
        EventFilter,
        st.lists(names, max_size=3).map(tuple),
        st.lists(types, max_size=3).map(tuple),
    ),
    names,
    types,
)
def test_the_server_and_we_together_let_pass_what_the_filter_does(
    filter: EventFilter, stream: str, type: str
) -> None:
    record = Record(1, stream, 0, Proposed(uuid4(), type, b"{}", b""), 10)
    request = wire.log_request(None, filter)
    passes = matcher(request.options)(record)
    ours = wire.read_event(replies.recorded(record).event).record
    own = stream.startswith("$") or type.startswith("$") or type == wire.REMOVED
    assert (passes and wire.is_wanted(ours, filter)) == (filter.matches(stream, type) and not own)


@pytest.mark.parametrize(
    ("filter", "by_stream", "expression"),
    [
        (EventFilter(), False, r"^(?!(?:\$.*|PersistentConfig\d+|AmendsStreamRemoved)$)"),
        (EventFilter(("saga.", "a-")), True, r"^(?:saga\.|a\-)"),
        (EventFilter((), ("A", "B.C")), False, r"^(?:A|B\.C)$"),
        (EventFilter(("saga.",), ("A",)), False, "^(?:A)$"),
    ],
)
def test_a_filter_is_one_anchored_expression(
    filter: EventFilter, by_stream: bool, expression: str
) -> None:
    assert wire.server_filter(filter) == (by_stream, expression)
    re.compile(expression)


def test_what_the_server_writes_outside_its_own_streams_does_not_pass() -> None:
    _, expression = wire.server_filter(EventFilter())
    assert re.match(expression, "PersistentConfig1") is None
    assert re.match(expression, "PersistentConfig") is not None


def test_a_log_request_names_its_place() -> None:
    directions = streams.ReadReq.Options
    forwards = wire.log_request(7, EventFilter(), count=5).options
    assert forwards.all.position.commit_position == forwards.all.position.prepare_position == 7
    assert (forwards.read_direction, forwards.count) == (directions.Forwards, 5)
    backwards = wire.log_request(None, EventFilter(), backwards=True, count=5).options
    assert backwards.all.WhichOneof("all_option") == "end"
    assert backwards.read_direction == directions.Backwards
    subscription = wire.log_request(None, EventFilter()).options
    assert subscription.all.WhichOneof("all_option") == "start"
    assert subscription.WhichOneof("count_option") == "subscription"

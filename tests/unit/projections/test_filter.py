"""Filters over instances: what they mean, and what is said of those that cannot be read."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from amends.domain import events as e
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import InstanceId, Position
from amends.errors import InvalidFilter
from amends.projections.builtin.columns import after_prefix
from amends.projections.filter import parse_filter
from amends.projections.sagas import SagaSummary, fields_of

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def summary(
    input: Any = None, *, saga: str = "pay", id: str = "p-1", hours: int = 2
) -> SagaSummary:
    """An instance that was started so many hours ago, and runs since."""
    instance = InstanceId(saga, id)
    at = NOW - timedelta(hours=hours)
    event = e.SagaStarted(at=at, saga=saga, id=id, input=input)
    made = SagaSummary(instance)
    made.take(
        [
            RecordedEvent(
                instance.stream, 0, Position(1), uuid4(), "SagaStarted", to_json(event),
                b'{"schema":1}', at,
            )
        ]
    )  # fmt: skip
    assert made.fault is None
    return made


PAYMENT = {"payer": "DE89 12", "memo": 'rent, "May"', "amount": 5, "urgent": True, "to": {"a": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "state:running",
        "state:parked,running",
        "state:run*",
        "saga:pay id:p-1",
        "saga:p* id:p-*",
        "older:1h newer:3h idle:1h",
        'payer:"DE89 12"',
        "payer:DE89*",
        r'memo:"rent, \"May\""',
        "amount:5 urgent:true",
        "input.payer:DE*",
        'payer:"x","DE89 12"',
    ],
)
def test_what_fits(text: str) -> None:
    assert parse_filter(text).fits(summary(PAYMENT), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "state:parked",
        "saga:transfer",
        "id:p",
        "older:3h",
        "newer:1h",
        "idle:1d",
        "payer:DE89",
        'payer:"DE89*"',
        "amount:50",
        "step:withdraw",
        "error:Refused",
        "to:1",
        "state:running saga:other",
    ],
)
def test_what_does_not_fit(text: str) -> None:
    assert not parse_filter(text).fits(summary(PAYMENT), NOW)


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ("parked", "write name:value", 0),
        ("saga:pay :x", "write name:value", 9),
        ("saga:pay state:", "a value is missing here", 15),
        ("saga: pay", "a value is missing here", 5),
        ("saga:pay,", "a value is missing here", 9),
        ('memo:"rent', "this quote has no end", 5),
        ('memo:"rent"May', "a blank is missing here", 11),
        ("saga:pay state:waiting", "there is no state 'waiting'; there are running,", 15),
        ("state:parked,lost", "there is no state 'lost'", 13),
        ("older:1x", "'1x' is no span of time", 6),
        ("older:1h,2h", "'older' takes one span of time", 9),
        ("saga:a saga:b", "'saga' stands there twice", 7),
    ],
)
def test_what_cannot_be_read_is_pointed_at(text: str, what: str, place: int) -> None:
    with pytest.raises(InvalidFilter, match="the filter cannot be read") as caught:
        parse_filter(text)
    said, shown, arrow = str(caught.value).split("\n")
    assert what in said
    assert shown == f"  {text}"
    assert arrow.index("^") - 2 == place


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidFilter):
        parse_filter(text)


@given(st.text())
def test_a_quoted_value_is_that_value(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    (field,) = parse_filter(f'name:"{quoted}"').fields
    assert field.values[0].fits(value)


def test_a_value_that_no_instance_has_is_pointed_at() -> None:
    filter = parse_filter("state:parked stat:parked")
    with pytest.raises(InvalidFilter, match="no instance has a value 'stat' in its input"):
        raise filter.unknown(filter.fields[0])


def test_the_values_of_an_input() -> None:
    assert fields_of(PAYMENT) == {
        "payer": "DE89 12", "memo": 'rent, "May"', "amount": "5", "urgent": "true",
    }  # fmt: skip
    assert fields_of(3) == {"input": "3"}
    assert fields_of(None) == {}
    assert fields_of([1]) == {}
    assert fields_of({"long": "x" * 200}) == {}
    assert len(fields_of({str(n): n for n in range(100)})) == 16


@given(st.text(), st.text(st.characters(max_codepoint=0x10FFFE)))
def test_a_prefix_is_a_range(prefix: str, rest: str) -> None:
    """As databases compare text that they sort by its characters."""
    assert prefix <= prefix + rest < after_prefix(prefix)


@given(st.text(), st.text())
def test_what_is_in_the_range_has_the_prefix(prefix: str, other: str) -> None:
    assert other.startswith(prefix) or not prefix <= other < after_prefix(prefix)

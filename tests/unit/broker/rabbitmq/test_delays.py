"""Whatever the delay, a message is held for just that long and reaches its queue alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amends.broker.rabbitmq.delays import (
    DELAY_MAX,
    EARLY_MAX,
    LEVELS,
    UNIT,
    Route,
    delivery_pattern,
    is_early,
    levels,
    route,
    target_of,
)
from amends.broker.rabbitmq.names import Names
from amends.sagas import intake
from tests.unit.broker.rabbitmq.topic_model import Parked, TopicModel, matches

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NAMES = Names("amends")
#: Each could be taken for another by a pattern that is not exact.
QUEUES = ["inbox.0", "commands.inbox.0", "commands.0", "commands.0.0", "commands.1.inbox.0", "a"]

quick = settings(max_examples=100, deadline=None, derandomize=True)
model = TopicModel(NAMES, QUEUES)
queues = st.sampled_from(QUEUES)
#: As many short ones as long ones: by the number of their bits.
delays = (
    st.timedeltas(MICROSECOND, DELAY_MAX)
    | st.tuples(st.integers(0, LEVELS - 1), st.floats(1, 2)).map(
        lambda drawn: min(DELAY_MAX, UNIT * (2 ** drawn[0] * drawn[1]))
    )
    | st.integers(1, 2**LEVELS - 1).map(lambda units: UNIT * units)
)


def park(delay: timedelta, queue: str, *, now: datetime = NOW) -> Parked:
    way = route(now + delay, now, queue)
    assert way is not None
    return model.publish(NAMES.delay(way.level), way.routing_key)


@quick
@given(delays, queues)
@example(timedelta(milliseconds=1), "inbox.0")
@example(UNIT, "inbox.0")
@example(UNIT + MICROSECOND, "inbox.0")
@example(DELAY_MAX - MICROSECOND, "inbox.0")
@example(DELAY_MAX, "inbox.0")
def test_a_message_is_held_until_the_next_unit_and_reaches_its_queue_alone(
    delay: timedelta, queue: str
) -> None:
    parked = park(delay, queue)
    held = timedelta(milliseconds=parked.held_ms)
    assert held % UNIT == timedelta()
    assert delay <= held < delay + UNIT
    assert parked.arrived == [NAMES.queue(queue)]


@quick
@given(delays, queues)
def test_it_waits_at_each_level_once_at_most(delay: timedelta, queue: str) -> None:
    visited = park(delay, queue).visited
    assert len(set(visited)) == len(visited)


@quick
@given(delays, queues)
def test_it_enters_where_it_has_to_wait(delay: timedelta, queue: str) -> None:
    way = route(NOW + delay, NOW, queue)
    assert way is not None
    assert park(delay, queue).visited[0] == NAMES.delay(way.level)


def test_a_day_takes_a_few_levels() -> None:
    parked = park(timedelta(days=1), "inbox.0")
    assert parked.visited == [NAMES.delay(n) for n in (19, 17, 15, 11, 10)]


@quick
@given(st.timedeltas(timedelta(days=-10_000), timedelta()))
def test_what_is_due_is_not_delayed(ago: timedelta) -> None:
    assert route(NOW + ago, NOW, "inbox.0") is None


def test_the_routing_key_spells_the_delay() -> None:
    assert route(NOW + 5 * UNIT, NOW, "inbox.0") == Route(2, "0." * 28 + "1.0.1.inbox.0")


@quick
@given(st.timedeltas(DELAY_MAX + MICROSECOND, timedelta(days=365 * 100)), queues)
@example(timedelta(days=7305), "inbox.0")  # 20 years: three times
def test_what_the_levels_do_not_reach_is_parked_again(delay: timedelta, queue: str) -> None:
    due, now, times = NOW + delay, NOW, 0
    while is_early(due, now):
        left = due - now
        parked = park(left, queue, now=now)
        assert parked.arrived == [NAMES.queue(queue)]
        assert left <= DELAY_MAX or parked.visited[0] == NAMES.delay(LEVELS - 1)
        now += timedelta(milliseconds=parked.held_ms)
        times += 1
    assert abs(due - now) < UNIT or timedelta() <= due - now <= EARLY_MAX
    assert times in (delay // DELAY_MAX, delay // DELAY_MAX + 1)


def test_only_what_is_early_by_far_is_parked_again() -> None:
    assert not is_early(None, NOW)
    assert not is_early(NOW - MICROSECOND, NOW)
    assert not is_early(NOW + EARLY_MAX, NOW)
    assert is_early(NOW + EARLY_MAX + MICROSECOND, NOW)


def test_what_is_delivered_early_is_not_too_early_for_the_engine() -> None:
    assert EARLY_MAX < intake.EARLY_MAX


def test_the_levels_hold_8_years_and_a_half_and_no_longer_than_the_broker_can() -> None:
    ttls = [level.ttl_ms for level in levels()]
    assert ttls[:4] == [125, 250, 500, 1000]
    assert timedelta(milliseconds=sum(ttls)) == DELAY_MAX > timedelta(days=365 * 8.5)
    assert max(ttls) <= 315_360_000_000  # RabbitMQ's greatest: 10 years


def test_a_pattern_of_any_length_would_deliver_to_others_too() -> None:
    way = route(NOW + UNIT, NOW, "commands.inbox.0")
    assert way is not None
    assert matches("#.inbox.0", way.routing_key)
    assert not matches(delivery_pattern("inbox.0"), way.routing_key)
    assert matches(delivery_pattern("commands.inbox.0"), way.routing_key)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*", "a.b", False),
        ("*.*", "a", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("#.c", "a.b.c", True),
        ("#.b", "a.b.c", False),
        ("a.#.c", "a.c", True),
        ("*.#", "a", True),
    ],
)
def test_the_model_matches_as_the_specification_says(
    pattern: str, key: str, expected: bool
) -> None:
    assert matches(pattern, key) is expected


def test_a_routing_key_names_its_queue() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    way = route(now + timedelta(days=1), now, "commands.inbox.0")
    assert way is not None
    assert target_of(way.routing_key) == "commands.inbox.0"

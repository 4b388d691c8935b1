"""Names in the broker: valid there, taken back to logical ones, and never shared by two prefixes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amends.broker.rabbitmq.delays import LEVELS, delivery_pattern
from amends.broker.rabbitmq.names import NAME_BYTES_MAX, PREFIX_CHARS_MAX, Names
from amends.broker.topology import command_queue, inbox_queue
from amends.domain.ids import NAME_PATTERN
from amends.errors import InvalidSettings, UsageError

quick = settings(max_examples=200, deadline=None, derandomize=True)
RESERVED = ["dead", "members", "delay", "delivery", "inbox", "commands"]

words = st.sampled_from([*RESERVED, "amends", "x", "0", "00", "a-b", "_"])
dotted = st.lists(words, min_size=1, max_size=4).map(".".join)
any_text = st.text(max_size=70) | st.text("ab.-_0A*#", max_size=70) | dotted
queues = (
    st.from_regex(NAME_PATTERN, fullmatch=True).map(command_queue)
    | dotted.map(lambda name: name.replace("-", "_")).map(command_queue)
    | st.integers(0, 1023).map(inbox_queue)
)


def is_prefix(text: str) -> bool:
    try:
        Names(text)
    except InvalidSettings:
        return False
    return True


prefixes = (any_text | st.just("p" * PREFIX_CHARS_MAX)).filter(is_prefix)


def test_everything_stands_under_the_prefix() -> None:
    names = Names("amends")
    assert names.exchange == "amends"
    assert names.queue("inbox.0") == "amends.inbox.0"
    assert names.queue("commands.ledger") == "amends.commands.ledger"
    assert (names.dead, names.members) == ("amends.dead", "amends.members")
    assert names.delay(0) == "amends.delay.00"
    assert [names.below(level) for level in (30, 1, 0)] == [
        "amends.delay.29",
        "amends.delay.00",
        "amends.delivery",
    ]


@quick
@given(prefixes, queues)
def test_every_queue_of_an_engine_has_a_name_and_is_known_by_it(prefix: str, queue: str) -> None:
    names = Names(prefix)
    assert names.logical(names.queue(queue)) == queue


@quick
@given(prefixes, st.text("ab._", max_size=12) | dotted)
def test_only_what_can_be_a_queue_is_taken_for_one(prefix: str, name: str) -> None:
    names = Names(prefix)
    logical = names.logical(f"{prefix}.{name}")
    assert logical in (None, name)
    assert names.logical(name) is None or name.startswith(f"{prefix}.")
    if logical is None:
        with pytest.raises(UsageError, match="cannot be a queue"):
            names.queue(name)
    else:
        assert names.queue(name) == f"{prefix}.{name}"


@quick
@given(prefixes, prefixes, queues, queues)
def test_two_deployments_share_nothing(one: str, other: str, mine: str, yours: str) -> None:
    assume(one != other)
    a, b = Names(one), Names(other)
    assert exchanges(a).isdisjoint(exchanges(b))
    assert waiting_places(a, mine, "a").isdisjoint(waiting_places(b, yours, "a"))
    assert a.logical(b.queue(yours)) is None


def test_a_prefix_that_could_name_what_is_anothers_is_refused() -> None:
    assert Names("a").queue("commands.inbox.0") == "a.commands" + ".inbox.0"
    with pytest.raises(InvalidSettings, match="because of 'commands'"):
        Names("a.commands")


def exchanges(names: Names) -> set[str]:
    levels = {names.delay(level) for level in range(LEVELS)}
    return {names.exchange, names.delivery, names.dead, names.members} | levels


def waiting_places(names: Names, *queues: str) -> set[str]:
    levels = {names.delay(level) for level in range(LEVELS)}
    return {names.dead} | levels | {names.queue(queue) for queue in queues}


@quick
@given(any_text)
def test_a_prefix_is_valid_in_the_broker_or_refused_with_the_reason(text: str) -> None:
    if not is_prefix(text):
        with pytest.raises(InvalidSettings, match=r"^AMENDS_BROKER_PREFIX=") as caught:
            Names(text)
        assert len(str(caught.value)) < 600
        return
    names = Names(text)
    assert 0 < len(text.encode()) <= PREFIX_CHARS_MAX
    for name in exchanges(names) | waiting_places(names):
        assert not name.startswith("amq.")
        assert "*" not in name
        assert name.isascii()
        assert name.isprintable()


@pytest.mark.parametrize(
    "prefix", ["", ".", "a.", ".a", "a..b", "a b", "ä", "a/b", "a\n", "p" * 65]
)
def test_a_prefix_is_of_words(prefix: str) -> None:
    with pytest.raises(InvalidSettings, match="use words of letters"):
        Names(prefix)


@pytest.mark.parametrize("prefix", ["amq", "amq.x"])
def test_names_that_the_broker_keeps_are_refused(prefix: str) -> None:
    with pytest.raises(InvalidSettings, match="for itself"):
        Names(prefix)


@pytest.mark.parametrize("prefix", ["a", "p" * PREFIX_CHARS_MAX])
def test_the_longest_queue_fits_name_and_routing_key_and_a_longer_one_is_refused(
    prefix: str,
) -> None:
    names = Names(prefix)
    taken = max(n for n in range(1, 256) if fits(names, command_queue("q" * n)))
    name = command_queue("q" * taken)
    longest = max(len(names.queue(name).encode()), len(delivery_pattern(name).encode()))
    assert longest == NAME_BYTES_MAX
    with pytest.raises(UsageError, match=r"Use a shorter name") as caught:
        names.queue(name + "q")
    assert f"leave {len(name)}" in str(caught.value)


def fits(names: Names, queue: str) -> bool:
    try:
        return bool(names.queue(queue))
    except UsageError:
        return False


@pytest.mark.parametrize("name", ["dead", "members", "delay", "delivery", "delay.00", "x.0", "*"])
def test_what_is_declared_besides_the_queues_can_be_no_queue(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a queue"):
        Names("amends").queue(name)
    assert Names("amends").logical(f"amends.{name}") is None

"""Names are checked where they are made, and read back as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amends.domain.ids import (
    ANY,
    ID_CHARS_MAX,
    NO_STREAM,
    STREAM_EXISTS,
    ExpectedVersion,
    InstanceId,
    StreamName,
    check_id,
    check_name,
)
from amends.errors import UsageError

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,99}", fullmatch=True)
ids = st.text(min_size=1, max_size=ID_CHARS_MAX).filter(str.isprintable)


@settings(deadline=None)
@given(names, ids)
def test_an_instance_is_read_back_from_its_text_and_from_its_stream(saga: str, id: str) -> None:
    instance = InstanceId.of(saga, id)
    assert InstanceId.parse(str(instance)) == instance
    assert InstanceId.of_stream(instance.stream) == instance


@settings(deadline=None)
@given(names, ids)
def test_a_stream_keeps_its_category_whatever_its_id(category: str, id: str) -> None:
    assert StreamName.of(category, id).category == category


@pytest.mark.parametrize("stream", ["account-1", "saga", "saga.transfer", "saga.transfer-", ""])
def test_other_streams_are_no_journals(stream: str) -> None:
    assert InstanceId.of_stream(stream) is None


@pytest.mark.parametrize("name", ["", "a-b", "1a", ".a", "a b", "ä", "a\n", "a" * 101])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a saga"):
        InstanceId.of(name, "1")
    with pytest.raises(UsageError, match="category"):
        StreamName.of(name, "1")
    with pytest.raises(UsageError, match="cannot be the name of a queue"):
        check_name("queue", name)


@pytest.mark.parametrize("id", ["", "a\n", "\x00", "a" * (ID_CHARS_MAX + 1), "\ud800"])
def test_a_bad_id_is_refused(id: str) -> None:
    for make in (check_id, lambda id: InstanceId.of("saga", id), lambda id: StreamName.of("a", id)):
        with pytest.raises(UsageError, match="cannot be an id"):
            make(id)


def test_an_id_of_the_greatest_length_is_an_id() -> None:
    assert StreamName.of("account", "x" * ID_CHARS_MAX) == "account-" + "x" * ID_CHARS_MAX


@pytest.mark.parametrize("text", ["", "transfer", "/1", "transfer/", "tran-sfer/1"])
def test_text_that_names_no_instance_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        InstanceId.parse(text)


def test_an_id_may_have_slashes_and_dashes() -> None:
    assert InstanceId.parse("transfer/a/b-c") == ("transfer", "a/b-c")
    assert InstanceId.of_stream("saga.transfer-a/b-c") == ("transfer", "a/b-c")
    assert StreamName.of("account", "a-b-c").category == "account"


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (NO_STREAM, "no stream"),
        (ANY, "any version"),
        (STREAM_EXISTS, "an existing stream"),
        (ExpectedVersion(0), "version 0"),
        (ExpectedVersion(41), "version 41"),
    ],
)
def test_an_expected_version_says_what_it_means(expected: ExpectedVersion, words: str) -> None:
    assert str(expected) == repr(expected) == words

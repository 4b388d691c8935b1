"""Settings that cannot be: one error of ours says which, what they were, and what they may be.

Whatever is taken works: nothing of it is refused later by something that does not know its name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from amends import App, Settings, UsageError
from amends.errors import InvalidSettings
from amends.settings import redacted

FIELDS = list(Settings.model_fields)
#: Each of them is checked by the broker or the store that it is for.
TEXTS = [
    "broker_prefix", "broker_user", "broker_password",
    "broker_ca_file", "broker_cert_file", "broker_key_file",
    "store_user", "store_password", "store_ca_file", "store_cert_file", "store_key_file", "audit_key_file",
]  # fmt: skip
SECRETS = ("broker_password", "store_password")
NUMBERS = [
    name for name in FIELDS if name not in ("store", "broker", "projections", "calm_gc", *TEXTS)
]

quick = settings(max_examples=200, deadline=None, derandomize=True)

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 10**30, 1e300, 1e19, 1025])
scalars = st.none() | st.booleans() | numbers | texts | st.binary(max_size=3)
shapes = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def check(taken: Settings) -> None:
    """Every number is one that the rest of the engine can work with."""
    for name in NUMBERS:
        value = getattr(taken, name)
        assert value is None or 0 <= value <= 1e9, (name, value)
    assert 1 <= taken.partitions <= 1024
    assert min(taken.concurrency, taken.inbox_limit) >= 1
    assert min(taken.busy_timeout_s, taken.publish_timeout_s, taken.store_timeout_s) > 0
    assert 5 <= taken.broker_heartbeat_s <= 300
    assert (
        timedelta(seconds=taken.cache_wait_s_per_event) * 10**7 >= timedelta()
    )  # with a huge journal
    assert taken.retention is None or taken.retention.total_seconds() >= 3599
    with suppress(UsageError):
        assert str(taken.sqlite_path)


def refusal(values: dict[str, Any]) -> str:
    """What is told of settings that cannot be; "" of those that can, which are checked."""
    try:
        taken = Settings(**values)
    except InvalidSettings as error:
        return str(error)
    check(taken)
    return ""


@quick
@given(st.sampled_from(FIELDS), shapes)
def test_in_code_each_field_takes_a_value_or_refuses_it_by_name(name: str, value: Any) -> None:
    told = refusal({name: value})
    assert not told or (f"AMENDS_{name.upper()}=" in told and "it should be" in told)
    assert "pydantic" not in told


@quick
@given(st.sampled_from(FIELDS), texts | numbers.map(str))
def test_in_the_environment_too(name: str, value: str) -> None:
    variable = f"AMENDS_{name.upper()}"
    with patch.dict(os.environ, {variable: value}):
        told = refusal({})
    assert not told or f"{variable}={'***' if name in SECRETS else repr(value)}" in told


@quick
@given(st.dictionaries(st.sampled_from([*FIELDS, "unheard_of"]), shapes, max_size=4))
def test_each_fault_of_several_is_told(values: dict[str, Any]) -> None:
    wrong = {name for name, value in values.items() if refusal({name: value})}
    told = refusal(values)
    assert bool(told) == bool(wrong)
    assert all(f"AMENDS_{name.upper()}=" in told for name in wrong - {"unheard_of"})
    assert ("'unheard_of' is none of them" in told) == ("unheard_of" in values)


def test_a_name_that_is_no_setting_keeps_its_value_to_itself() -> None:
    told = refusal({"pasword": "hunter2", "partitions": 0})
    assert "'pasword' is none of them; there are AMENDS_STORE" in told
    assert "AMENDS_PARTITIONS=0: it should be greater than or equal to 1" in told
    assert "hunter2" not in told


def test_the_error_brings_none_of_pydantics_along() -> None:
    with pytest.raises(InvalidSettings) as refused:
        Settings(partitions=0)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


@pytest.mark.parametrize("field", ["store", "broker"])
async def test_nothing_shows_the_password_of_an_address(field: str) -> None:
    secret: Any = {field: "amqp://guest:hun@ter/2@host:5672/v"}
    given = Settings(**secret)
    with pytest.raises(UsageError, match=f"AMENDS_{field.upper()}") as caught:
        async with App().run(given):
            pass
    assert "hun" not in str(caught.value)
    assert "hun" not in repr(given)
    listed: Any = {field: [secret[field]]}
    with pytest.raises(InvalidSettings) as refused:
        Settings(**listed)
    assert "hun" not in str(refused.value)


def test_a_path_that_no_system_has_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="AMENDS_STORE"):
        _ = Settings(store="sqlite:///a\0b").sqlite_path
    assert Settings.of(Path("a.db")).sqlite_path == Path("a.db")


def test_numbers_without_end_are_cut_short() -> None:
    for value in (10**5000, "9" * 5000, 1e300):
        told = refusal({"concurrency": value})
        assert "AMENDS_CONCURRENCY=" in told
        assert "it should be" in told
        assert len(told) < 300


def test_an_instance_of_a_huge_journal_may_wait_for_as_long_as_can_be_set() -> None:
    assert refusal({"cache_wait_s_per_event": 1e6}) == ""
    assert "AMENDS_CACHE_WAIT_S_PER_EVENT" in refusal({"cache_wait_s_per_event": 1e9})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("embedded", "embedded"),
        ("amqp://host", "amqp://host"),
        ("amqp://me:hunter2@host/v", "amqp://***@host/v"),
        ("amqp://me:hunter2@a,amqps://me:hunter2@b:1", "amqp://***@a,amqps://***@b:1"),
        ("amqp://me:hun,ter2@a, amqp://me:hunter2@b", "amqp://***@a, amqp://***@b"),
        ("amqp://a,amqp://me:hunter2@b", "amqp://***@b"),
        ("amqp://me:hun,amqp://ter2@b", "amqp://***@b"),
        ("amqp://me:hun\nter2@b", "amqp://***@b"),
    ],
)
def test_addresses_are_shown_without_what_may_be_passwords(address: str, shown: str) -> None:
    assert redacted(address) == shown


def test_a_password_of_its_own_is_never_shown() -> None:
    assert "hunter2" not in repr(Settings(broker_password=SecretStr("hunter2")))
    told = refusal({"broker_password": ["hunter2"], "broker_user": ["me"]})
    assert "AMENDS_BROKER_PASSWORD=***: it should be a valid string" in told
    assert "AMENDS_BROKER_USER=['me']" in told
    assert "hunter2" not in told


def test_how_many_inboxes_there_are_depends_on_the_broker() -> None:
    assert Settings().partitions == 1
    assert Settings(broker="amqp://host").partitions == 8
    assert Settings(broker="amqp://host", partitions=3).partitions == 3
    with patch.dict(os.environ, {"AMENDS_BROKER": "amqp://host"}):
        assert Settings().partitions == 8


def test_a_default_that_depends_on_what_is_wrong_is_not_told_as_wrong() -> None:
    told = refusal({"broker": 1})
    assert "AMENDS_BROKER=1: it should be a valid string" in told
    assert "PARTITIONS" not in told

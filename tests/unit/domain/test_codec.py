"""An event is written so that it can be read back, by this code or a later one."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    model_serializer,
    model_validator,
)
from pydantic_core import to_json

from amends.domain.codec import EncodedEvent, EventRegistry, event, event_name
from amends.domain.envelope import RecordedEvent, encode_metadata
from amends.domain.events import JOURNAL_EVENTS
from amends.domain.ids import Position, StreamName
from amends.errors import (
    DecodeError,
    DefinitionError,
    InvalidPayload,
    NotRegistered,
    UnknownEventType,
    UnknownSchemaVersion,
)

SECRET = "jane.doe"
AT = datetime(2026, 1, 1, tzinfo=UTC)


@event
class Opened(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    note: str | None = None


@event(name="MoneyWithdrawn", version=3)
class Withdrawn(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    cents: int
    on: date
    ratio: float | None = None
    limits: dict[str, float] = Field(default_factory=dict)


class Closed(BaseModel, frozen=True):
    """Not decorated."""

    reason: Any = None


class Positive(BaseModel, frozen=True):
    a: int = Field(gt=0)


def registry() -> EventRegistry:
    made = EventRegistry([Opened, Withdrawn, Closed, Positive])

    @made.upcast("MoneyWithdrawn", 1)
    def in_cents(fields: dict[str, Any]) -> dict[str, Any]:
        fields["cents"] = round(fields.pop("amount") * 100)
        return fields

    @made.upcast("MoneyWithdrawn", 2)
    def with_day(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "on": "2020-02-29"}

    made.check()
    return made


def recorded(type: str, data: bytes, version: object = 1, **changes: Any) -> RecordedEvent:
    metadata = encode_metadata(correlation_id="c", causation_id="c", schema=version)
    return RecordedEvent(
        stream=StreamName("account-1"),
        version=4,
        position=Position(77),
        id=UUID(int=1),
        type=type,
        data=data,
        metadata=metadata,
        recorded_at=AT,
    )._replace(**changes)


def stored(encoded: EncodedEvent) -> RecordedEvent:
    return recorded(encoded.type, encoded.data, encoded.schema_version)


# --- names -------------------------------------------------------------------------------------


def test_a_name_in_the_log_outlives_the_class_name() -> None:
    assert event_name(Withdrawn) == ("MoneyWithdrawn", 3, 1)
    assert event_name(Opened) == ("Opened", 1, 1)
    assert event_name(Closed) == ("Closed", 1, 1)


def test_a_subclass_is_another_event() -> None:
    class Forced(Withdrawn):
        pass

    assert event_name(Forced) == ("Forced", 1, 1)
    known = EventRegistry([Forced])
    with pytest.raises(NotRegistered, match=r"Withdrawn is no event of this registry \(1 types\)"):
        known.encode(Withdrawn(cents=1, on=AT.date()))


def test_a_registry_knows_what_was_added() -> None:
    known = registry()
    assert known.types() == {"Opened", "MoneyWithdrawn", "Closed", "Positive"}
    assert "MoneyWithdrawn" in known
    assert Withdrawn in known
    assert "Withdrawn" not in known
    assert BaseModel not in known
    assert known.class_of("MoneyWithdrawn") is Withdrawn
    assert known.name_of(Withdrawn) == "MoneyWithdrawn"
    assert known.add(Withdrawn) is Withdrawn
    with pytest.raises(NotRegistered, match="'Withdrawn'"):
        known.class_of("Withdrawn")
    with pytest.raises(NotRegistered, match="BaseModel"):
        known.name_of(BaseModel)


class Mutable(BaseModel):
    a: int


class Root(RootModel[int], frozen=True):
    pass


class Incomplete(BaseModel, frozen=True):
    a: Later  # type: ignore[name-defined]  # noqa: F821 - that is the point


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (int, "make it a pydantic BaseModel"),
        (Mutable, "frozen=True"),
        (Root, "give its value a field name"),
    ],
)
def test_a_class_that_cannot_be_an_event_is_told_why(cls: Any, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        event(cls)
    with pytest.raises(DefinitionError, match=why):
        EventRegistry([cls])


def test_a_class_with_an_undefined_type_is_found_at_registration() -> None:
    with pytest.raises(DefinitionError, match="name 'Later' is not defined"):
        EventRegistry([Incomplete])


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        ({"name": ""}, "cannot be the name of a event"),
        ({"name": "a-b"}, "Choose another with `@event"),
        ({"version": 0}, "versions count from 1"),
        ({"version": 2, "oldest": 3}, "versions count from 1"),
        ({"oldest": 0}, "versions count from 1"),
    ],
)
def test_a_bad_name_or_version_is_refused(kwargs: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        event(**kwargs)(Closed)


def test_two_classes_of_one_name_are_refused() -> None:
    @event(name="Opened")
    class Other(BaseModel, frozen=True):
        pass

    with pytest.raises(DefinitionError, match="two classes want to be the event 'Opened'"):
        registry().add(Other)


# --- upcasters ---------------------------------------------------------------------------------


def same(fields: dict[str, Any]) -> dict[str, Any]:
    return fields


@pytest.mark.parametrize(
    ("have", "why"),
    [
        ([], r"nothing leads up from \[1, 2\]"),
        ([1], r"nothing leads up from \[2\]"),
        ([2], r"nothing leads up from \[1\]"),
        ([1, 2, 3], r"has upcasters from \[3\], but its versions go from 1 to 3"),
    ],
)
def test_a_gap_between_versions_is_found_before_an_event_falls_into_it(
    have: list[int], why: str
) -> None:
    known = EventRegistry([Withdrawn])
    for version in have:
        known.upcast("MoneyWithdrawn", version, same)
    with pytest.raises(DefinitionError, match=why):
        known.check()


def test_versions_before_the_oldest_need_no_upcaster() -> None:
    @event(version=3, oldest=2)
    class Moved(BaseModel, frozen=True):
        pass

    known = EventRegistry([Moved])
    known.upcast("Moved", 2, same)
    known.check()
    with pytest.raises(UnknownSchemaVersion, match="no upcaster leads from 1 to 2"):
        known.decode(recorded("Moved", b"{}", 1))


def test_an_upcaster_must_fit_its_registry() -> None:
    known = EventRegistry([Withdrawn])
    known.upcast("MoneyWithdrawn", 1, same)
    known.upcast("MoneyWithdrawn", 1, same)
    with pytest.raises(DefinitionError, match="two upcasters from 1"):
        known.upcast("MoneyWithdrawn", 1, lambda fields: fields)
    with pytest.raises(DefinitionError, match="count from 1, not 0"):
        known.upcast("MoneyWithdrawn", 0, same)
    known.upcast("MoneyWithdrawn", 2, same)
    known.upcast("Unheard", 1, same)
    with pytest.raises(DefinitionError, match=r"nobody added: \['Unheard'\]"):
        known.check()


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (1, {"amount": 1.25}),
        (2, {"cents": 125}),
        (3, {"cents": 125, "on": "2020-02-29"}),
    ],
)
def test_every_version_reads_as_the_present_one(version: int, fields: dict[str, Any]) -> None:
    read = registry().decode(recorded("MoneyWithdrawn", to_json(fields), version))
    assert read == Withdrawn(cents=125, on=date(2020, 2, 29))


def test_an_event_without_metadata_is_of_version_1() -> None:
    record = recorded("MoneyWithdrawn", b'{"amount":1.25}', metadata=b"")
    assert registry().decode(record) == Withdrawn(cents=125, on=date(2020, 2, 29))


def raising(fields: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(fields["amount"])


@pytest.mark.parametrize(
    ("upcaster", "why"),
    [
        (raising, r"ValueError raised at .*test_codec\.py:\d+"),
        (lambda fields: [fields], "what its upcasters made"),
        (lambda fields: None, r"what its upcasters made: .*\(whole value\): dict_type"),
        (lambda fields: {"cents": math.nan}, "what its upcasters made: .*NaN or Infinity"),
        (lambda fields: {"cents": SECRET}, "cents: int_type; on: missing"),
    ],
)
def test_an_upcaster_that_fails_is_named_without_what_it_saw(
    upcaster: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    known = EventRegistry([Withdrawn])
    known.upcast("MoneyWithdrawn", 1, upcaster)
    known.upcast("MoneyWithdrawn", 2, same)
    refuse_to_decode(known, recorded("MoneyWithdrawn", to_json({"amount": SECRET})), why)


# --- encoding ----------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
events = (
    st.builds(Opened, owner=texts, note=st.none() | texts)
    | st.builds(
        Withdrawn,
        cents=st.integers(),
        on=st.dates(),
        ratio=st.none() | floats,
        limits=st.dictionaries(texts, floats, max_size=3),
    )
    | st.builds(Closed, reason=st.none() | texts | st.lists(st.none() | floats, max_size=3))
)


@settings(deadline=None)
@given(events)
def test_what_is_read_is_what_was_written(fact: BaseModel) -> None:
    known = registry()
    encoded = known.encode(fact)
    assert encoded.type == known.name_of(type(fact))
    assert known.decode(stored(encoded)) == fact
    assert known.encode(known.decode(stored(encoded))) == encoded


def test_the_engines_own_events_can_all_be_registered() -> None:
    EventRegistry(JOURNAL_EVENTS).check()


class Secretive(BaseModel, frozen=True):
    password: SecretStr


class Aliased(BaseModel, frozen=True):
    account_id: int = Field(alias="accountId")


class Hidden(BaseModel, frozen=True):
    a: int = Field(exclude=True)


def test_an_alias_is_how_json_spells_a_field() -> None:
    known = EventRegistry([Aliased])
    encoded = known.encode(Aliased(accountId=3))
    assert encoded.data == b'{"accountId":3}'
    assert known.decode(stored(encoded)) == Aliased(accountId=3)


def test_a_class_that_loses_data_is_found_when_it_writes_not_when_it_is_read() -> None:
    known = EventRegistry([Secretive, Hidden])
    with pytest.raises(InvalidPayload, match=r"'Secretive' was not written: .*password: changed"):
        known.encode(Secretive(password=SecretStr(SECRET)))
    with pytest.raises(InvalidPayload, match="a: missing"):
        known.encode(Hidden(a=1))


def test_an_event_is_a_json_object() -> None:
    class Bare(BaseModel, frozen=True):
        a: int

        @model_serializer
        def _bare(self) -> int:
            return self.a

        @model_validator(mode="before")
        @classmethod
        def _dressed(cls, raw: Any) -> Any:
            return {"a": raw} if isinstance(raw, int) else raw

    with pytest.raises(InvalidPayload, match="it is no JSON object"):
        EventRegistry([Bare]).encode(Bare(a=1))


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (Withdrawn(cents=1, on=AT.date(), ratio=math.nan), "ratio: NaN or Infinity"),
        (Withdrawn(cents=1, on=AT.date(), ratio=-math.inf), "ratio: NaN or Infinity"),
        (Withdrawn(cents=1, on=AT.date(), limits={SECRET: math.inf}), r"limits\.\*: NaN or Inf"),
        (Closed(reason=math.nan), "reason: NaN or Infinity"),
        (Closed(reason=[None, {SECRET: math.nan}]), r"reason\.1\.\*: NaN or Infinity"),
        (Closed(reason={"a": None, "b\ud800": 1}), "reason: key: lone surrogate"),
        (Closed(reason=SECRET + "\ud800"), "reason: lone surrogate"),
        (Closed(reason=b"\xff"), "reason: bytes that are not UTF-8"),
        (Closed(reason=object()), "a part of this Closed has no form in JSON"),
        (Opened(owner="a").model_copy(update={"note": 5}), "note: string_type"),
        (Opened(owner="a").model_copy(update={"owner": None}), "owner: string_type"),
        (Positive(a=1).model_copy(update={"a": -1}), "a: greater_than"),
    ],
)
def test_what_json_cannot_carry_is_refused(fact: BaseModel, why: str) -> None:
    known = registry()
    with pytest.raises(InvalidPayload, match=f"was not written: .*{why}") as refused:
        known.encode(fact)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_nulls_and_odd_characters_are_no_faults() -> None:
    known = registry()
    for reason in ("null", "NaN", "Infinity", "\ufffd", None, [None], {"null": None}):
        fact = Closed(reason=reason)
        assert known.decode(stored(known.encode(fact))) == fact


# --- decoding ----------------------------------------------------------------------------------


class Checked(BaseModel, frozen=True):
    a: Any

    @model_validator(mode="after")
    def _check(self) -> Checked:
        raise LookupError(SECRET)


def refuse_to_decode(
    known: EventRegistry, record: RecordedEvent, why: str, kind: type[DecodeError] = DecodeError
) -> None:
    with pytest.raises(kind, match=why) as refused:
        known.decode(record)
    error = refused.value
    assert type(error) is kind
    assert (error.stream, error.position, error.type) == ("account-1", 77, record.type)
    assert "event 4 of its stream (stream 'account-1', position 77" in str(error)
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not JSON"),
        (b'{"owner": "jane.doe"', "is not JSON"),
        (b'{"owner": "\xff"}', "is not JSON"),
        (b'"jane.doe"', r"\(whole value\): model_type"),
        (b"[]", r"\(whole value\): model_type"),
        (b"{}", "owner: missing"),
        (b'{"owner": 5, "note": ["jane.doe"]}', "owner: string_type; note: string_type"),
        (b'{"owner": "x", "jane.doe": 1}', r"\*: extra_forbidden"),
    ],
)
def test_what_cannot_be_understood_is_named_not_shown(data: bytes, why: str) -> None:
    refuse_to_decode(registry(), recorded("Opened", data), why)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'"jane.doe"'])
def test_an_old_version_that_is_broken_never_reaches_its_upcaster(data: bytes) -> None:
    refuse_to_decode(registry(), recorded("MoneyWithdrawn", data, 1), "is not a JSON object")


def test_a_type_that_nobody_knows_is_not_skipped() -> None:
    record = recorded("Withdrawn", b"{}")
    refuse_to_decode(registry(), record, "nobody added the event type", UnknownEventType)


def test_a_newer_version_waits_for_newer_code() -> None:
    record = recorded("MoneyWithdrawn", b"{}", 4)
    refuse_to_decode(registry(), record, r"version 4, newer than .* 3", UnknownSchemaVersion)


def test_a_version_without_a_way_up_is_named() -> None:
    known = EventRegistry([Withdrawn])
    known.upcast("MoneyWithdrawn", 1, same)
    record = recorded("MoneyWithdrawn", b"{}", 1)
    refuse_to_decode(known, record, "leads from 2 to 3", UnknownSchemaVersion)


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, [1]])
def test_a_version_that_is_no_number_is_refused(version: object) -> None:
    record = recorded("Opened", b'{"owner":"a"}', version)
    refuse_to_decode(registry(), record, "is no number", UnknownSchemaVersion)


def test_broken_metadata_is_a_fault() -> None:
    record = recorded("Opened", b'{"owner":"a"}', metadata=b"{")
    refuse_to_decode(registry(), record, "metadata is not JSON")


def test_a_validator_of_the_users_that_breaks_is_a_fault_with_a_place() -> None:
    known = EventRegistry([Checked])
    refuse_to_decode(known, recorded("Checked", b'{"a":1}'), r"LookupError raised at .*test_codec")

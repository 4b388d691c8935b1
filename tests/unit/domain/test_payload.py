"""What goes in comes back as it was, or is refused in words that show no values."""

from __future__ import annotations

import dataclasses
import math
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from itertools import count
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    computed_field,
    field_serializer,
)
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict

from amends.domain.payload import PAYLOAD_BYTES_MAX, Payload
from amends.errors import DefinitionError, InvalidPayload, PayloadTooLarge


class Side(StrEnum):
    DEBIT = "debit"
    CREDIT = "credit"


class Level(IntEnum):
    LOW = 1


class Mixed(Enum):
    WORD = "w"
    NUMBER = 2


class Line(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    due: date
    amount: Decimal
    ref: UUID
    tags: tuple[str, ...] = ()
    note: str | None = None


class Blob(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    raw: bytes


class Aliased(BaseModel):
    money_out: int = Field(alias="moneyOut")


@dataclasses.dataclass
class Point:
    x: float
    y: float | None = None


@dataclasses.dataclass(eq=False)
class WithoutEquality:
    at: datetime
    x: int


class Options(TypedDict, total=False):
    until: date
    retries: int


class Pair(NamedTuple):
    left: int
    right: str


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


text = st.text(st.characters(codec="utf-8"), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=st.just(UTC)) | st.datetimes()
lines = st.builds(
    Line,
    due=st.dates(),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    ref=st.uuids(),
    tags=st.lists(text).map(tuple),
    note=st.none() | text,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)

#: A type, and its values.
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (type(None), st.none()),
    (bool, st.booleans()),
    (int, st.integers()),
    (float, floats),
    (str, text),
    (bytes, st.binary(max_size=40)),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (date, st.dates()),
    (datetime, moments),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(days=-99999), timedelta(days=99999))),
    (UUID, st.uuids()),
    (PurePosixPath, st.just(PurePosixPath("/a/b"))),
    (Side, st.sampled_from(Side)),
    (Level, st.sampled_from(Level)),
    (Mixed, st.sampled_from(Mixed)),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (int | str | None, st.integers() | text | st.none()),
    (Annotated[int, Field(ge=3)], st.integers(min_value=3)),
    (list[bytes], st.lists(st.binary(max_size=9), max_size=3)),
    (tuple[int, str], st.tuples(st.integers(), text)),
    (tuple[date, ...], st.lists(st.dates(), max_size=3).map(tuple)),
    (set[int], st.sets(st.integers(), max_size=3)),
    (frozenset[str], st.frozensets(text, max_size=3)),
    (dict[int, date], st.dictionaries(st.integers(), st.dates(), max_size=3)),
    (dict[str, float | None], st.dictionaries(text, st.none() | floats, max_size=3)),
    (Line, lines),
    (Line | None, st.none() | lines),
    (list[Line], st.lists(lines, max_size=2)),
    (Blob, st.builds(Blob, raw=st.binary(max_size=20))),
    (Aliased, st.builds(lambda n: Aliased(moneyOut=n), st.integers())),
    (Point, st.builds(Point, x=floats, y=st.none() | floats)),
    (Options, st.fixed_dictionaries({}, optional={"until": st.dates(), "retries": st.integers()})),
    (Pair, st.builds(Pair, st.integers(), text)),
    (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        st.builds(Cat, lives=st.integers()) | st.builds(Dog),
    ),
    (Any, json_values),
]


@pytest.mark.parametrize(("tp", "values"), TYPES, ids=lambda it: str(it)[:40])
def test_what_comes_back_is_what_went_in(tp: Any, values: st.SearchStrategy[Any]) -> None:
    payload: Payload[Any] = Payload(tp)

    @settings(deadline=None)
    @given(values)
    def round_trip(value: Any) -> None:
        raw = payload.to_json_value(value)
        again = payload.from_json_value(from_json(to_json(raw)))
        assert again == value
        assert type(again) is type(value)

    round_trip()


@settings(deadline=None)
@given(json_values)
def test_a_json_value_is_plain_json(value: Any) -> None:
    raw = Payload(Any).to_json_value(value)
    assert from_json(to_json(raw), allow_inf_nan=False) == raw == value


def test_equal_fields_are_enough_for_a_class_without_equality() -> None:
    doubled_hour = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    payload = Payload(WithoutEquality)
    raw = payload.to_json_value(WithoutEquality(doubled_hour, 1))
    again = payload.from_json_value(raw)
    assert again.x == 1
    assert again.at.isoformat() == doubled_hour.isoformat()


class Priced(Line):
    price: int = 0


class Renamed(Line):
    pass


class Secretive(BaseModel):
    password: SecretStr


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return 2 * self.a


class OneWay(BaseModel):
    out: int = Field(serialization_alias="elsewhere")


class Hidden(BaseModel):
    name: str = Field(default="", exclude=True)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    _seen: int = PrivateAttr(default_factory=count().__next__)


class Raising(BaseModel):
    name: str

    @field_serializer("name")
    def _name(self, name: str) -> str:
        raise RuntimeError(f"cannot write {name}")


class HalfBase64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    x: float


LINE = Line(due=date(2026, 1, 2), amount=Decimal("1.20"), ref=UUID(int=7))
HALF_MADE = Line.model_construct(due=LINE.due)  # type: ignore[call-arg]  # that is the point
SECRET = "jane.doe"


@pytest.mark.parametrize(
    ("tp", "value", "why"),
    [
        (int, SECRET, "int_parsing"),
        (int, 5.5, "int_from_float"),
        (datetime, "2026-01-01", "is of type str, and comes back from JSON as datetime"),
        (Line, None, "model_type"),
        (Line, LINE.model_dump(), "is of type dict, and comes back from JSON as Line"),
        (Line, LINE.model_copy(update={"note": 5}), "note: string_type"),
        (Line, HALF_MADE, "amount: missing; ref: missing"),
        (Annotated[int, Field(ge=3)], 2, "greater_than_equal"),
        (None, SECRET, "none_required"),
        (float, math.nan, "NaN or Infinity"),
        (Point, Point(1, -math.inf), "y: NaN or Infinity"),
        (dict[str, float], {SECRET: math.inf}, r"\*: NaN or Infinity"),
        (Any, [{SECRET: [1, math.nan]}], r"0\.\*\.1: NaN or Infinity"),
        (Constants, Constants(x=math.nan), "a NaN or an Infinity"),
        (str, "\ud800", "lone surrogate"),
        (dict[str, int], {SECRET + "\ud800": 1}, "key: lone surrogate"),
        (HalfBase64, HalfBase64(raw=b"abc"), "raw: changed"),
        (Point, Point(x=1, y=b"\xff"), "y: bytes that are not UTF-8"),  # type: ignore[arg-type]
        (Line, Priced(**LINE.model_dump()), "of type Priced, and comes back from JSON as Line"),
        (Line, Renamed(**LINE.model_dump()), "of type Renamed, and comes back from JSON as Line"),
        (Secretive, Secretive(password=SecretStr(SECRET)), "password: changed"),
        (Any, LINE, "of type Line, and comes back from JSON as dict"),
        (Any, (1, 2), "of type tuple, and comes back from JSON as list"),
        (Any, {"a": [(1, 2)]}, r"\*\.0: changed"),
        (dict, {1: 2}, r"1: changed; \*: changed"),
        (dict[str, Line], {SECRET: Priced(**LINE.model_dump())}, r"\*: changed"),
        (Hidden, Hidden(name=SECRET), "name: changed"),
        (Open, Open.model_validate({"tags": (1, 2)}), r"\*: changed"),
        (Strict, Strict(a=1), r"\*: extra_forbidden|double: extra_forbidden"),
        (OneWay, OneWay(out=3), "out: missing"),
        (Raising, Raising(name=SECRET), "a part of this Raising has no form"),
        (object, object(), "a part of this object has no form"),
        (Callable[[], int], lambda: 1, "a part of this function has no form"),
    ],
)
def test_what_would_change_on_its_way_is_refused(tp: Any, value: Any, why: str) -> None:
    with pytest.raises(InvalidPayload, match=why) as refused:
        Payload(tp).to_json_value(value)
    assert "nothing was recorded" in str(refused.value)
    assert_shows_no_values(refused.value)


def assert_shows_no_values(error: BaseException) -> None:
    """Not in its text, and not in a traceback that logs it with what caused it."""
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("tp", "raw", "why"),
    [
        (Line, {"due": SECRET}, "due: date_parsing; amount: missing; ref: missing"),
        (Line, {**LINE.model_dump(mode="json"), "tags": [SECRET, 5]}, r"tags\.1: string_type"),
        (dict[str, int], {SECRET: SECRET}, r"\*: int_parsing"),
        (list[int], [1, SECRET], "1: int_parsing"),
        (int, SECRET, r"\(whole value\): int_parsing"),
        (list[int], [SECRET] * 7, "4: int_parsing; and 2 more"),
    ],
)
def test_what_does_not_fit_is_named_by_its_field(tp: Any, raw: Any, why: str) -> None:
    with pytest.raises(InvalidPayload, match=why) as refused:
        Payload(tp).from_json_value(raw)
    assert_shows_no_values(refused.value)


def test_an_int_is_a_float_to_a_type_checker_and_here() -> None:
    assert Payload(float).to_json_value(5) == 5.0


class Derived(Line):
    _seen: int = PrivateAttr(0)

    @cached_property
    def weekday(self) -> int:
        return self.due.weekday()


def test_what_a_model_keeps_to_itself_is_not_part_of_its_value() -> None:
    line = Derived(**LINE.model_dump())
    assert line.weekday == 4
    line._seen = 3
    payload = Payload(Derived)
    assert payload.from_json_value(payload.to_json_value(line)).due == line.due


def test_the_limit_counts_bytes_of_json() -> None:
    fits = "ä" * (PAYLOAD_BYTES_MAX // 2 - 1)
    assert Payload(str).to_json_value(fits) == fits
    with pytest.raises(PayloadTooLarge, match=f"{PAYLOAD_BYTES_MAX + 1} bytes of JSON"):
        Payload(str).to_json_value(fits + "x")
    with pytest.raises(PayloadTooLarge, match="3 is the limit"):
        Payload(str, bytes_max=3).to_json_value("ab")


class NoSchema:
    pass


class Forward(BaseModel):
    a: Later  # type: ignore[name-defined]  # noqa: F821 - that is the point


@pytest.mark.parametrize(
    "tp",
    [NoSchema, 5, "Undefined", list["Undefined"], Forward, list[Forward]],  # type: ignore[name-defined]  # noqa: F821
)
def test_a_type_that_pydantic_cannot_handle_is_found_at_once(tp: Any) -> None:
    with pytest.raises(DefinitionError, match="cannot be the type of an input or a result"):
        Payload(tp)


class Lazy(BaseModel):
    model_config = ConfigDict(defer_build=True)

    a: int | None


def test_a_type_that_is_built_late_is_built() -> None:
    assert Payload(Lazy).to_json_value(Lazy(a=None)) == {"a": None}


def test_a_schema_tells_others_what_to_send() -> None:
    assert Payload(Line).json_schema()["required"] == ["due", "amount", "ref"]
    with pytest.raises(DefinitionError, match="no JSON Schema"):
        Payload(Callable[[], int]).json_schema()


def test_it_says_what_it_is() -> None:
    assert repr(Payload(Line)) == "Payload(Line)"
    assert repr(Payload(list[int])) == "Payload(list[int])"

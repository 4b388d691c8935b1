"""JSON that says the same on both sides: what is written can be read back, or it is refused.

pydantic writes a NaN as null, a secret as stars and a subclass without its own fields, and says
nothing. A log is the wrong place to find that out. Messages made here carry field paths and kinds
of fault, never values and never keys that are data: both may be personal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from functools import cached_property
from typing import Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreSchema, SchemaSerializer, from_json

from amends.errors import InvalidPayload

#: A message names this many faults; the rest are only counted.
FAULTS_NAMED_MAX: Final = 5

#: Where in a value, and what is wrong there.
_Path = tuple[int | str, ...]
_Fault = tuple[_Path, str]

#: What a schema says of fields that are not written, or not as pydantic would.
_CUSTOM: Final = {"serialization", "serialization_exclude", "serialization_exclude_if"}


class JsonValidator(Protocol):
    """What is needed of a pydantic validator: it may be a plugin's wrapper of the real one."""

    def validate_json(self, input: str | bytes | bytearray) -> Any:
        """Read JSON into the declared type."""
        ...

    def validate_python(self, input: Any) -> Any:
        """Read Python values into the declared type."""
        ...


class JsonType:
    """One declared type's way into JSON and back."""

    __slots__ = ("_none_is_null", "_schema", "_serializer", "_validator")

    def __init__(
        self, schema: CoreSchema, serializer: SchemaSerializer, validator: JsonValidator
    ) -> None:
        self._schema = schema
        self._serializer = serializer
        self._validator = validator
        self._none_is_null = _writes_each_none(schema)

    @classmethod
    def of(cls, adapter: TypeAdapter[Any]) -> JsonType:
        """The way of an adapter's type."""
        return cls(adapter.core_schema, adapter.serializer, adapter.validator)

    def dump(self, value: Any) -> bytes:
        """The JSON of a value of the declared type.

        Raises InvalidPayload when the value is not of that type, or has a part that JSON cannot
        carry: NaN, Infinity, a lone surrogate, an object of an unknown type.
        """
        try:
            # Aliases are how a type's author spells its JSON, and what the validator reads.
            data = self._serializer.to_json(value, by_alias=True, warnings="error")
        except Exception:  # a type's own serializer may raise anything, with values in its text
            raise InvalidPayload(self._why_not_json(value)) from None
        # What JSON cannot carry turns into null, into U+FFFD (keys), or, if the type's config
        # says so, into NaN and Infinity, which are not JSON. Most values need no second look.
        if b"null" in data and not self._only_nones_are_null(value, data):
            self._check_nothing_lost(value, data)
        if b"\xef\xbf\xbd" in data or b"NaN" in data or b"Infinity" in data:
            self._check_nothing_lost(value, data)
        return data

    def load(self, data: bytes) -> Any:
        """The value of a JSON text; raises ValidationError, or what the type's own code raises."""
        return self._validator.validate_json(data)

    def check_survives(self, value: Any, data: bytes) -> None:
        """Raise InvalidPayload unless `data`, read again, is equal to `value`.

        Equal by `==`, or else field by field: not every class defines `==`, and Python calls two
        equal moments different when one has a named time zone and the hour is a doubled one.
        """
        try:
            again = self.load(data)
        except Exception as error:
            why = self.why(error)
            raise InvalidPayload(f"its JSON does not fit its declared type: {why}") from None
        if again == value:
            return
        if type(again) is type(value) and _same(self._fields_of(value), self._fields_of(again)):
            return
        kind = type(value).__qualname__
        raise InvalidPayload(
            f"this {kind} comes back from JSON as something else: a field that is written but "
            "not read (or the other way round), a secret that is written as stars, a subclass "
            "with more fields than its declared base, or a value whose field is declared `Any`. "
            "Declare the exact types."
        )

    def why(self, error: Exception) -> str:
        """What is wrong, without values: field paths and kinds of fault."""
        if isinstance(error, ValidationError):
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            return self._list_faults((fault["loc"], fault["type"]) for fault in faults)
        return f"{type(error).__qualname__} {_raised_at(error)}"

    def _only_nones_are_null(self, value: Any, data: bytes) -> bool:
        """Whether the fields that are None account for every null: cheap, and often enough."""
        if not self._none_is_null:
            return False
        fields = getattr(value, "__dict__", {})  # a None may stand where a model should
        return data.count(b"null") == list(fields.values()).count(None)

    def _check_nothing_lost(self, value: Any, data: bytes) -> None:
        try:
            tree = from_json(data, allow_inf_nan=False)
        except ValueError:
            raise InvalidPayload("it has a NaN or an Infinity, which JSON cannot carry") from None
        plain = self._serializer.to_python(value, by_alias=True, warnings=False)
        lost = [*_turned_null(plain, tree, ()), *_bad_keys(plain, ())]
        if lost:
            raise InvalidPayload(f"JSON cannot carry it: {self._list_faults(lost)}")

    def _fields_of(self, value: Any) -> Any:
        # By their own types, so that what a subclass adds is seen.
        return self._serializer.to_python(value, serialize_as_any=True, warnings=False)

    def _why_not_json(self, value: Any) -> str:
        """Find the reason, slowly: it was refused already."""
        try:
            plain = self._serializer.to_python(value, warnings=False)
            faults = [*_not_json(plain, ()), *_bad_keys(plain, ())]
        except Exception as error:
            return f"its serializer failed: {type(error).__qualname__}"
        if faults:
            return f"JSON cannot carry it: {self._list_faults(faults)}"
        try:
            self._validator.validate_python(plain)
        except Exception as error:
            return f"it does not fit its declared type: {self.why(error)}"
        return f"a {type(value).__qualname__} does not fit its declared type"

    def _list_faults(self, faults: Iterable[_Fault]) -> str:
        code_names = _strings_of(self._schema)
        named = [f"{_path(path, code_names)}: {kind}" for path, kind in faults]
        more = len(named) - FAULTS_NAMED_MAX
        return "; ".join(named[:FAULTS_NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")


def _turned_null(plain: Any, tree: Any, path: _Path) -> Iterator[_Fault]:
    """Where a value that was not None became a null."""
    if tree is None:
        if plain is not None:
            yield path, _kind_of_leaf(plain) or type(plain).__qualname__
    elif isinstance(tree, dict) and isinstance(plain, dict):
        for (key, leaf), part in zip(tree.items(), plain.values(), strict=False):
            yield from _turned_null(part, leaf, (*path, key))
    elif isinstance(tree, list) and isinstance(plain, list | tuple | set | frozenset):
        for index, (part, leaf) in enumerate(zip(plain, tree, strict=False)):
            yield from _turned_null(part, leaf, (*path, index))


def _not_json(plain: Any, path: _Path) -> Iterator[_Fault]:
    """The parts of a value that JSON cannot carry."""
    if isinstance(plain, dict):
        for key, part in plain.items():
            yield from _not_json(part, (*path, key if isinstance(key, str) else ""))
    elif isinstance(plain, list | tuple | set | frozenset):
        for index, part in enumerate(plain):
            yield from _not_json(part, (*path, index))
    elif (kind := _kind_of_leaf(plain)) is not None:
        yield path, kind


def _bad_keys(plain: Any, path: _Path) -> Iterator[_Fault]:
    """The keys that JSON cannot carry: pydantic writes U+FFFD for their lone surrogates."""
    if isinstance(plain, dict):
        for key, part in plain.items():
            if (kind := _kind_of_leaf(key)) is not None:
                yield path, f"key: {kind}"
            yield from _bad_keys(part, (*path, key if isinstance(key, str) else ""))
    elif isinstance(plain, list | tuple):
        for index, part in enumerate(plain):
            yield from _bad_keys(part, (*path, index))


def _kind_of_leaf(leaf: Any) -> str | None:
    """Why JSON cannot carry a value, if it is one of the known reasons."""
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return "NaN or Infinity"
    if isinstance(leaf, str):
        return None if _is_utf8(leaf) else "lone surrogate"
    if isinstance(leaf, bytes):
        return None if _is_utf8_bytes(leaf) else _BYTES_HINT
    return None


_BYTES_HINT: Final = (
    "bytes that are not UTF-8 (set ser_json_bytes and val_json_bytes of its model_config "
    "to 'base64')"
)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_utf8_bytes(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, datetime | time) and type(one) is type(other):
        return one.isoformat() == other.isoformat()
    return bool(one == other)


def _writes_each_none(schema: CoreSchema) -> bool:
    """Whether every None in the `__dict__` of a value becomes a null of its JSON."""
    if schema["type"] != "model" or not _strings_of(schema).isdisjoint(_CUSTOM):
        return False
    members = (member for base in schema["cls"].__mro__ for member in vars(base).values())
    return not any(isinstance(member, cached_property) for member in members)


def _strings_of(schema: Any) -> frozenset[str]:
    """Every string in a schema: field names, aliases, tags. Those come from code, not from data."""
    found: set[str] = set()
    left: list[Any] = [schema]
    seen: set[int] = set()
    while left:
        part = left.pop()
        if isinstance(part, str):
            found.add(part)
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            left.extend(part)
            if isinstance(part, dict):
                left.extend(part.values())
        elif isinstance(part, type):
            found.add(part.__name__)
    return frozenset(found)


def _path(path: _Path, code_names: frozenset[str]) -> str:
    """A path to read; a key of a dict is data, and shows as `*`."""
    parts = [str(part) if isinstance(part, int) or part in code_names else "*" for part in path]
    return ".".join(parts) or "(whole value)"


def _raised_at(error: Exception) -> str:
    """The line that raised an error whose text may not be shown."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return "from nowhere"
    return f"raised at {last.tb_frame.f_code.co_filename}:{last.tb_lineno}"

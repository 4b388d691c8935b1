"""JSON that says the same on both sides: what is written can be read back, or it is refused.

pydantic writes a NaN as null, a secret as stars, a subclass without its own fields and a value
that breaks its field's rules, and says nothing. A log is the wrong place to find that out. So every
text is read back and compared before it is used: that costs about as much as pydantic's own check
of types while it writes, which finds less.

Messages made here carry field paths and kinds of fault, never values and never keys that are
data: both may be personal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, time
from typing import Any, Final, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, SchemaSerializer, from_json

from amends.errors import InvalidPayload

#: A message names this many faults; the rest are only counted.
FAULTS_NAMED_MAX: Final = 5

#: Where in a value, and what is wrong there.
_Path = tuple[int | str, ...]
_Fault = tuple[_Path, str]

_ABSENT: Final = object()


class JsonReader(Protocol):
    """What is needed of a pydantic validator, which may be a plugin's wrapper of the real one."""

    def validate_json(self, input: str | bytes | bytearray) -> Any:
        """Read JSON into the declared type."""
        ...


class JsonType:
    """One declared type's way into JSON and back."""

    __slots__ = ("_is_plain_model", "_schema", "_serializer", "_write", "load")

    def __init__(
        self, schema: CoreSchema, serializer: SchemaSerializer, validator: JsonReader
    ) -> None:
        self._schema = schema
        self._serializer = serializer
        self._write = serializer.to_json
        #: The value of a JSON text; raises ValidationError, or what the type's own code raises.
        self.load: Callable[[bytes], Any] = validator.validate_json
        self._is_plain_model = _is_plain_model(schema)

    @classmethod
    def of(cls, adapter: TypeAdapter[Any]) -> JsonType:
        """The way of an adapter's type."""
        return cls(adapter.core_schema, adapter.serializer, adapter.validator)

    def dump(self, value: Any) -> bytes:
        """The JSON of a value: text that `load` reads as an equal value of the same type.

        Equal by `==`, or else field by field: not every class defines `==`, and Python calls two
        equal moments different when one has a named time zone and the hour is a doubled one.

        Raises InvalidPayload when there is no such text: the value is not of the declared type,
        or has a part that JSON or the type cannot carry.
        """
        try:
            # Aliases are how a type's author spells its JSON, and what the validator reads.
            data = self._write(value, by_alias=True, warnings=False)
            again = self.load(data)
        except Exception as error:  # a type's own code may raise anything, with values in its text
            raise InvalidPayload(self._why_not_json(value, error)) from None
        if b"NaN" in data or b"Infinity" in data:
            # The type's configuration may write these words bare: read back they are equal, and
            # the text is no JSON to anybody else.
            _check_is_json(data)
        if self._is_plain_model and type(again) is type(value) and vars(again) == vars(value):
            return data
        if different := list(_differences(value, again, ())):
            raise InvalidPayload(self._why_changed(value, again, different))
        return data

    def why(self, error: Exception) -> str:
        """What is wrong, without values: field paths and kinds of fault."""
        if isinstance(error, ValidationError):
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            return self._list_faults((fault["loc"], fault["type"]) for fault in faults)
        return f"{type(error).__qualname__} {_raised_at(error)}"

    def _why_not_json(self, value: Any, error: Exception) -> str:
        if faults := self._faults_of(value):
            return f"JSON cannot carry it: {self._list_faults(faults)}"
        if isinstance(error, ValidationError):
            return f"it does not fit its declared type: {self.why(error)}"
        return f"a part of this {type(value).__qualname__} has no form in JSON"

    def _why_changed(self, value: Any, again: Any, different: list[_Path]) -> str:
        if faults := self._faults_of(value):
            return f"JSON cannot carry it: {self._list_faults(faults)}"
        if type(value) is not type(again):
            return (
                f"it is of type {type(value).__qualname__}, and comes back from JSON as "
                f"{type(again).__qualname__}: declare the type that it has"
            )
        changed = self._list_faults((path, "changed") for path in different)
        return (
            f"it comes back from JSON as something else: {changed}. A field may be declared too "
            "wide (`Any`, or a base class of its value), or may be hidden (a secret, an excluded "
            "field)."
        )

    def _faults_of(self, value: Any) -> list[_Fault]:
        try:
            plain = self._serializer.to_python(value, warnings=False)
        except Exception:  # again the type's own code
            return []
        return list(_not_json(plain, ()))

    def _list_faults(self, faults: Iterable[_Fault]) -> str:
        code_names = _strings_of(self._schema)
        named = [f"{_path(path, code_names)}: {kind}" for path, kind in faults]
        more = len(named) - FAULTS_NAMED_MAX
        return "; ".join(named[:FAULTS_NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")


def _is_plain_model(schema: Any) -> bool:
    """Whether the `__dict__` of a model is all that goes into its JSON: `==` takes longer."""
    return bool(
        schema["type"] == "model"
        and schema["schema"]["type"] == "model-fields"
        and schema["schema"].get("extra_behavior") != "allow"
        and schema["cls"].model_config.get("extra") != "allow"
    )


def _check_is_json(data: bytes) -> None:
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        raise InvalidPayload("JSON cannot carry it: it has a NaN or an Infinity") from None


def _differences(one: Any, other: Any, path: _Path) -> Iterator[_Path]:
    """Where two values differ."""
    if one == other:
        return
    parts, other_parts = _parts(one), _parts(other)
    if parts is None or other_parts is None or type(one) is not type(other):
        yield path
        return
    keys = dict.fromkeys([*parts, *other_parts])
    for key in keys:
        at = (*path, key if isinstance(key, int | str) else "")
        yield from _differences(parts.get(key, _ABSENT), other_parts.get(key, _ABSENT), at)


def _parts(value: Any) -> dict[Any, Any] | None:
    """What a value consists of; None for one that has no parts."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, datetime | time):
        return {"": value.isoformat()}
    if isinstance(value, BaseModel):
        fields = {name: vars(value).get(name, _ABSENT) for name in type(value).model_fields}
        return fields | (value.model_extra or {})
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _not_json(plain: Any, path: _Path) -> Iterator[_Fault]:
    """The parts of a value that JSON cannot carry."""
    if isinstance(plain, dict):
        for key, part in plain.items():
            if (kind := _why_no_leaf(key)) is not None:
                yield path, f"key: {kind}"
            yield from _not_json(part, (*path, key if isinstance(key, str) else ""))
    elif isinstance(plain, list | tuple | set | frozenset):
        for index, part in enumerate(plain):
            yield from _not_json(part, (*path, index))
    elif (kind := _why_no_leaf(plain)) is not None:
        yield path, kind


def _why_no_leaf(leaf: Any) -> str | None:
    """Why JSON cannot carry a value, if it is one of the known reasons."""
    try:
        if isinstance(leaf, str):
            leaf.encode()
        elif isinstance(leaf, bytes):
            leaf.decode()
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            return "NaN or Infinity"
    except UnicodeEncodeError:
        return "lone surrogate"
    except UnicodeDecodeError:
        return (
            "bytes that are not UTF-8 (set ser_json_bytes and val_json_bytes of its model_config "
            "to 'base64')"
        )
    return None


def _strings_of(schema: Any) -> frozenset[str]:
    """Every string in a schema: field names, aliases, tags. They come from code, not from data."""
    found: set[str] = set()
    left: list[Any] = [schema]
    seen: set[int] = set()
    while left:
        part = left.pop()
        if isinstance(part, str):
            found.add(part)
        elif isinstance(part, type):
            found.add(part.__name__)
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            left.extend(part)
            if isinstance(part, dict):
                left.extend(part.values())
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
    assert last is not None, "an error that was caught has been raised somewhere"
    return f"raised at {last.tb_frame.f_code.co_filename}:{last.tb_lineno}"

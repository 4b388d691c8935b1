"""What a saga hands to an activity and gets back: values of declared types, as JSON."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, overload

from pydantic import ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter
from pydantic_core import SchemaError, from_json, to_json

from amends.domain.strict_json import JsonType
from amends.errors import DefinitionError, InvalidPayload, PayloadTooLarge

T = TypeVar("T")

#: Far below what an append (1 MiB before EventStoreDB 25.1) and a message may hold: one turn may
#: append several payloads.
PAYLOAD_BYTES_MAX: Final = 256 * 1024

#: For bytes that stand in no model, dataclass or TypedDict, whose own configuration rules.
_CONFIG: Final = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Payload(Generic[T]):
    """One declared type: from its values to JSON and back.

    What comes back equals what went in, or it was refused: `from_json_value(to_json_value(x))
    == x`, also after the JSON value travelled as text.
    """

    @overload
    def __init__(self, tp: type[T], *, bytes_max: int = ...) -> None: ...
    @overload
    def __init__(self: Payload[Any], tp: object, *, bytes_max: int = ...) -> None: ...
    def __init__(self, tp: Any, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        """Prepare a type. Raises DefinitionError when pydantic cannot handle it."""
        self._name = tp.__qualname__ if isinstance(tp, type) else str(tp)
        self._bytes_max = bytes_max
        self.adapter: TypeAdapter[T] = _adapter(tp, self._name)
        """The type as pydantic sees it."""
        self._json = JsonType.of(self.adapter)

    def __repr__(self) -> str:
        return f"Payload({self._name})"

    def to_json_value(self, value: T) -> Any:
        """The JSON form of a value: None, bool, int, float, str, list and dict only.

        Raises InvalidPayload for a value that is not of the declared type (nothing is converted)
        or would come back as another value, and PayloadTooLarge.
        """
        try:
            data = self._json.dump(value)
        except InvalidPayload as error:
            raise InvalidPayload(
                f"a value declared as {self._name} was refused, nothing was recorded: {error}"
            ) from None
        if len(data) > self._bytes_max:
            raise PayloadTooLarge(
                f"a value declared as {self._name} takes {len(data)} bytes of JSON, and "
                f"{self._bytes_max} is the limit; nothing was recorded. Store the bulk elsewhere "
                "and pass a reference to it."
            )
        return from_json(data)

    def from_json_value(self, raw: Any) -> T:
        """The value of a JSON form, as a strict model reads JSON: a date from its text, a tuple
        from a list. Raises InvalidPayload, which names fields and kinds of fault, no values.
        """
        try:
            return self._json.load(to_json(raw))  # type: ignore[no-any-return]
        except Exception as error:  # the type's own validators may raise anything
            # Not chained: pydantic's own text shows values.
            raise InvalidPayload(
                f"a recorded value does not fit the type {self._name}: {self._json.why(error)}. "
                "Nothing was changed. Deploy a type that reads what is on record: new fields "
                "need defaults."
            ) from None

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of what `from_json_value` takes. Raises DefinitionError if it has none."""
        try:
            return self.adapter.json_schema()
        except PydanticUserError as error:
            raise DefinitionError(f"{self._name} has no JSON Schema: {error.message}") from None


def _adapter(tp: Any, name: str) -> TypeAdapter[Any]:
    try:
        adapter = _build(tp)
        if not adapter.pydantic_complete:
            # pydantic puts off a type with an undefined name; by now all of them must be defined.
            adapter.rebuild(force=True, raise_errors=True)
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, TypeError) as error:
        raise DefinitionError(
            f"{name} cannot be the type of an input or a result: {_text(error)} Use pydantic "
            "models, dataclasses, TypedDicts, and what they may hold."
        ) from error
    return adapter


def _build(tp: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(tp, config=_CONFIG)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
    return TypeAdapter(tp)


def _text(error: Exception) -> str:
    """What pydantic says, without the link that it adds."""
    return f"{getattr(error, 'message', error)}".rstrip(".") + "."

"""Domain events as JSON: their names, their schema versions, and the way up from old versions.

An event is a frozen pydantic model. What was once written stays readable: a class that changed
raises its version and brings an upcaster for each version before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar, overload

from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from amends.domain.envelope import SCHEMA_VERSION, RecordedEvent, decode_metadata
from amends.domain.ids import check_name
from amends.domain.strict_json import JsonType
from amends.errors import (
    DecodeError,
    DefinitionError,
    InvalidPayload,
    NotRegistered,
    UnknownEventType,
    UnknownSchemaVersion,
    UsageError,
)

E = TypeVar("E", bound=BaseModel)
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
U = TypeVar("U", bound=Upcaster)

_MARK: Final = "__amends_event__"


class EncodedEvent(NamedTuple):
    """An event as a store takes it: `data` is a UTF-8 JSON object."""

    type: str
    schema_version: int
    data: bytes


class EventName(NamedTuple):
    """What a class calls itself in the log. Versions before `oldest` can no longer be read."""

    type: str
    version: int
    oldest: int


@overload
def event(cls: type[E], /) -> type[E]: ...
@overload
def event(
    *, name: str | None = None, version: int = 1, oldest: int = 1
) -> Callable[[type[E]], type[E]]: ...
def event(
    cls: type[Any] | None = None, /, *, name: str | None = None, version: int = 1, oldest: int = 1
) -> Any:
    """Declare a frozen pydantic model as a domain event.

    `name` is its type in the log (default: the class name) and outlives renamings of the class.
    `version` is raised with every change that old events do not fit; the registry then wants an
    upcaster from each version since `oldest`. Raises DefinitionError for a class that cannot be
    an event, and for a bad name or version.
    """

    def declare(cls: type[E]) -> type[E]:
        declared = EventName(cls.__name__ if name is None else name, version, oldest)
        _check_declaration(cls, declared)
        setattr(cls, _MARK, declared)
        return cls

    return declare if cls is None else declare(cls)


def event_name(cls: type[BaseModel]) -> EventName:
    """The declared name and version; an undecorated class is version 1 under its own name."""
    # Its own mark, not an inherited one: a subclass is another event.
    declared = vars(cls).get(_MARK)
    return declared if isinstance(declared, EventName) else EventName(cls.__name__, 1, 1)


def _check_declaration(cls: type[Any], declared: EventName) -> None:
    if not issubclass(cls, BaseModel):
        raise DefinitionError(f"{cls!r} cannot be an event: make it a pydantic BaseModel")
    if issubclass(cls, RootModel):
        raise DefinitionError(f"{cls.__qualname__} cannot be an event: give its value a field name")
    if not cls.model_config.get("frozen"):
        raise DefinitionError(
            f"{cls.__qualname__} cannot be an event while it can be changed: facts stay as they "
            "are. Declare it with `model_config = ConfigDict(frozen=True)` or "
            f"`class {cls.__name__}(BaseModel, frozen=True)`."
        )
    try:
        check_name("event", declared.type)
    except UsageError as error:
        raise DefinitionError(
            f"{cls.__qualname__}: {error}. Choose another with `@event(name=...)`."
        ) from None
    if not 1 <= declared.oldest <= declared.version:
        raise DefinitionError(
            f"{cls.__qualname__} is declared at version {declared.version} with "
            f"{declared.oldest} as the oldest; versions count from 1"
        )


#: What an upcaster hands on.
_FIELDS: Final = JsonType.of(TypeAdapter(dict[str, Any]))


class _Entry:
    """One registered class, with all that encoding and decoding it need."""

    __slots__ = ("cls", "json", "name")

    def __init__(self, cls: type[BaseModel], name: EventName) -> None:
        self.cls = cls
        self.name = name
        self.json = JsonType(
            cls.__pydantic_core_schema__, cls.__pydantic_serializer__, cls.__pydantic_validator__
        )


class EventRegistry:
    """The event types that a program knows, by name and by class.

    Registering is not thread-safe; encoding and decoding are, once it is over.
    """

    def __init__(self, classes: Iterable[type[BaseModel]] = ()) -> None:
        self._by_name: dict[str, _Entry] = {}
        self._by_class: dict[type[BaseModel], _Entry] = {}
        self._upcasters: dict[str, dict[int, Upcaster]] = {}
        for cls in classes:
            self.add(cls)

    def add(self, cls: type[E]) -> type[E]:
        """Register an event class; adding it again changes nothing. Usable as a decorator.

        Raises DefinitionError when the class cannot be an event or its name is taken.
        """
        name = event_name(cls)
        _check_declaration(cls, name)
        taken = self._by_name.get(name.type)
        if taken is not None and taken.cls is not cls:
            raise DefinitionError(
                f"two classes want to be the event {name.type!r}: {_where(taken.cls)} and "
                f"{_where(cls)}. Give one of them another name with `@event(name=...)`."
            )
        if taken is None:
            _complete(cls)
            self._by_name[name.type] = self._by_class[cls] = _Entry(cls, name)
        return cls

    @overload
    def upcast(self, name: str, from_version: int, fn: U) -> U: ...
    @overload
    def upcast(self, name: str, from_version: int) -> Callable[[U], U]: ...
    def upcast(self, name: str, from_version: int, fn: U | None = None) -> Any:
        """Register the step from `from_version` of an event to the next one. Also a decorator.

        The upcaster takes the event's JSON object (it may change it) and returns it as the next
        version has it. It must be pure. Raises DefinitionError for a second one of a version.
        """

        def register(fn: U) -> U:
            steps = self._upcasters.setdefault(name, {})
            if steps.get(from_version, fn) is not fn:
                raise DefinitionError(f"event {name!r} has two upcasters from {from_version}")
            if from_version < 1:
                raise DefinitionError(f"event {name!r}: versions count from 1, not {from_version}")
            steps[from_version] = fn
            return fn

        return register if fn is None else register(fn)

    def check(self) -> None:
        """Raise DefinitionError unless every version of every type since its oldest is readable.

        Call it when registration is over: upcasters and classes may come in any order.
        """
        unknown = self._upcasters.keys() - self._by_name.keys()
        if unknown:
            raise DefinitionError(f"upcasters for events that nobody added: {sorted(unknown)}")
        for entry in self._by_name.values():
            type, version, oldest = entry.name
            have = self._upcasters.get(type, {}).keys()
            wanted = set(range(oldest, version))
            if missing := sorted(wanted - have):
                raise DefinitionError(
                    f"event {type!r} is at version {version}, and nothing leads up from "
                    f"{missing}: register an upcaster for each, or, when no event of theirs is "
                    "left anywhere, say `@event(..., oldest=...)`"
                )
            if extra := sorted(have - wanted):
                raise DefinitionError(
                    f"event {type!r} has upcasters from {extra}, but its versions go from "
                    f"{oldest} to {version}"
                )

    def encode(self, event: BaseModel) -> EncodedEvent:
        """The JSON of an event, from which `decode` makes an equal one.

        Raises InvalidPayload when there is none (NaN, Infinity, a lone surrogate, a value that
        breaks its field's rules), and NotRegistered when the class was never added.
        """
        entry = self._by_class.get(type(event))
        if entry is None:
            raise self._not_added(type(event))
        try:
            data = entry.json.dump(event)
        except InvalidPayload as error:
            raise InvalidPayload(f"event {entry.name.type!r} was not written: {error}") from None
        if not data.startswith(b"{"):
            raise InvalidPayload(f"event {entry.name.type!r} was not written: it is no JSON object")
        return EncodedEvent(entry.name.type, entry.name.version, data)

    def decode(self, recorded: RecordedEvent) -> BaseModel:
        """The event of a record, brought up to the present version of its class.

        Raises UnknownEventType, UnknownSchemaVersion, and DecodeError for JSON that is broken or
        does not fit; the message names the place and the fields, never a value.
        """
        entry = self._by_name.get(recorded.type)
        if entry is None:
            raise _error(
                UnknownEventType,
                recorded,
                f"nobody added the event type {recorded.type!r}: nothing was skipped. Add its "
                "class, or deploy the code that knows it",
            )
        version = _schema_version(recorded)
        try:
            if version == entry.name.version:
                return entry.json.load(recorded.data)  # type: ignore[no-any-return]
            return entry.json.load(self._upcast(entry.name, version, recorded))  # type: ignore[no-any-return]
        except DecodeError:
            raise
        except Exception as error:  # a validator of the user's may raise anything
            why = entry.json.why(error)
            what = "is not JSON" if _is_broken(error) else "does not fit its class"
            # Not chained: pydantic's own text shows values.
            raise _error(DecodeError, recorded, f"the event {what}: {why}") from None

    def _upcast(self, name: EventName, version: int, recorded: RecordedEvent) -> bytes:
        if version > name.version:
            raise _error(
                UnknownSchemaVersion,
                recorded,
                f"the event has schema version {version}, newer than this code's {name.version}: "
                "deploy the code that wrote it",
            )
        steps = self._upcasters.get(name.type, {})
        try:
            fields = from_json(recorded.data, allow_inf_nan=False)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise _error(DecodeError, recorded, "the event is not a JSON object")
        for step in range(version, name.version):
            upcaster = steps.get(step)
            if upcaster is None:
                raise _error(
                    UnknownSchemaVersion,
                    recorded,
                    f"the event has schema version {version}, and no upcaster leads from {step} "
                    f"to {step + 1} (the code is at {name.version})",
                )
            fields = upcaster(fields)
        # Back to JSON, so that strict models take a date or a tuple as they do from the log.
        try:
            return _FIELDS.dump(fields)
        except InvalidPayload as error:
            raise _error(DecodeError, recorded, f"what its upcasters made: {error}") from None

    def __contains__(self, what: object) -> bool:
        return what in self._by_name or what in self._by_class

    def types(self) -> frozenset[str]:
        """The names of all event types."""
        return frozenset(self._by_name)

    def class_of(self, name: str) -> type[BaseModel]:
        """The class of an event type. Raises NotRegistered when nobody added it."""
        entry = self._by_name.get(name)
        if entry is None:
            raise NotRegistered(f"nobody added an event named {name!r}")
        return entry.cls

    def name_of(self, cls: type[BaseModel]) -> str:
        """The type that a class has in the log. Raises NotRegistered when it was not added."""
        entry = self._by_class.get(cls)
        if entry is None:
            raise self._not_added(cls)
        return entry.name.type

    def _not_added(self, cls: type[Any]) -> NotRegistered:
        return NotRegistered(
            f"{_where(cls)} is no event of this registry ({len(self._by_name)} types): add it"
        )


def _complete(cls: type[BaseModel]) -> None:
    """Build the class's validator, which pydantic puts off while a name in it is undefined."""
    try:
        complete = cls.model_rebuild() is not False
    except Exception as error:
        why = getattr(error, "message", error)
        raise DefinitionError(f"{_where(cls)} cannot be an event yet: {why}") from error
    if not complete:
        raise DefinitionError(f"{_where(cls)} cannot be an event: its types are not defined")


def _schema_version(recorded: RecordedEvent) -> int:
    try:
        version = decode_metadata(recorded).get(SCHEMA_VERSION, 1)
    except ValueError:
        raise _error(DecodeError, recorded, "the event's metadata is not JSON") from None
    if type(version) is not int or version < 1:  # a JSON true is an int to isinstance
        raise _error(UnknownSchemaVersion, recorded, "the event's schema version is no number")
    return version


def _is_broken(error: Exception) -> bool:
    return isinstance(error, ValidationError) and any(
        fault["type"] == "json_invalid"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _where(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


_D = TypeVar("_D", bound=DecodeError)


def _error(kind: type[_D], recorded: RecordedEvent, what: str) -> _D:
    return kind(
        f"{what}; it is event {recorded.version} of its stream",
        stream=recorded.stream,
        position=recorded.position,
        type=recorded.type,
    )

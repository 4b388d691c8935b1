"""Defining a projection: its name and version, its tables, and a handler per event type.

class Transfers(Projection):
    name = "transfers"
    version = 1
    tables = (transfers,)
    skips_unknown = True

    @on(SagaStarted)
    def started(self, event: Event[SagaStarted], rows: Rows) -> None:
        rows.insert(transfers, id=event.stream_id, state="running")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, iscoroutinefunction, signature
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, TypeVar, overload

from pydantic import BaseModel
from sqlalchemy import Table

from amends.domain.aggregate import Aggregate
from amends.domain.codec import EventRegistry
from amends.domain.envelope import RecordedEvent
from amends.domain.events import JOURNAL_EVENTS, DomainEventEmitted, JournalEvent
from amends.domain.ids import JOURNAL_PREFIX, check_name
from amends.errors import DefinitionError, UsageError
from amends.projections.event import Event
from amends.projections.rows import Rows
from amends.projections.tables import check_tables
from amends.sagas import journal
from amends.stores.port import EventFilter

P = TypeVar("P", bound="Projection")
E1 = TypeVar("E1", bound=BaseModel)
E2 = TypeVar("E2", bound=BaseModel)
E3 = TypeVar("E3", bound=BaseModel)
M = TypeVar("M", bound=Callable[..., None])

Handler = Callable[[P, Event[E1], Rows], None]
Events = EventRegistry | type[Aggregate]

_MARK: Final = "__amends_on__"
_EVERY: Final = "__amends_on_every__"
_JOURNAL_TYPES: Final = frozenset(cls.__name__ for cls in JOURNAL_EVENTS)


@overload
def on(a: type[E1], /) -> Callable[[Handler[P, E1]], Handler[P, E1]]: ...
@overload
def on(a: type[E1], b: type[E2], /) -> Callable[[Handler[P, E1 | E2]], Handler[P, E1 | E2]]: ...
@overload
def on(
    a: type[E1], b: type[E2], c: type[E3], /
) -> Callable[[Handler[P, E1 | E2 | E3]], Handler[P, E1 | E2 | E3]]: ...
@overload
def on(*events: type[BaseModel] | str) -> Callable[[Handler[P, Any]], Handler[P, Any]]: ...
def on(*events: type[BaseModel] | str) -> Any:
    """Mark a method of a projection as what an event (or one of several) does to its rows.

    An event is named by its class: one of the journal's own (`amends.domain.events`), or a domain
    event, whoever emitted it. By its type's name it can be, too, if the projection knows it.

    The method must be deterministic: the same event, the same rows, on every rebuild. No clock, no
    randomness, nothing from outside, and nothing kept in the projection.
    """

    def mark(method: M) -> M:
        setattr(method, _MARK, events)
        return method

    return mark


def on_every(method: M) -> M:
    """Mark a method of a projection as the handler of every event that has none of its own.

    It gets whatever is in the log, what nobody knows included, whose `data` cannot be read.
    """
    setattr(method, _EVERY, True)
    return method


class Handlers(NamedTuple):
    """The handlers of a class by event type, as names of methods."""

    journals: Mapping[str, str]
    """In the journals of sagas."""
    others: Mapping[str, str]
    """In all other streams."""
    every: str | None


class Projection:
    """Base of projections: tables that a handler per event type fills from the log.

    Defining a subclass with a `name` raises DefinitionError for whatever cannot be.
    """

    name: ClassVar[str]
    """What it is called, in the database, in `amends projections`; unique in an application."""
    version: ClassVar[int] = 1
    """To be raised whenever the handlers or tables change, so that it is rebuilt."""
    tables: ClassVar[Iterable[Table]]
    """Its tables. They are made by the engine, and nobody else writes into them."""
    streams: ClassVar[tuple[str, ...]] = ()
    """With what the names of the streams in its scope begin; () is the whole log."""
    skips_unknown: ClassVar[bool] = False
    """Whether it passes over events in its scope for which it has no handler. If not, they stop it,
    so that none is overlooked."""
    events: ClassVar[Events | Iterable[Events]] = ()
    """Registries, or aggregates with theirs, that read old versions of domain events."""

    handlers: ClassVar[Handlers]
    table_list: ClassVar[tuple[Table, ...]]
    _registries: ClassVar[tuple[EventRegistry, ...]]
    _by_type: ClassVar[Mapping[str, EventRegistry]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "name"):  # a base class of the user's own
            return
        _check_head(cls)
        cls.table_list = check_tables(cls.__qualname__, getattr(cls, "tables", ()))
        cls._registries = tuple(_registries(cls))
        own = EventRegistry()
        cls.handlers = _collect(cls, own)
        by_type = dict.fromkeys(own.types(), own)
        for registry in cls._registries:
            by_type |= dict.fromkeys(registry.types(), registry)
        # What a registry of theirs knows has its upcasters there.
        rest = EventRegistry(own.class_of(type) for type in own.types() if by_type[type] is own)
        rest.check()
        cls._by_type = MappingProxyType(by_type)

    def __init__(self) -> None:
        if not hasattr(self, "handlers"):
            raise DefinitionError(f'{type(self).__qualname__} has no name: say name = "…"')

    @property
    def filter(self) -> EventFilter:
        """What it wants of the log."""
        handlers = self.handlers
        if not self.skips_unknown or handlers.every is not None:
            return EventFilter(self.streams)
        return EventFilter(self.streams, tuple(sorted({*handlers.journals, *handlers.others})))

    @property
    def event_classes(self) -> list[type[BaseModel]]:
        """The domain events that it knows, whether it handles them or not."""
        return [registry.class_of(type) for type, registry in self._by_type.items()]

    def decode(self, record: RecordedEvent) -> BaseModel:
        """The event of a record. Raises DecodeError."""
        registry = self._by_type.get(record.type)
        is_journal = record.stream.startswith(JOURNAL_PREFIX)
        if registry is None or (is_journal and record.type in _JOURNAL_TYPES):
            return journal.decode(record)
        return registry.decode(record)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.name} version {self.version}>"


def _check_head(cls: type[Projection]) -> None:
    name, version = cls.name, cls.version
    streams: object = cls.streams
    try:
        check_name("projection", name)
    except (TypeError, UsageError) as error:
        raise DefinitionError(f"{cls.__qualname__}: {error}") from None
    if not str(version).isdecimal() or version == 0:
        raise DefinitionError(f"{cls.__qualname__}.version is {version!r}; versions count from 1")
    if not isinstance(streams, tuple) or not all(streams):
        raise DefinitionError(
            f"{cls.__qualname__}.streams is {streams!r}; write a tuple: streams = "
            '("saga.transfer-",)'
        )


def _registries(cls: type[Projection]) -> Iterable[EventRegistry]:
    given = cls.events
    one: Any
    for one in (given,) if isinstance(given, EventRegistry | type) else given:
        if isinstance(one, EventRegistry):
            yield one
        elif isinstance(one, type) and issubclass(one, Aggregate) and hasattr(one, "registry"):
            yield one.registry
        else:
            raise DefinitionError(
                f"{cls.__qualname__}.events has {one!r}, which is neither an EventRegistry nor an "
                "aggregate. The events of your handlers need not be listed"
            )


def _collect(cls: type[Projection], own: EventRegistry) -> Handlers:
    """The handlers of a class; domain events that no registry of its knows are added to `own`."""
    journals: dict[str, str] = {}
    others: dict[str, str] = {}
    every: str | None = None
    for name, method in _methods(cls).items():
        events = getattr(method, _MARK, None)
        if events is None and not hasattr(method, _EVERY):
            continue
        _check_method(cls, name, method)
        if events is None:
            if every is not None:
                raise DefinitionError(f"{cls.__qualname__} has two @on_every: {every} and {name}")
            every = name
        elif not events:
            raise DefinitionError(f"{cls.__qualname__}.{name}: say which events: @on(SomeEvent)")
        for event in events or ():
            type, in_journals, elsewhere = _place(cls, event, own)
            for known, is_there in ((journals, in_journals), (others, elsewhere)):
                if is_there and known.setdefault(type, name) != name:
                    raise DefinitionError(
                        f"{cls.__qualname__}: both {known[type]} and {name} handle {type}; one "
                        "event type has one handler"
                    )
    if not journals and not others and every is None:
        raise DefinitionError(f"{cls.__qualname__} handles nothing: mark a method with @on(…)")
    return Handlers(MappingProxyType(journals), MappingProxyType(others), every)


def _methods(cls: type[Projection]) -> dict[str, Any]:
    """Every attribute by name, a subclass's instead of its base's, in the order of definition."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            marked = found.get(name)
            found[name] = member
            # An overriding method need not be marked again.
            for mark in (_MARK, _EVERY):
                if hasattr(marked, mark) and callable(member) and not hasattr(member, mark):
                    setattr(member, mark, getattr(marked, mark))
    return found


def _place(
    cls: type[Projection], event: type[BaseModel] | str, own: EventRegistry
) -> tuple[str, bool, bool]:
    """The type of an event in the log, and whether it stands in journals, and in other streams."""
    if isinstance(event, str):
        if event in _JOURNAL_TYPES:
            return event, True, False
        if any(event in registry for registry in cls._registries):
            return event, True, True
        raise DefinitionError(
            f"{cls.__qualname__} handles {event!r}, and no event of that name is known: neither "
            "the journal has it nor a registry in `events`. Name the event's class"
        )
    given: object = event
    if not isinstance(given, type):
        raise DefinitionError(f"{cls.__qualname__} handles {event!r}, which is no event")
    if issubclass(event, JournalEvent):
        if event.__name__ not in _JOURNAL_TYPES:
            emitted = event is DomainEventEmitted
            raise DefinitionError(
                f"{cls.__qualname__} handles {event.__name__}, which never stands in the log: "
                + ("name the domain event's own class" if emitted else "name one of its subclasses")
            )
        return event.__name__, True, False
    try:
        registry = next((known for known in cls._registries if event in known), own)
        if registry is own:
            own.add(event)
        type_name = registry.name_of(event)
    except DefinitionError as error:
        raise DefinitionError(f"{cls.__qualname__} handles no event: {error}") from None
    # In a journal such a name is the engine's own.
    return type_name, type_name not in _JOURNAL_TYPES, True


def _check_method(cls: type[Projection], name: str, method: Any) -> None:
    where = f"{cls.__qualname__}.{name}"
    if iscoroutinefunction(method):
        raise DefinitionError(
            f"{where} handles events: it cannot be async, because nothing from outside may decide "
            "about its rows"
        )
    parameters = signature(method).parameters.values()
    needed = [p for p in parameters if p.default is Parameter.empty]
    if len(needed) != 3 or any(p.kind is not Parameter.POSITIONAL_OR_KEYWORD for p in needed):
        raise DefinitionError(f"{where} must take (self, event, rows)")


def check_together(projections: Iterable[Projection]) -> dict[str, Projection]:
    """The projections of an application by name.

    Raises DefinitionError for what is none, for two of one name, and for two with one table.
    """
    by_name: dict[str, Projection] = {}
    owners: dict[str, str] = {}
    for projection in projections:
        if not isinstance(projection, Projection):
            hint = f"; write {projection.__name__}()" if isinstance(projection, type) else ""
            raise DefinitionError(f"{projection!r} is no projection{hint}")
        if by_name.setdefault(projection.name, projection) is not projection:
            raise DefinitionError(f"two projections of the name {projection.name!r}")
        for table in projection.table_list:
            owner = owners.setdefault(table.name.lower(), projection.name)
            if owner != projection.name:
                raise DefinitionError(
                    f"projections {owner!r} and {projection.name!r} both have a table "
                    f"{table.name!r}; each needs tables of its own"
                )
    return by_name

"""An event-sourced aggregate: methods decide, events are facts, handlers change the state.

    class Account(Aggregate):
        category = "account"
        events = (AccountOpened, MoneyWithdrawn)
        balance = 0

        def withdraw(self, amount: int) -> None:
            if amount > self.balance:
                raise InsufficientFunds(f"{self.id} has {self.balance}")
            self.record(MoneyWithdrawn(amount=amount))

        @applies(MoneyWithdrawn)
        def _withdrawn(self, event: MoneyWithdrawn) -> None:
            self.balance -= event.amount

Everything here is pure. `amends.stores.repository` loads and saves.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Iterable
from copy import deepcopy
from datetime import date, datetime, timedelta
from decimal import Decimal
from inspect import iscoroutinefunction
from typing import Any, ClassVar, Final, Self, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel

from amends.domain.codec import EventRegistry
from amends.domain.ids import check_id, check_name
from amends.errors import DefinitionError, NotRegistered, UsageError

A = TypeVar("A", bound="Aggregate")
E1 = TypeVar("E1", bound=BaseModel)
E2 = TypeVar("E2", bound=BaseModel)
E3 = TypeVar("E3", bound=BaseModel)

Handler = Callable[[A, E1], None]

_MARK: Final = "__amends_applies__"

#: State of these types needs no copy.
_ATOMIC: Final = frozenset(
    {type(None), bool, int, float, str, bytes, date, datetime, timedelta, Decimal, UUID}
)


@overload
def applies(a: type[E1], /) -> Callable[[Handler[A, E1]], Handler[A, E1]]: ...
@overload
def applies(
    a: type[E1], b: type[E2], /
) -> Callable[[Callable[[A, E1 | E2], None]], Callable[[A, E1 | E2], None]]: ...
@overload
def applies(
    a: type[E1], b: type[E2], c: type[E3], /
) -> Callable[[Callable[[A, E1 | E2 | E3], None]], Callable[[A, E1 | E2 | E3], None]]: ...
def applies(*classes: type[BaseModel]) -> Any:
    """Mark a method of an aggregate as what an event (or one of up to three) does to the state.

    The method must not decide, fail or do I/O: the event is a fact, and the same state must come
    of it on every load.
    """

    def mark(method: Callable[..., None]) -> Callable[..., None]:
        if iscoroutinefunction(method):
            raise DefinitionError(f"{method.__qualname__} applies events: it cannot be async")
        setattr(method, _MARK, classes)
        return method

    return mark


class _Sealing(ABCMeta):
    """Closes an aggregate's state when its construction is over."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        aggregate = super().__call__(*args, **kwargs)
        vars(aggregate)["_open"] = False
        return aggregate


class Aggregate(metaclass=_Sealing):
    """Base of event-sourced aggregates.

    A subclass names its `category` (its streams are `<category>-<id>`) and its `events`: classes,
    or an `EventRegistry` with their upcasters. Its state are attributes: set in the class body or
    in `__init__`, and changed by handlers marked `@applies(...)` alone. Setting one elsewhere
    raises UsageError, because no event would carry the change to the next load.

    Defining a subclass raises DefinitionError for an event without a handler, a handler without
    an event, and a default that all instances would share.
    """

    category: ClassVar[str]
    events: ClassVar[Iterable[type[BaseModel]] | EventRegistry]
    registry: ClassVar[EventRegistry]
    _handlers: ClassVar[dict[type[BaseModel], Callable[..., None]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_defaults(cls)
        if not hasattr(cls, "events"):  # a base class of the user's own
            return
        _check_category(cls)
        if isinstance(cls.events, EventRegistry):
            cls.registry = cls.events
        else:
            cls.registry = EventRegistry(cls.events)
        cls.registry.check()
        cls._handlers = _collect_handlers(cls)

    def __init__(self, id: str) -> None:
        """Make an aggregate to which nothing has happened yet. Raises UsageError for a bad id."""
        if not hasattr(self, "registry"):
            raise DefinitionError(f"{type(self).__qualname__} declares no events")
        check_id(id)
        vars(self).update(_open=True, _id=id, _version=-1, _pending=[])

    @classmethod
    def of(cls, id: str, events: Iterable[BaseModel]) -> Self:
        """The aggregate to which these events have happened, in this order."""
        aggregate = cls(id)
        for event in events:
            aggregate.evolve(event)
        return aggregate

    @property
    def id(self) -> str:
        """What follows the category in the stream's name."""
        return str(vars(self)["_id"])

    @property
    def version(self) -> int:
        """The version of the last event on record, from 0; -1 when there is none."""
        return int(vars(self)["_version"])

    @property
    def exists(self) -> bool:
        """Whether anything has happened to it, on record or pending."""
        return self.version >= 0 or bool(self.pending)

    @property
    def pending(self) -> tuple[BaseModel, ...]:
        """What was recorded since the last load or commit."""
        return tuple(vars(self)["_pending"])

    def record(self, event: BaseModel) -> None:
        """Decide that an event happens: its handler runs at once, the store gets it later.

        Raises NotRegistered for an event that the class does not declare, and UsageError inside
        a handler: a fact decides nothing.
        """
        if vars(self)["_open"]:
            raise UsageError(
                f"{type(self).__qualname__} recorded {type(event).__qualname__} while it applied "
                "another event: decide in the method that recorded the first one"
            )
        self._apply(event)
        vars(self)["_pending"].append(event)

    def evolve(self, event: BaseModel) -> None:
        """Take in an event that is on record: its handler runs, and the version grows by one.

        Raises UsageError while events are pending: they were decided without this one.
        """
        if vars(self)["_pending"]:
            raise UsageError(f"{self!r} has pending events, and cannot take in another one")
        self._apply(event)
        vars(self)["_version"] += 1

    def commit(self) -> None:
        """The pending events are on record now."""
        vars(self)["_version"] += len(vars(self)["_pending"])
        vars(self)["_pending"] = []

    def fork(self) -> Self:
        """An independent copy, to decide on: what becomes of it never touches this one.

        Costs a copy of the state. Override it when that is large and can be shared.
        """
        copy = object.__new__(type(self))
        memo: dict[int, Any] = {id(self): copy}
        vars(copy).update(
            (name, value if type(value) in _ATOMIC else deepcopy(value, memo))
            for name, value in vars(self).items()
        )
        return copy

    def _apply(self, event: BaseModel) -> None:
        handler = self._handlers.get(type(event))
        if handler is None:
            raise NotRegistered(
                f"{type(event).__qualname__} is not among the events of "
                f"{type(self).__qualname__}; nothing was changed"
            )
        state = vars(self)
        state["_open"] = True
        try:
            handler(self, event)
        finally:
            state["_open"] = False

    def __setattr__(self, name: str, value: object) -> None:
        if not vars(self).get("_open", True):
            raise UsageError(
                f"{type(self).__qualname__}.{name} was set outside a handler: no event carries "
                "the change, so the next load would lose it. Record an event, and set it in the "
                "method marked @applies(...)."
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.id} at version {self.version}>"


def _check_category(cls: type[Aggregate]) -> None:
    category = getattr(cls, "category", None)
    if not isinstance(category, str):
        raise DefinitionError(f'{cls.__qualname__} has no category: say category = "account"')
    try:
        check_name("category", category)
    except UsageError as error:
        raise DefinitionError(f"{cls.__qualname__}: {error}") from None


def _check_defaults(cls: type[Aggregate]) -> None:
    annotations = vars(cls).get("__annotations__", {})
    for name, value in vars(cls).items():
        if name == "events" or name.startswith("__") or "ClassVar" in str(annotations.get(name)):
            continue
        if isinstance(value, list | dict | set | bytearray):
            raise DefinitionError(
                f"{cls.__qualname__}.{name}: all instances would share this "
                f"{type(value).__name__}. Set it in __init__, after super().__init__(id)."
            )


def _collect_handlers(cls: type[Aggregate]) -> dict[type[BaseModel], Callable[..., None]]:
    handlers: dict[type[BaseModel], Callable[..., None]] = {}
    for base in reversed(cls.__mro__):
        names: dict[type[BaseModel], str] = {}
        for name, member in vars(base).items():
            for event in getattr(member, _MARK, ()):
                if event in names:
                    raise DefinitionError(
                        f"{base.__qualname__}: both {names[event]} and {name} apply "
                        f"{event.__qualname__}; one event has one handler"
                    )
                names[event] = name
                # By name: a subclass that overrides the method need not mark it again.
                handlers[event] = getattr(cls, name)
    _check_handlers(cls, handlers)
    return handlers


def _check_handlers(
    cls: type[Aggregate], handlers: dict[type[BaseModel], Callable[..., None]]
) -> None:
    declared = {cls.registry.class_of(type) for type in cls.registry.types()}
    if unhandled := sorted(event.__qualname__ for event in declared - handlers.keys()):
        raise DefinitionError(
            f"{cls.__qualname__} has no handler for {', '.join(unhandled)}: an event that nothing "
            "applies would be lost on every load. Mark a method with @applies(...), even if its "
            "body is `pass`."
        )
    if undeclared := sorted(event.__qualname__ for event in handlers.keys() - declared):
        raise DefinitionError(
            f"{cls.__qualname__} applies {', '.join(undeclared)}, which `events` does not list"
        )

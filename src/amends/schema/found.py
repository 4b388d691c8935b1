"""The domain events of an application: found where its code names them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from amends.app import App
from amends.domain.aggregate import Aggregate
from amends.domain.codec import event_name
from amends.domain.named import named_by, names_in_reach


class DomainEvent(NamedTuple):
    """A domain event, and who puts it on record: a saga, an aggregate, or nobody that is known."""

    cls: type[BaseModel]
    saga: str = ""
    category: str = ""

    @property
    def type(self) -> str:
        """Its type in the log."""
        return event_name(self.cls).type

    @property
    def owner(self) -> str:
        """The name of who puts it on record."""
        return self.saga or self.category


class Found(NamedTuple):
    """The events, and what was seen but cannot be told: texts for people."""

    events: list[DomainEvent]
    doubts: list[str]


def domain_events(app: App) -> Found:
    """What sagas emit by their source, what the aggregates record that activities name, what
    projections know, and what the application names itself. Each class once per owner.
    """
    doubts: list[str] = []
    events: dict[DomainEvent, None] = {}
    for saga in app.sagas.values():
        for emitted in _emitted(saga.fn):
            if isinstance(emitted, str):
                doubts.append(
                    f"what saga {saga.name!r} emits at {emitted} cannot be told from its source"
                )
            else:
                events[DomainEvent(emitted, saga=saga.name)] = None
    named = [thing for a in app.activities.values() for thing in named_by(a.fn)]
    for aggregate in _aggregates(*named, *app.events):
        for type in sorted(aggregate.registry.types()):
            cls = aggregate.registry.class_of(type)
            events[DomainEvent(cls, category=aggregate.category)] = None
    owned = {event.cls for event in events}
    others = [cls for projection in app.projections.values() for cls in projection.event_classes]
    for cls in (*others, *(cls for cls in app.events if issubclass(cls, BaseModel))):
        if cls not in owned:
            events[DomainEvent(cls)] = None
    return Found(list(events), doubts)


def _aggregates(*things: Any) -> Iterator[type[Aggregate]]:
    for thing in things:
        if isinstance(thing, type) and issubclass(thing, Aggregate) and hasattr(thing, "registry"):
            yield thing


def _emitted(fn: Callable[..., Any]) -> Iterator[type[BaseModel] | str]:
    """The classes that a saga's source emits: `ctx.emit(Paid(…))`, or a variable that it made so.

    Where that cannot be told, the place instead, for people.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    except (OSError, TypeError, SyntaxError):  # no source: it was typed at a prompt
        return
    context = next(iter(inspect.signature(fn).parameters))
    reach = names_in_reach(fn)
    made = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    first = fn.__code__.co_firstlineno
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not _is_emit(node, context):
            continue
        what = node.args[0]
        if isinstance(what, ast.Name):
            what = made.get(what.id, what)
        cls = _class_of(what, reach)
        yield f"line {first + node.lineno - 1}" if cls is None else cls


def _is_emit(node: ast.Call, context: str) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr == "emit"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == context
        and len(node.args) == 1
    )


def _class_of(made: ast.expr, reach: Mapping[str, Any]) -> type[BaseModel] | None:
    """The class of what `Paid(…)` makes, or `Paid.model_validate(…)` and the like."""
    if not isinstance(made, ast.Call):
        return None
    called = _resolve(made.func, reach)
    if not isinstance(called, type) and isinstance(made.func, ast.Attribute):
        called = _resolve(made.func.value, reach)
    return called if isinstance(called, type) and issubclass(called, BaseModel) else None


def _resolve(name: ast.expr, reach: Mapping[str, Any]) -> Any:
    if isinstance(name, ast.Name):
        return reach.get(name.id)
    if isinstance(name, ast.Attribute):
        return getattr(_resolve(name.value, reach), name.attr, None)
    return None

"""Filters over instances, as people type them. Pure.

    state:parked saga:transfer_money older:1h payer:DE89* memo:"rent, May"

Terms stand for themselves and must all fit; of the values of one term, one must. A value may end
with `*`, and one with blanks or commas stands in double quotes. Names that are not the filter's own
are those of values in the sagas' inputs; `input.state` is such a value, too, if it is called `state`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from amends.domain.status import Status
from amends.errors import InvalidFilter
from amends.projections.sagas import SagaSummary

#: The state of an instance whose journal cannot be read.
UNREADABLE: Final = "unreadable"
STATES: Final = (*(str(status) for status in Status), UNREADABLE)
#: Before the name of a value in the input.
INPUT: Final = "input."

_NAME: Final = re.compile(r"[A-Za-z_][\w.]*:")
_VALUE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s",]+')
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Value(NamedTuple):
    """One value of a term. `at` is its place in the filter's text."""

    text: str
    is_prefix: bool
    at: int

    def fits(self, text: str | None) -> bool:
        """Whether a text is what is looked for."""
        if text is None:
            return False
        return text.startswith(self.text) if self.is_prefix else text == self.text


class Field(NamedTuple):
    """A term about a value in the input."""

    name: str
    values: tuple[Value, ...]
    at: int


class Filter(NamedTuple):
    """What is looked for; empty is everything. An unreadable instance fits whatever its state."""

    text: str = ""
    states: frozenset[str] = frozenset()
    sagas: tuple[Value, ...] = ()
    ids: tuple[Value, ...] = ()
    steps: tuple[Value, ...] = ()
    errors: tuple[Value, ...] = ()
    older: timedelta | None = None
    newer: timedelta | None = None
    idle: timedelta | None = None
    fields: tuple[Field, ...] = ()

    def fits(self, summary: SagaSummary, now: datetime) -> bool:
        """Whether an instance is looked for."""
        step, error = summary.step, summary.error
        return (
            self._has_state(summary)
            and _any(self.sagas, summary.instance.saga)
            and _any(self.ids, summary.instance.id)
            and _any(self.steps, None if step is None else step.activity)
            and _any(self.errors, None if error is None else error.type)
            and (self.older is None or summary.started_at < now - self.older)
            and (self.newer is None or summary.started_at >= now - self.newer)
            and (self.idle is None or summary.updated_at < now - self.idle)
            and all(_any(field.values, summary.fields.get(field.name)) for field in self.fields)
        )

    def _has_state(self, summary: SagaSummary) -> bool:
        return not self.states or summary.fault is not None or str(summary.state) in self.states

    def unknown(self, field: Field) -> InvalidFilter:
        """That no instance has a value of this name in its input."""
        return _error(
            self.text,
            field.at,
            f"no instance has a value {field.name!r} in its input, and the filter's own names are "
            f"{', '.join(_OWN)}",
        )


def _any(values: tuple[Value, ...], text: str | None) -> bool:
    return not values or any(value.fits(text) for value in values)


def parse_filter(text: str) -> Filter:
    """Read a filter. Raises InvalidFilter, which points at the place."""
    found = Filter(text)
    seen: set[str] = set()
    for name, values, at in _terms(text):
        if name in seen:
            raise _error(
                text, at, f"{name!r} stands there twice; write {name}:this,that for either"
            )
        seen.add(name)
        if name in _OWN:
            found = _add_own(found, name, values)
        else:
            field = Field(name.removeprefix(INPUT), values, at)
            found = found._replace(fields=(*found.fields, field))
    return found


_OWN: Final = ("state", "saga", "id", "step", "error", "older", "newer", "idle")


def _add_own(found: Filter, name: str, values: tuple[Value, ...]) -> Filter:
    match name:
        case "state":
            states = frozenset(state for value in values for state in _states(found.text, value))
            return found._replace(states=states)
        case "saga":
            return found._replace(sagas=values)
        case "id":
            return found._replace(ids=values)
        case "step":
            return found._replace(steps=values)
        case "error":
            return found._replace(errors=values)
    if len(values) > 1:
        raise _error(found.text, values[1].at, f"{name!r} takes one span of time")
    span = parse_span(values[0].text)
    if span is None or values[0].is_prefix:
        raise _error(
            found.text,
            values[0].at,
            f"{values[0].text!r} is no span of time; write 90s, 30m, 1h, 2d or 1w",
        )
    match name:
        case "older":
            return found._replace(older=span)
        case "newer":
            return found._replace(newer=span)
    return found._replace(idle=span)


def _states(text: str, value: Value) -> Iterator[str]:
    states = [state for state in STATES if value.fits(state)]
    if not states:
        raise _error(
            text, value.at, f"there is no state {value.text!r}; there are {', '.join(STATES)}"
        )
    yield from states


def parse_span(text: str) -> timedelta | None:
    """A span of time: 90s, 30m, 1h, 2d, 1w. None if it is none."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})


# --- reading


def _terms(text: str) -> Iterator[tuple[str, tuple[Value, ...], int]]:
    """The terms of a filter: name, values, and where they begin."""
    at = 0
    while (at := _blanks(text, at)) < len(text):
        name = _NAME.match(text, at)
        if name is None:
            raise _error(text, at, "write name:value, for example state:parked")
        values, end = _values(text, name.end())
        yield name[0][:-1], values, at
        at = end


def _values(text: str, at: int) -> tuple[tuple[Value, ...], int]:
    values: list[Value] = []
    while True:
        value = _VALUE.match(text, at)
        if value is None:
            what = (
                "this quote has no end" if text[at : at + 1] == '"' else "a value is missing here"
            )
            raise _error(text, at, what)
        values.append(_value(value[0], at))
        at = value.end()
        if text[at : at + 1] != ",":
            break
        at += 1
    if text[at : at + 1].strip():
        raise _error(text, at, "a blank is missing here")
    return tuple(values), at


def _value(text: str, at: int) -> Value:
    if text.startswith('"'):
        return Value(re.sub(r"\\(.)", r"\1", text[1:-1]), False, at)
    return Value(text.removesuffix("*"), text.endswith("*"), at)


def _blanks(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _error(text: str, at: int, what: str) -> InvalidFilter:
    return InvalidFilter(f"the filter cannot be read: {what}\n  {text}\n  {' ' * at}^")

"""Finding instances in the tables of the projection *sagas*, quickly also among millions.

The latest are wanted first, and only some. So an index is walked from the latest on, for each state or what
else must be the same, and the walks are merged; unless a value that is looked for is rare, which then leads to
the few that have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, and_, desc, exists, func, or_, select, union_all

from amends.domain.ids import InstanceId
from amends.projections.builtin.columns import after_prefix
from amends.projections.builtin.sagas import fields, sagas
from amends.projections.filter import STATES, UNREADABLE, Field, Filter, Value
from amends.projections.sagas import SagaSummary

#: A value that no more instances have is rare: they are looked at one by one.
RARE: Final = 2000


class Found(NamedTuple):
    """The latest instances that fit, and whether there are more."""

    instances: list[SagaSummary]
    more: bool


def find(connection: Connection, filter: Filter, now: datetime, limit: int) -> Found:
    """The latest instances that fit. Raises InvalidFilter for a value that no input has."""
    for field in filter.fields:
        if connection.execute(select(1).where(_named(field)).limit(1)).first() is None:
            raise filter.unknown(field)
    few = _few(connection, filter)
    conditions = [*_conditions(filter, now), *map(_has, filter.fields)]
    if few is None:
        wanted = _latest_of_each(_walks(filter), conditions, limit + 1)
    else:
        together = and_(sagas.c.saga == few.c.saga, sagas.c.id == few.c.id)
        conditions.append(sagas.c.state.in_(_states(filter)))
        wanted = select(*_SHOWN).join_from(few, sagas, together).where(*conditions)
    rows = connection.execute(wanted.order_by(*_latest(wanted.selected_columns)).limit(limit + 1))
    found = [
        SagaSummary.unfolded(InstanceId(row["saga"], row["id"]), row["fold"])
        for row in rows.mappings()
    ]
    return Found(found[:limit], len(found) > limit)


def count(connection: Connection) -> Counter[tuple[str, str]]:
    """How many instances there are, by saga and state."""
    by = (sagas.c.saga, sagas.c.state)
    rows = connection.execute(select(*by, func.count()).group_by(*by))
    return Counter({(saga, state): number for saga, state, number in rows})


_SHOWN: Final = (sagas.c.saga, sagas.c.id, sagas.c.fold, sagas.c.started, sagas.c.position)


def _latest(columns: Any) -> tuple[Any, Any]:
    return desc(columns.started), desc(columns.position)


def _states(filter: Filter) -> Sequence[str]:
    return sorted({*filter.states, UNREADABLE}) if filter.states else STATES


def _walks(filter: Filter) -> list[list[Any]]:
    """What is the same in each walk: an index has it in front, and then the order that is shown."""
    c = sagas.c
    for column, values in ((c.step, filter.steps), (c.error_type, filter.errors)):
        if exact := _exact(values):
            in_states = c.state.in_(_states(filter))
            return [[column == value, in_states] for value in exact]
    names = [[c.saga == saga] for saga in _exact(filter.sagas)] or [[]]
    return [[c.state == state, *name] for state in _states(filter) for name in names]


def _exact(values: Sequence[Value]) -> list[str]:
    """The values of a term, unless one of them stands for several."""
    return [] if any(value.is_prefix for value in values) else [value.text for value in values]


def _latest_of_each(walks: Sequence[Sequence[Any]], conditions: Sequence[Any], limit: int) -> Any:
    """The latest of each walk, which ends when it has enough."""
    parts = [
        select(*_SHOWN)
        .where(*walk, *conditions)
        .order_by(*_latest(sagas.c))
        .limit(limit)
        .subquery()
        for walk in walks
    ]
    return select(union_all(*map(select, parts)).subquery())


def _few(connection: Connection, filter: Filter) -> Any:
    """The keys of all that have a rare value, id, step or error, if the filter names one."""
    keys = [select(fields.c.saga, fields.c.id).where(_matches(field)) for field in filter.fields]
    for column, values in (
        (sagas.c.id, filter.ids), (sagas.c.step, filter.steps), (sagas.c.error_type, filter.errors),
    ):  # fmt: skip
        if values:
            keys.append(select(sagas.c.saga, sagas.c.id).where(_is_one(column, values)))
    for wanted in keys:
        # The limit keeps the database from looking at it the other way round.
        some = wanted.limit(RARE + 1).subquery()
        found: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
        if found <= RARE:
            return some
    return None


def _conditions(filter: Filter, now: datetime) -> Iterator[Any]:
    c = sagas.c
    for column, values in (
        (c.saga, filter.sagas), (c.id, filter.ids), (c.step, filter.steps),
        (c.error_type, filter.errors),
    ):  # fmt: skip
        if values:
            yield _is_one(column, values)
    if filter.older is not None:
        yield c.started < now - filter.older
    if filter.newer is not None:
        yield c.started >= now - filter.newer
    if filter.idle is not None:
        yield c.updated < now - filter.idle


def _has(field: Field) -> Any:
    same = and_(fields.c.saga == sagas.c.saga, fields.c.id == sagas.c.id)
    return exists(select(1).where(same, _matches(field)).correlate(sagas))


def _named(field: Field) -> Any:
    return fields.c.name == field.name


def _matches(field: Field) -> Any:
    return and_(_named(field), _is_one(fields.c.value, field.values))


def _is_one(column: Any, values: Sequence[Value]) -> Any:
    return or_(*(_is(column, value) for value in values))


def _is(column: Any, value: Value) -> Any:
    if not value.is_prefix:
        return column == value.text
    return and_(column >= value.text, column < after_prefix(value.text))

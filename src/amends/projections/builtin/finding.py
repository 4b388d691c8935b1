"""Finding instances in the tables of the projection *sagas*, quickly also among millions.

The latest are wanted first, and only some. So each state is walked by its index from the latest on, and
the walks are merged; unless a value that is looked for is rare, which then leads to the few that have it.
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
    rare = next((field for field in filter.fields if _is_rare(connection, field)), None)
    rest = [field for field in filter.fields if field is not rare]
    conditions = [*_conditions(filter, now), *(_has(field) for field in rest)]
    if rare is not None:
        wanted = _among(rare, filter, conditions)
    elif filter.ids:
        wanted = select(*_SHOWN).where(_in_states(filter), *conditions)
    else:
        wanted = _by_state(filter, conditions, limit + 1)
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


def _in_states(filter: Filter) -> Any:
    return sagas.c.state.in_(_states(filter))


def _by_state(filter: Filter, conditions: Sequence[Any], limit: int) -> Any:
    """The latest of each state; each is a walk along an index, whose end is the limit."""
    exact = [value.text for value in filter.sagas if not value.is_prefix]
    kinds: Sequence[str | None] = exact if len(exact) == len(filter.sagas) and exact else [None]
    walks = []
    for state in _states(filter):
        for saga in kinds:
            own = [sagas.c.state == state, *([] if saga is None else [sagas.c.saga == saga])]
            walk = select(*_SHOWN).where(*own, *conditions)
            latest = walk.order_by(*_latest(sagas.c)).limit(limit).subquery()
            walks.append(select(latest))
    together = union_all(*walks).subquery()
    return select(together)


def _among(field: Field, filter: Filter, conditions: Sequence[Any]) -> Any:
    """Those that have a rare value."""
    # The limit keeps the database from looking at it the other way round.
    keys = select(fields.c.saga, fields.c.id).where(_matches(field)).limit(RARE).subquery()
    together = and_(sagas.c.saga == keys.c.saga, sagas.c.id == keys.c.id)
    return select(*_SHOWN).join_from(keys, sagas, together).where(_in_states(filter), *conditions)


def _is_rare(connection: Connection, field: Field) -> bool:
    some = select(1).where(_matches(field)).limit(RARE + 1).subquery()
    found: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return found <= RARE


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

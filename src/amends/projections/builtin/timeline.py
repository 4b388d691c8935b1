"""The projection *timeline*: what happened to each instance, one row for each event of its journal."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

from amends.domain.envelope import CORRELATION_ID
from amends.domain.events import JOURNAL_EVENTS
from amends.domain.ids import JOURNAL_PREFIX
from amends.domain.removals import REMOVALS, RemovalDecided
from amends.projections.builtin.columns import ERROR_CHARS_MAX, Word, forget, instance_key
from amends.projections.definition import Projection, on, on_every
from amends.projections.event import Event
from amends.projections.moment import Moment
from amends.projections.rows import Rows

_OWN: Final = frozenset(cls.__name__ for cls in JOURNAL_EVENTS)

timeline: Final = Table(
    "timeline",
    MetaData(),
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("at", Moment, nullable=False),
    Column("type", Word, nullable=False),
    Column("seq", Integer),
    Column("attempt", Integer),
    Column("name", Word),
    Column("error_type", Word),
    Column("error", Text),
    Column("who", Word),
    Column("why", Text),
    Column("correlation", Word),
)


class Timeline(Projection):
    """Every event of every journal: when, what, about which step, and who decided it and why. `name`
    is that of a scheduled activity or of a signal. Emitted domain events are among them.
    """

    name = "timeline"
    version = 1
    tables = (timeline,)
    streams = (JOURNAL_PREFIX, REMOVALS)

    @on(RemovalDecided)
    def removed(self, event: Event[RemovalDecided], rows: Rows) -> None:
        """Forget instances whose journals are about to go."""
        forget(event.data, rows, timeline)

    @on_every
    def happened(self, event: Event[Any], rows: Rows) -> None:
        """Whatever stands in a journal, also what cannot be read."""
        is_own = event.type in _OWN
        data = event.json if is_own else {}
        error = data.get("error") or {}
        rows.upsert(
            timeline, **instance_key(event), version=event.version, position=event.position,
            at=event.at, type=event.type, seq=data.get("seq"), attempt=data.get("attempt"),
            name=data.get("activity") or data.get("name"), error_type=error.get("type"),
            error=_cut(error.get("message")), who=data.get("who"), why=_cut(data.get("why")),
            correlation=event.metadata.get(CORRELATION_ID),
        )  # fmt: skip


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:ERROR_CHARS_MAX]

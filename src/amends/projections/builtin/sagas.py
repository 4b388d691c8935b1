"""The projection *sagas*: where each instance stands; what `amends list` and `status` ask."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, overload

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text

from amends.domain.ids import JOURNAL_PREFIX
from amends.domain.removals import REMOVALS, RemovalDecided
from amends.projections.builtin.columns import ERROR_CHARS_MAX, Word, forget, instance_key
from amends.projections.definition import Projection, on, on_every
from amends.projections.event import Event
from amends.projections.filter import UNREADABLE
from amends.projections.moment import Moment
from amends.projections.rows import Rows
from amends.projections.sagas import SagaSummary

_metadata: Final = MetaData()

sagas: Final = Table(
    "sagas",
    _metadata,
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("state", Word, nullable=False),
    Column("step", Word),
    Column("attempt", Integer),
    Column("error_type", Word),
    Column("error", Text),
    Column("started", Moment, nullable=False),
    Column("updated", Moment, nullable=False),
    Column("deadline", Moment),
    Column("next_timer", Moment),
    Column("events", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("fold", Text, nullable=False),
    # What is looked for is found in the order in which it is shown: the latest first.
    Index("sagas_by_state", "state", "started", "position"),
    Index("sagas_by_saga", "saga", "state", "started", "position"),
    Index("sagas_by_id", "id"),
    Index("sagas_by_step", "step", "started", "position"),
    Index("sagas_by_error", "error_type", "started", "position"),
)
fields: Final = Table(
    "saga_fields",
    _metadata,
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("name", Word, primary_key=True),
    Column("value", Word, nullable=False),
    Index("saga_fields_by_value", "name", "value"),
)


class Sagas(Projection):
    """Every saga instance: state, current step and attempt, last error, times, and the plain values
    of its input, by which it can be looked for.
    """

    name = "sagas"
    version = 1
    tables = (sagas, fields)
    streams = (JOURNAL_PREFIX, REMOVALS)

    @on(RemovalDecided)
    def removed(self, event: Event[RemovalDecided], rows: Rows) -> None:
        """Forget instances whose journals are about to go. One to which something happens in that
        very moment stays in the log, and is shown here as unreadable, because it has no beginning.
        """
        forget(event.data, rows, sagas, fields)

    @on_every
    def take(self, event: Event[Any], rows: Rows) -> None:
        """Take any event of a journal."""
        instance, key = event.instance, instance_key(event)
        row = None if event.version == 0 else rows.get(sagas, **key)
        if row is not None:
            summary = SagaSummary.unfolded(instance, row["fold"])
            summary.take([event.record])
            rows.update(sagas, **key, **_columns(summary, event))
            return
        summary = SagaSummary(instance)
        summary.take([event.record])
        for name, value in summary.fields.items():
            rows.upsert(fields, **key, name=name, value=value)
        rows.upsert(sagas, **key, position=event.position, **_columns(summary, event))


def _columns(summary: SagaSummary, event: Event[Any]) -> dict[str, Any]:
    step, error = summary.step, summary.error
    unreadable = summary.fault is not None
    return {
        "state": UNREADABLE if unreadable else str(summary.state),
        "step": None if step is None else step.activity,
        "attempt": None if step is None else step.attempt,
        "error_type": None if error is None else error.type,
        "error": None if error is None else error.message[:ERROR_CHARS_MAX],
        "started": _utc(summary.started_at) if summary.events else event.at,
        "updated": _utc(summary.updated_at) if summary.events else event.at,
        "deadline": _utc(summary.deadline),
        "next_timer": _utc(summary.next_timer),
        "events": summary.events,
        "fold": summary.folded().decode(),
    }


@overload
def _utc(moment: datetime) -> datetime: ...
@overload
def _utc(moment: datetime | None) -> datetime | None: ...
def _utc(moment: datetime | None) -> datetime | None:
    """A moment as the database gives it back, so that the row need not be read again."""
    return None if moment is None else moment.astimezone(UTC)

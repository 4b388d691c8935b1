"""The projection *compensations*: what was undone, why, and what is still being undone."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, Index, Integer, MetaData, Table, Text

from amends.domain import events as e
from amends.domain.ids import JOURNAL_PREFIX
from amends.domain.removals import REMOVALS, RemovalDecided
from amends.projections.builtin.columns import Word, error_columns, forget, instance_key
from amends.projections.definition import Projection, on
from amends.projections.event import Event
from amends.projections.moment import Moment
from amends.projections.rows import Rows

_metadata: Final = MetaData()

compensations: Final = Table(
    "compensations",
    _metadata,
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("undo", Word, nullable=False),
    Column("step", Integer, nullable=False),
    Column("undoes", Word),
    Column("reason", Word, nullable=False),
    Column("why_type", Word),
    Column("why", Text),
    Column("state", Word, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error_type", Word),
    Column("error", Text),
    Column("begun", Moment, nullable=False),
    Column("ended", Moment),
    Index("compensations_by_state", "state", "begun"),
)
undoable: Final = Table(
    "compensation_steps",
    _metadata,
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("activity", Word, nullable=False),
)
reasons: Final = Table(
    "compensation_reasons",
    _metadata,
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("reason", Word, nullable=False),
    Column("why_type", Word),
    Column("why", Text),
)

#: The reason of an undo whose saga did not fail: it had gone on without the step.
UNWANTED: Final = "unwanted"


class Compensations(Projection):
    """Every undo: what it undoes, for what reason, whether it is open, done, parked, or skipped by a
    person, and from when to when it ran.
    """

    name = "compensations"
    version = 1
    tables = (compensations, undoable, reasons)
    streams = (JOURNAL_PREFIX, REMOVALS)
    skips_unknown = True

    @on(RemovalDecided)
    def removed(self, event: Event[RemovalDecided], rows: Rows) -> None:
        """Forget instances whose journals are about to go."""
        forget(event.data, rows, compensations, undoable, reasons)

    @on(e.CompensationStarted)
    def began(self, event: Event[e.CompensationStarted], rows: Rows) -> None:
        """From here on undos have this reason."""
        error = event.data.error
        rows.upsert(
            reasons, **instance_key(event), reason=event.data.reason,
            why_type=None if error is None else error.type,
            why=None if error is None else error_columns(error)["error"],
        )  # fmt: skip

    @on(e.StepScheduled)
    def scheduled(self, event: Event[e.StepScheduled], rows: Rows) -> None:
        """A step that can be undone, or an undo."""
        step, key = event.data, instance_key(event)
        if step.kind is e.StepKind.STEP and step.undo is not None:
            rows.upsert(undoable, **key, seq=step.seq, activity=step.activity)
        if step.kind is e.StepKind.UNDO and step.of is not None:
            undone = rows.get(undoable, **key, seq=step.of)
            reason = rows.get(reasons, **key) or {"reason": UNWANTED, "why_type": None, "why": None}
            rows.upsert(
                compensations, **key, seq=step.seq, undo=step.activity, step=step.of,
                undoes=None if undone is None else undone["activity"], reason=reason["reason"],
                why_type=reason["why_type"], why=reason["why"], state="open", attempts=1,
                error_type=None, error=None, begun=event.at, ended=None,
            )  # fmt: skip

    # What follows is about any step; of one that is no undo there is no row, so nothing happens.

    @on(e.StepAttemptFailed)
    def attempt_failed(self, event: Event[e.StepAttemptFailed], rows: Rows) -> None:
        """One attempt of it did not come to a result."""
        error = error_columns(event.data.error)
        rows.update(compensations, **_key(event), attempts=event.data.attempt, **error)

    @on(e.StepRetried)
    def retried(self, event: Event[e.StepRetried], rows: Rows) -> None:
        """Its next attempt may run from here on."""
        rows.update(compensations, **_key(event), attempts=event.data.attempt)

    @on(e.StepCompleted)
    def done(self, event: Event[e.StepCompleted], rows: Rows) -> None:
        """It is undone."""
        rows.update(
            compensations, **_key(event), state="done", attempts=event.data.attempt, ended=event.at,
            error_type=None, error=None,
        )  # fmt: skip

    @on(e.StepReportedLate)
    def reported_late(self, event: Event[e.StepReportedLate], rows: Rows) -> None:
        """It turned out to be undone."""
        if event.data.completed:
            rows.update(compensations, **_key(event), state="done", ended=event.at)

    @on(e.StepFailed, e.StepUnknown, e.StepParked)
    def stuck(self, event: Event[e.StepFailed | e.StepUnknown | e.StepParked], rows: Rows) -> None:
        """It waits for a person: an undo is never given up."""
        rows.update(compensations, **_key(event), state="parked", **error_columns(event.data.error))

    @on(e.StepResolved)
    def resolved(self, event: Event[e.StepResolved], rows: Rows) -> None:
        """A person decided."""
        state = {"retry": "open", "skip": "skipped", "complete": "done"}[event.data.resolution]
        ended = None if state == "open" else event.at
        rows.update(compensations, **_key(event), state=state, ended=ended)


def _key(event: Event[Any]) -> dict[str, Any]:
    return {**instance_key(event), "seq": event.data.seq}

"""The projection *effects*: each step, undo and probe, what came of it, and under which key."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Boolean, Column, Index, Integer, MetaData, Table, Text

from amends.domain import events as e
from amends.domain.ids import JOURNAL_PREFIX, InstanceId
from amends.domain.messages import RunStep
from amends.domain.removals import REMOVALS, RemovalDecided
from amends.projections.builtin.columns import Word, error_columns, forget, instance_key
from amends.projections.definition import Projection, on
from amends.projections.event import Event
from amends.projections.moment import Moment
from amends.projections.rows import Rows

effects: Final = Table(
    "effects",
    MetaData(),
    Column("saga", Word, primary_key=True),
    Column("id", Word, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("activity", Word, nullable=False),
    Column("kind", Word, nullable=False),
    Column("of", Integer),
    Column("undo", Word),
    Column("pivot", Boolean, nullable=False),
    Column("idempotency_key", Word, nullable=False),
    Column("outcome", Word, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error_type", Word),
    Column("error", Text),
    Column("decided_by", Word),
    Column("scheduled", Moment, nullable=False),
    Column("ended", Moment),
    Index("effects_by_key", "idempotency_key"),
    Index("effects_by_outcome", "outcome", "scheduled"),
)

_RESOLVED: Final = {
    e.Resolution.RETRY: "running",
    e.Resolution.SKIP: "skipped",
    e.Resolution.COMPLETE: "completed",
}


class Effects(Projection):
    """Every step with its outcome: running, completed, failed, unknown, parked, or skipped by a
    person. `late` is one whose effect turned out to have happened when it was over already.
    """

    name = "effects"
    version = 1
    tables = (effects,)
    streams = (JOURNAL_PREFIX, REMOVALS)
    skips_unknown = True

    @on(RemovalDecided)
    def removed(self, event: Event[RemovalDecided], rows: Rows) -> None:
        """Forget instances whose journals are about to go."""
        forget(event.data, rows, effects)

    @on(e.StepScheduled)
    def scheduled(self, event: Event[e.StepScheduled], rows: Rows) -> None:
        """The step may run from here on."""
        step = event.data
        rows.upsert(
            effects, **_key(event), activity=step.activity, kind=str(step.kind), of=step.of,
            undo=step.undo, pivot=step.pivot, idempotency_key=_idempotency_key(event.instance, step),
            outcome="running", late=False, attempts=1, error_type=None, error=None, decided_by=None,
            scheduled=event.at, ended=None,
        )  # fmt: skip

    @on(e.StepAttemptFailed)
    def attempt_failed(self, event: Event[e.StepAttemptFailed], rows: Rows) -> None:
        """One attempt of it did not come to a result."""
        failed = event.data
        rows.update(effects, **_key(event), attempts=failed.attempt, **error_columns(failed.error))

    @on(e.StepRetried)
    def retried(self, event: Event[e.StepRetried], rows: Rows) -> None:
        """Its next attempt may run from here on."""
        rows.update(effects, **_key(event), attempts=event.data.attempt)

    @on(e.StepCompleted)
    def completed(self, event: Event[e.StepCompleted], rows: Rows) -> None:
        """Its effect happened."""
        rows.update(
            effects, **_key(event), outcome="completed", attempts=event.data.attempt, ended=event.at,
            error_type=None, error=None,
        )  # fmt: skip

    @on(e.StepFailed)
    def failed(self, event: Event[e.StepFailed], rows: Rows) -> None:
        """Its effect did not happen."""
        error = error_columns(event.data.error)
        rows.update(effects, **_key(event), outcome="failed", ended=event.at, **error)

    @on(e.StepUnknown)
    def unknown(self, event: Event[e.StepUnknown], rows: Rows) -> None:
        """Nobody knows whether its effect happened."""
        parks = event.data.then is e.AfterUnknown.PARK
        outcome, ended = ("parked", None) if parks else ("unknown", event.at)
        error = error_columns(event.data.error)
        rows.update(effects, **_key(event), outcome=outcome, ended=ended, **error)

    @on(e.StepParked)
    def parked(self, event: Event[e.StepParked], rows: Rows) -> None:
        """It waits for a person."""
        error = error_columns(event.data.error)
        rows.update(effects, **_key(event), outcome="parked", ended=None, **error)

    @on(e.StepResolved)
    def resolved(self, event: Event[e.StepResolved], rows: Rows) -> None:
        """A person decided."""
        outcome = _RESOLVED[event.data.resolution]
        ended = None if outcome == "running" else event.at
        who = event.data.who
        rows.update(effects, **_key(event), outcome=outcome, ended=ended, decided_by=who)

    @on(e.StepReportedLate)
    def reported_late(self, event: Event[e.StepReportedLate], rows: Rows) -> None:
        """A report came when it was over. That its effect happened is the last word on it."""
        if event.data.completed:
            rows.update(effects, **_key(event), outcome="completed", late=True, ended=event.at)


def _key(event: Event[Any]) -> dict[str, Any]:
    return {**instance_key(event), "seq": event.data.seq}


def _idempotency_key(instance: InstanceId, step: e.StepScheduled) -> str:
    command = RunStep(
        saga=instance.saga,
        id=instance.id,
        seq=step.seq,
        attempt=1,
        activity=step.activity,
        of=step.of,
    )
    return command.idempotency_key

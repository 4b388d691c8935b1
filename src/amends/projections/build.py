"""Building a projection from the log, from the first event to the last or to any other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from amends.domain.clock import Clock, SystemClock
from amends.domain.ids import Position
from amends.errors import ProjectionError, ProjectionStopped
from amends.projections import records
from amends.projections.applying import Applier, prepare
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.projections.lease import Lease
from amends.projections.log import BATCH, Batch, read_batch
from amends.projections.records import Record, Target
from amends.stores.port import EventStore

#: A build has no rival; its lease only says whose it is.
LEASE_S: Final = 60.0

#: Up to an event's position, or to the last event before one that was recorded later.
Until = Position | datetime | None
#: Told how many events were applied, and how far it is.
Progress = Callable[[int, Position], None]


async def build(
    projection: Projection,
    store: EventStore,
    database: Database,
    *,
    until: Until = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Record:
    """Build a projection aside, in a database that does not have it: as of the log's present end,
    as of a position, or as of a moment.

    As of a moment is: up to the first of the projection's events that was recorded later.

    Raises ProjectionStopped at an event that cannot be applied, ProjectionError if the database has
    the projection already, and what store and database raise.
    """
    clock = clock or SystemClock()

    def begin(connection: Connection) -> tuple[Record, int]:
        now = clock.now()
        if records.load(connection, projection.name) is not None:
            raise ProjectionError(
                f"{database.shown} has projection {projection.name!r} already. Nothing was changed. "
                "Name a new file"
            )
        record = prepare(connection, projection, database, now)
        token = records.take_lease(
            connection, record.name, record.target, owner="build", now=now, lease_s=LEASE_S
        )
        assert token is not None  # it is new
        return record, token

    record, token = await database.run(begin)
    lease = Lease(database, clock, record.name, Target.LIVE, token, LEASE_S)
    applier = Applier(projection, record, database)
    last = await store.end() if until is None else until
    await advance(applier, lease, store, until=last, progress=progress)
    record = await lease.renewed()
    await lease.release()
    return record


async def advance(
    applier: Applier,
    lease: Lease,
    store: EventStore,
    *,
    until: Position | datetime,
    skipping: frozenset[int] = frozenset(),
    progress: Progress | None = None,
) -> None:
    """Apply what follows the checkpoint, up to a position or a moment.

    Raises ProjectionStopped at an event that cannot be applied.
    """
    record = await lease.renewed()
    at = record.position
    filter = applier.projection.filter
    while not isinstance(until, int) or at < until:
        batch, is_last = _cut(await read_batch(store, at, filter, BATCH), until, at)
        if batch.end == at:
            return
        fault = await lease.apply(applier, batch, skipping)
        if fault is not None:
            raise ProjectionStopped(record._replace(fault=fault).stopped_text)
        at = batch.end
        if progress is not None:
            progress(len(batch.events), at)
        if is_last:
            return


def _cut(batch: Batch, until: Position | datetime, at: Position) -> tuple[Batch, bool]:
    """What of a batch is wanted, and whether nothing after it is."""
    if isinstance(until, datetime):
        for number, event in enumerate(batch.events):
            if event.recorded_at > until:
                before = batch.events[:number]
                return Batch(before, before[-1].position if before else at), True
        return batch, len(batch.events) < BATCH
    if batch.end <= until:
        return batch, False
    return Batch([event for event in batch.events if event.position <= until], until), True

"""Building a projection from the log, from the first event to the last or to any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection

from amends.domain.backoff import back_off
from amends.domain.clock import Clock, SystemClock
from amends.domain.ids import Position
from amends.errors import (
    ProjectionError,
    ProjectionStopped,
    ProjectionUnavailable,
    StoreUnavailable,
)
from amends.projections import records
from amends.projections.applying import Applier, prepare
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.projections.lease import Lease
from amends.projections.log import BATCH, Batch, read_batch
from amends.projections.records import Record, Target
from amends.stores.port import EventStore
from amends.telemetry import Log

log = Log("amends.projections")

T = TypeVar("T")

#: A build has no rival; its lease only says whose it is.
LEASE_S: Final = 60.0

#: At what can be done again, with a few seconds between two.
ATTEMPTS: Final = 25

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

    A database or store that cannot be used is waited for, for a while.

    Raises ProjectionStopped at an event that cannot be applied, LeaseLost, ProjectionUnavailable and
    StoreUnavailable.
    """
    done = False
    while not done:
        step = partial(_step, applier, lease, store, until, skipping, progress)
        done = await patiently(lease.clock, step)


async def patiently(clock: Clock, work: Callable[[], Awaitable[T]]) -> T:
    """Do something again while a database cannot be used, and give up after a minute or two."""
    failures = 0
    while True:
        try:
            return await work()
        except (ProjectionUnavailable, StoreUnavailable) as error:
            failures += 1
            if failures == ATTEMPTS:
                raise
            log.warning("projection_build_waits", reason=str(error))
            await back_off(clock, failures)


async def _step(
    applier: Applier, lease: Lease, store: EventStore, until: Position | datetime,
    skipping: frozenset[int], progress: Progress | None,
) -> bool:  # fmt: skip
    """Apply one batch; whether it was the last one."""
    # By what is on record: if this is another attempt, the first may have been committed.
    record = await lease.renewed()
    at = record.position
    if isinstance(until, int) and at >= until:
        return True
    whole = await read_batch(store, at, applier.projection.filter, BATCH)
    batch, is_last = _cut(whole, until, at)
    if batch.end == at:
        return True
    fault = await lease.apply(applier, batch, skipping)
    if fault is not None:
        raise ProjectionStopped(record._replace(fault=fault).stopped_text)
    if progress is not None:
        progress(len(batch.events), batch.end)
    return is_last


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

"""Keeping one projection up to date: by lease, in batches, up to an event that it cannot take."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from amends.domain.backoff import back_off
from amends.domain.clock import Clock
from amends.errors import (
    LeaseLost,
    ProjectionError,
    ProjectionStopped,
    StoreClosed,
    StoreUnavailable,
)
from amends.projections import records
from amends.projections.applying import Applier, prepare
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.projections.lease import Lease
from amends.projections.log import BATCH, LogWatch, read_batch
from amends.projections.rebuild import Rebuild
from amends.projections.records import Record, Target
from amends.stores.port import EventStore
from amends.telemetry import Log

log = Log("amends.projections")

#: Batches of a projection that is up to date come no faster: each costs the same, however small.
LINGER_S: Final = 0.05


class Runner:
    """Runs one projection for as long as its lease holds, and waits for the lease otherwise."""

    def __init__(
        self,
        projection: Projection,
        store: EventStore,
        database: Database,
        clock: Clock,
        watch: LogWatch,
        *,
        owner: str,
        lease_s: float,
        rebuilds: bool = False,
    ) -> None:
        self._projection = projection
        self._name = projection.name
        self._store = store
        self._database = database
        self._clock = clock
        self._watch = watch
        self._owner = owner
        self._lease_s = lease_s
        self._rebuilds = rebuilds
        self._failures = 0

    async def run(self) -> None:
        """Run until cancelled; then the lease is given back."""
        while True:
            try:
                lease = await self._lease()
                try:
                    await self._hold(lease)
                finally:
                    await lease.release()
            except LeaseLost:
                log.warning("projection_taken_over", projection=self._name)
            except (ProjectionError, StoreUnavailable, SQLAlchemyError) as error:
                self._failures += 1
                log.warning("projection_waits", projection=self._name, reason=str(error))
                await back_off(self._clock, self._failures)
            except StoreClosed:
                raise
            except Exception as error:
                # A log that cannot be read, or a mistake of ours: neither is to end the sagas.
                self._failures += 1
                log.error("projection_waits", projection=self._name, exc_info=error)
                await back_off(self._clock, self._failures)

    async def _lease(self) -> Lease:
        """Wait until the projection is ours, and at the version of our code."""
        said = None
        while True:
            token, why, is_old = await self._database.run(self._try_lease)
            if is_old and self._rebuilds:
                await self._rebuild(why)
                continue
            if token is not None:
                log.info("projection_runs", projection=self._name)
                return Lease(
                    self._database, self._clock, self._name, Target.LIVE, token, self._lease_s
                )
            if why != said:
                said = why
                log.info("projection_waits", projection=self._name, reason=why)
            await self._pause(self._lease_s / 3)

    def _try_lease(self, connection: Connection) -> tuple[int | None, str, bool]:
        now = self._clock.now()
        record = prepare(connection, self._projection, self._database, now)
        if record.version != self._projection.version:
            is_old = record.version < self._projection.version
            return None, record.other_version_text(self._projection.version), is_old
        token = records.take_lease(
            connection, self._name, Target.LIVE,
            owner=self._owner, now=now, lease_s=self._lease_s,
        )  # fmt: skip
        return token, f"{record.owner} runs it", False

    async def _rebuild(self, why: str) -> None:
        log.info("projection_rebuilds", projection=self._name, reason=why)
        rebuild = Rebuild(self._projection, self._store, self._database, self._clock, why=why)
        try:
            rebuilt = await rebuild.run(allow=None)
        except ProjectionStopped as error:
            # It would come to the same again and again: that is for a person.
            self._rebuilds = False
            log.error("projection_not_rebuilt", projection=self._name, reason=str(error))
            return
        log.info("projection_rebuilt", projection=self._name, events=rebuilt.events)

    async def _hold(self, lease: Lease) -> None:
        """Follow the log whenever nothing is in the way. Raises LeaseLost and the like."""
        while True:
            record = await lease.renewed()
            if record.is_stopped:
                await self._pause(self._lease_s / 3)
            else:
                await self._follow(lease, record)

    async def _follow(self, lease: Lease, record: Record) -> None:
        """Follow the log, up to an event that cannot be applied."""
        applier = Applier(self._projection, record, self._database)
        at = record.position
        while True:
            batch = await read_batch(self._store, at, self._projection.filter, BATCH)
            if batch.end == at:
                await self._watch.wait_beyond(at, self._lease_s / 3)
                # Somebody may have changed the checkpoint: read it again.
                at = (await lease.renewed()).position
                continue
            fault = await lease.apply(applier, batch)
            if fault is not None:
                await lease.stop(fault)
                log.error(
                    "projection_stopped", projection=self._name,
                    position=fault.position, type=fault.type, error=fault.error,
                )  # fmt: skip
                return
            self._failures = 0
            at = batch.end
            if len(batch.events) < BATCH:
                await self._pause(LINGER_S)

    async def _pause(self, seconds: float) -> None:
        await self._clock.sleep_until(self._clock.now() + timedelta(seconds=seconds))

"""The lease: who runs a projection now. Everything it does is fenced by its token."""

from __future__ import annotations

import traceback
from contextlib import suppress
from datetime import datetime
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from amends.domain.clock import Clock
from amends.domain.envelope import RecordedEvent
from amends.errors import LeaseLost, ProjectionError, ProjectionUnavailable
from amends.projections import records
from amends.projections.applying import Applier
from amends.projections.database import Database
from amends.projections.log import Batch
from amends.projections.records import Fault, Record, Target

#: Of a traceback on record.
TRACE_CHARS_MAX: Final = 8000


class Lease:
    """The right to write one set of a projection's tables, until somebody else takes it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        name: str,
        target: Target,
        token: int,
        seconds: float,
    ) -> None:
        self._database = database
        self.clock = clock
        self._name = name
        self._target = target
        self.token = token
        self.seconds = seconds

    async def renewed(self) -> Record:
        """Keep it, and see what is on record. Raises LeaseLost, ProjectionUnavailable."""

        def renew(connection: Connection) -> Record | None:
            records.renew_lease(
                connection, self._name, self._target, self.token,
                now=self.clock.now(), lease_s=self.seconds,
            )  # fmt: skip
            return records.load(connection, self._name, self._target)

        record = await self._database.run(renew)
        assert record is not None  # it was renewed
        return record

    async def release(self) -> None:
        """Let others have it at once."""
        with suppress(ProjectionError, SQLAlchemyError):
            await self._database.run(
                lambda c: records.release_lease(c, self._name, self._target, self.token)
            )

    async def apply(
        self, applier: Applier, batch: Batch, skipping: frozenset[int] = frozenset()
    ) -> Fault | None:
        """Apply a batch; or, if an event of it cannot be applied, what is before it: the fault.

        Raises LeaseLost, ProjectionUnavailable.
        """
        try:
            await self._commit(applier, batch, skipping)
            return None
        except (LeaseLost, ProjectionUnavailable):
            raise
        except Exception as error:
            if not batch.events:
                raise
            if len(batch.events) == 1:
                return fault_of(batch.events[0], error, self.clock.now())
        # One of them cannot be applied: which one shows when each has a transaction of its own.
        for event in batch.events:
            fault = await self.apply(applier, Batch([event], event.position), skipping)
            if fault is not None:
                return fault
        await self._commit(applier, Batch([], batch.end), skipping)
        return None

    async def _commit(self, applier: Applier, batch: Batch, skipping: frozenset[int]) -> None:
        await self._database.run(
            lambda connection: applier.apply(
                connection, self.token, batch.events, batch.end,
                now=self.clock.now(), lease_s=self.seconds, skipping=skipping,
            )
        )  # fmt: skip

    async def stop(self, fault: Fault) -> None:
        """Put on record that the projection waits for a person. Raises LeaseLost."""
        await self._database.run(
            lambda c: records.stop(c, self._name, self._target, self.token, fault)
        )


def fault_of(event: RecordedEvent, error: Exception, now: datetime) -> Fault:
    """What is put on record about an event that cannot be applied."""
    text = "".join(traceback.format_exception(error))
    return Fault(
        position=event.position,
        stream=event.stream,
        version=event.version,
        type=event.type,
        error=f"{type(error).__name__}: {error}",
        traceback=text[-TRACE_CHARS_MAX:],
        at=now.isoformat(),
    )

"""The log as projections read it: in batches, and told when it has grown."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NamedTuple

from amends.domain.backoff import back_off
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START, Position
from amends.errors import ProjectionMismatch, StoreClosed, StoreUnavailable
from amends.stores.port import EventFilter, EventStore
from amends.telemetry import Log

log = Log("amends.projections")

#: Events in memory at a time, for each projection.
BATCH: Final = 1000


class Batch(NamedTuple):
    """What follows a position: matching events, and how far it was looked."""

    events: list[RecordedEvent]
    end: Position


async def read_batch(store: EventStore, after: Position, filter: EventFilter, limit: int) -> Batch:
    """The next events of a projection. The batch's `end` is `after` when there is nothing new.

    Raises ProjectionMismatch when the log does not even reach `after`.
    """
    # Looked up first: what is appended meanwhile is behind it, and comes with the next batch.
    end = await store.end()
    check_reaches(end, after)
    if end == after:
        return Batch([], after)
    events = await store.read_all(after, filter=filter, limit=limit)
    if len(events) == limit:
        return Batch(events, events[-1].position)
    return Batch(events, max(end, events[-1].position) if events else end)


def check_reaches(end: Position, after: Position) -> None:
    """Raise ProjectionMismatch if a log is not the one from which tables were made up to `after`.

    Else whatever it gets at the positions up to there would be left out, and nobody would notice.
    """
    if end < after:
        raise ProjectionMismatch(
            f"the log ends at position {end}, and the tables are made of one up to {after}: it is "
            "another log, or was put back from a backup. Nothing was changed. Give the tables their "
            "own log again (AMENDS_STORE), or this log other tables: name another database "
            "(AMENDS_PROJECTIONS), or build each anew from it: amends projections rebuild NAME "
            "--allow N. Of an audit trail, keep the old one: it is the proof of what was in the log"
        )


class LogWatch:
    """Knows where the log ends, by one subscription for all projections of a process."""

    def __init__(self, store: EventStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._end = START
        self._grown = Bell()

    async def run(self) -> None:
        """Watch until cancelled."""
        failures = 0
        while True:
            try:
                self._reached(await self._store.end())
                async for record in self._store.subscribe(self._end):
                    failures = 0
                    self._reached(record.position)
            except StoreClosed:
                raise
            except StoreUnavailable as error:
                failures += 1
                log.warning("watching_the_log_again", error=str(error))
                await back_off(self._clock, failures)
            except Exception as error:
                # An event that cannot be read. Projections look for themselves, a little later.
                failures += 1
                log.error("watching_the_log_again", exc_info=error)
                await back_off(self._clock, failures)

    async def wait_beyond(self, position: Position, seconds: float) -> None:
        """Return when the log goes on after a position, or after so many seconds."""
        if self._end <= position:
            due = self._clock.now() + timedelta(seconds=seconds)
            await self._grown.wait_until(self._clock, due)

    def _reached(self, position: Position) -> None:
        if position > self._end:
            self._end = position
            self._grown.ring()

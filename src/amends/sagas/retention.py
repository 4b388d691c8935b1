"""Retention: removing the journals of instances that ended long ago.

A journal is all that is known of its instance, so it is kept for ever unless somebody says for
how long. What may go is found by a walk over the endings in the log, oldest first: nothing is
written down for it while sagas run, and no part of the log is looked at twice in one walk.

What goes is on record before it is gone (`RemovalDecided`), so that whoever audits the log can tell
a removal from a theft.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from pydantic_core import to_json

from amends.domain import events as e
from amends.domain.clock import Clock
from amends.domain.envelope import NewEvent, RecordedEvent, encode_metadata
from amends.domain.ids import ANY, JOURNAL_PREFIX, START, InstanceId, StreamName
from amends.domain.removals import REMOVALS, RemovalDecided, RemovedStream
from amends.domain.status import Status
from amends.domain.unique import new_id
from amends.errors import DecodeError, InvalidJournal, StoreClosed, StoreError
from amends.sagas import journal
from amends.sagas.state import InstanceState
from amends.stores.port import Append, EventFilter, EventStore, Removal
from amends.telemetry import Log

log = Log("amends.retention")

#: A batch ends at these: running sagas wait while it is removed.
BATCH_JOURNALS_MAX: Final = 64
BATCH_EVENTS_MAX: Final = 1000
#: Events of a long journal that are looked at before others may run: some milliseconds.
EVENTS_AT_ONCE_MAX: Final = 250
#: Endings that are read at a time.
ENDINGS_PAGE: Final = 64
#: An engine lets so much time pass between two rounds, so that a batch is worth its sync.
ROUND_PAUSE: Final = timedelta(minutes=1)
#: How soon an engine walks again from the beginning of the log, to what it had to leave there.
WALK_AGAIN_MAX: Final = timedelta(days=1)

_ENDINGS: Final = tuple(sorted(cls.__name__ for cls in e.FINAL_EVENTS))


class Purged(NamedTuple):
    """What became of the instances that ended long enough ago.

    `journals` were removed, with `events` in them; `kept` were not, because something of them is
    open or still to come, or because they could not be read (the log says which).
    """

    journals: int = 0
    events: int = 0
    kept: int = 0


async def purge(
    store: EventStore,
    clock: Clock,
    age: timedelta,
    *,
    saga: str | None = None,
    dry_run: bool = False,
) -> Purged:
    """Remove the journals of instances that ended longer ago than `age`, for good.

    It may run beside working engines, and be repeated. `saga` names the only saga whose instances
    are meant; a dry run only counts. Nothing of an instance is removed unless all of its journal
    says that it may: see `may_go`.

    Raises what the store raises; what was removed by then stays so.
    """
    walk = Walk(store, clock, age, saga=saga)
    journals = events = 0
    async for batch in walk.batches():
        going = {removal.stream: removal.version + 1 for removal in batch}
        removed = list(going) if dry_run else await _remove(store, batch, "purge")
        journals += len(removed)
        events += sum(going[stream] for stream in removed)
    return Purged(journals, events, walk.kept)


async def _remove(
    store: EventStore, batch: Sequence[Removal], why: Literal["retention", "purge"]
) -> list[StreamName]:
    """Put on record that journals are removed, and remove them; returns those that were."""
    streams = tuple(RemovedStream(stream=stream, version=version) for stream, version in batch)
    id = new_id()
    decided = NewEvent(
        id,
        RemovalDecided.__name__,
        to_json(RemovalDecided(why=why, streams=streams)),
        encode_metadata(correlation_id=str(id), causation_id=str(id)),
    )
    # First: what dies in between has a record of what did not happen, and nothing is unexplained.
    await store.append(Append(REMOVALS, [decided], ANY))
    return await store.remove(batch)


class Walk:
    """A walk over the endings in the log, oldest first, to journals that may be removed.

    It stops where endings are too young, and can go on from there later. What it leaves behind,
    another walk may find.
    """

    def __init__(
        self, store: EventStore, clock: Clock, age: timedelta, *, saga: str | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._age = age
        prefix = JOURNAL_PREFIX if saga is None else InstanceId(saga, "").stream
        self._filter = EventFilter((prefix,), _ENDINGS)
        self._seen = START
        self._ahead: deque[tuple[StreamName, datetime]] = deque()
        self.kept = 0
        """Instances that ended long enough ago, and that it left behind."""

    @property
    def due(self) -> datetime:
        """When there may be something to remove."""
        return (self._ahead[0][1] if self._ahead else self._clock.now()) + self._age

    async def batches(self) -> AsyncIterator[list[Removal]]:
        """What may be removed now, in batches of a bounded size."""
        while await self._find_next():
            if batch := await self._batch():
                yield batch

    async def _find_next(self) -> bool:
        """Whether the next ending is old enough."""
        if not self._ahead:
            end = await self._store.end()
            page = await self._store.read_all(self._seen, filter=self._filter, limit=ENDINGS_PAGE)
            self._ahead.extend((record.stream, record.recorded_at) for record in page)
            self._seen = page[-1].position if len(page) == ENDINGS_PAGE else max(self._seen, end)
        return self._is_due()

    def _is_due(self) -> bool:
        return bool(self._ahead) and self.due <= self._clock.now()

    async def _batch(self) -> list[Removal]:
        batch: list[Removal] = []
        events = 0
        while self._is_due() and len(batch) < BATCH_JOURNALS_MAX and events < BATCH_EVENTS_MAX:
            stream, _ = self._ahead.popleft()
            records = await self._store.read(stream)
            if not records:
                continue  # somebody else removed it
            now = self._clock.now()
            if await _may_go(records, ended_before=now - self._age, now=now):
                batch.append(Removal(stream, records[-1].version))
                events += len(records)
            else:
                self.kept += 1
        return batch


async def _may_go(
    records: Sequence[RecordedEvent], *, ended_before: datetime, now: datetime
) -> bool:
    instance = InstanceId.of_stream(records[0].stream)
    if instance is None or records[-1].recorded_at > ended_before:
        return False
    try:
        return await may_go(instance, records, now)
    except (DecodeError, InvalidJournal) as error:
        log.warning("journal_kept", instance=str(instance), error=str(error))
        return False


async def may_go(instance: InstanceId, records: Sequence[RecordedEvent], now: datetime) -> bool:
    """Whether an instance has ended and nothing of it is open or still to come: no step, no undo
    that a late report asked for, nobody whom it waits for, and no message that was published for
    a later moment (its deadline, a timer that it gave up).

    Raises InvalidJournal, DecodeError.
    """
    journal.check_sequence(records)
    state = InstanceState(instance)
    for number, record in enumerate(records, 1):
        if number % EVENTS_AT_ONCE_MAX == 0:
            await asyncio.sleep(0)
        event = journal.decode(record)
        if _is_to_come(event, now):
            return False
        state.apply(event)
    if not state.status.is_final:
        return False
    # Nothing of a terminated instance is run any more, however its steps were left.
    return state.final is Status.TERMINATED or not state.open_steps()


def _is_to_come(event: e.JournalEvent, now: datetime) -> bool:
    """Whether a message that the event led to is due later."""
    match event:
        case e.TimerStarted():
            due: datetime | None = event.due
        case e.SagaStarted() | e.StepScheduled():
            due = event.deadline
        case e.StepAttemptFailed():
            due = event.retry_at
        case _:
            return False
    return due is not None and due > now


class Retention:
    """Keeps a store to a retention while an engine runs: removes journals once they are `age` old."""

    def __init__(self, store: EventStore, clock: Clock, age: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._age = age

    async def run(self) -> None:
        """Work until it is cancelled, or the store is closed."""
        try:
            while True:
                walk = Walk(self._store, self._clock, self._age)
                walk_again = self._clock.now() + min(self._age, WALK_AGAIN_MAX)
                while self._clock.now() < walk_again:
                    await self._remove(walk)
                    pause_ends = self._clock.now() + ROUND_PAUSE
                    await self._clock.sleep_until(min(max(walk.due, pause_ends), walk_again))
        except StoreClosed:
            return

    async def _remove(self, walk: Walk) -> None:
        journals = 0
        try:
            async for batch in walk.batches():
                journals += len(await _remove(self._store, batch, "retention"))
        except StoreClosed:
            raise
        except StoreError as error:
            # The next walk finds what this one could not remove.
            log.warning("removal_failed", error=str(error))
        if journals:
            log.info("journals_removed", journals=journals)

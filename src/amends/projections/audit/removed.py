"""Events that are on record and not in the log: removed, as is on record too, or taken away."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import select

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import Position, StreamName
from amends.domain.removals import REMOVALS
from amends.projections.audit import tables
from amends.projections.audit.projection import removed_in
from amends.projections.audit.recorded import head_of
from amends.projections.database import Database
from amends.stores.port import EventFilter, EventStore

#: Answers that are kept; the next ones for the same stream mostly follow soon.
_KEPT_MAX: Final = 10_000
_DECISIONS: Final = EventFilter((REMOVALS,))


class Removed(NamedTuple):
    """How much of the chain is about events that were removed, as is on record. `streams` counts
    the last event of each.
    """

    events: int = 0
    streams: int = 0
    last: RecordedEvent | None = None
    """The latest record of a removal among them."""


class _Found(NamedTuple):
    """The record of a stream's removal, the last version that it names, and whether the stream is
    there nevertheless.
    """

    decision: RecordedEvent
    last: int
    is_there: bool


class Removals:
    """Says of an event that is gone whether its removal is on record, and counts these."""

    def __init__(self, store: EventStore, database: Database) -> None:
        self._store = store
        self._database = database
        self._known: dict[str, _Found | None] = {}
        self._decision: RecordedEvent | None = None
        self.seen = Removed()

    async def why_not(self, stream: str, version: int, position: int) -> str | None:
        """None when the event's stream was removed, as is on record; else why that cannot be."""
        found = self._known.get(stream)
        # Of a name that was used again, there may be a later one.
        if found is None or found.decision.position < position or found.last < version:
            if len(self._known) >= _KEPT_MAX:
                self._known.clear()
            found = self._known[stream] = await self._find(stream, version, position)
        if found is None:
            return "no removal of its stream is on record"
        if found.is_there:
            return (
                f"a removal of its stream is on record (position {found.decision.position}), but the "
                "rest of the stream is there still"
            )
        seen = self.seen
        latest = seen.last is None or found.decision.position > seen.last.position
        self.seen = Removed(
            seen.events + 1,
            seen.streams + (version == found.last),
            found.decision if latest else seen.last,
        )
        return None

    async def _find(self, stream: str, version: int, position: int) -> _Found | None:
        """The record of the removal of an event."""
        decision = await self._noted(stream, version, position)
        if decision is None:
            decision = await self._just_now(stream, version, position)
        if decision is None:
            return None
        rest = await self._store.read(StreamName(stream), limit=1)
        is_there = bool(rest) and rest[0].position < decision.position
        return _Found(decision, removed_in(decision)[stream], is_there)

    async def _noted(self, stream: str, version: int, position: int) -> RecordedEvent | None:
        """The removal that the table knows of: the log's word counts, and not the table's."""
        c = tables.removals.c
        noted = await self._database.query(
            select(c.decision)
            .where(c.stream == stream, c.position > position, c.version >= version)
            .order_by(c.position)
            .limit(1)
        )
        if not noted:
            return None
        number = noted[0]["decision"]
        if self._decision is None or self._decision.version != number:
            found = await self._store.read(REMOVALS, start=number, limit=1)
            self._decision = found[0] if found and found[0].version == number else None
        if self._decision is None or removed_in(self._decision).get(stream, -1) < version:
            return None
        return self._decision

    async def _just_now(self, stream: str, version: int, position: int) -> RecordedEvent | None:
        """A removal that is not in the chain yet: it was decided since."""
        head = await head_of(self._database)
        after = Position(position if head is None else head.position)
        while page := await self._store.read_all(after, filter=_DECISIONS):
            for decision in page:
                if removed_in(decision).get(stream, -1) >= version:
                    return decision
            after = page[-1].position
        return None

"""Verifying: the chain is computed anew from the log, and compared with what is on record.

Log and records are read in pages, side by side, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NamedTuple

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START, Position
from amends.errors import AuditError
from amends.projections import records as projection_records
from amends.projections.audit import tables
from amends.projections.audit.chain import GENESIS, content_of, link
from amends.projections.audit.checkpoints import Checkpoint, Keys, signature_fault
from amends.projections.audit.projection import NAME
from amends.projections.audit.recorded import (
    Row,
    beyond_position,
    checkpoint_of,
    head_of,
    pages,
    row_of,
)
from amends.projections.audit.removed import Removals, Removed
from amends.projections.database import Database
from amends.stores.port import EventStore

#: Events, and records, in memory at a time.
PAGE: Final = 1000


class Difference(NamedTuple):
    """The first thing that is wrong, and where. `stream` and `type` are of the record or event
    there, None where there is neither.
    """

    what: str
    position: int
    n: int
    stream: str | None = None
    type: str | None = None


class Verified(NamedTuple):
    """What was found. Without a difference, every event of the log up to `position` is the one that
    was recorded, none is missing but for the removals, and what is before `signed` has a signature.
    """

    records: int
    position: int
    hash: str
    at: datetime | None
    events: int
    removed: Removed
    checkpoints: int
    signed: int
    behind: bool
    difference: Difference | None


async def verify(
    store: EventStore, database: Database, keys: Keys, published: Sequence[Checkpoint] = ()
) -> Verified:
    """Compare the chain with the log, up to the first difference.

    `published` are checkpoints from elsewhere, which the chain must go through too. Raises AuditError
    when there is no chain, and what store and database raise.
    """
    record = await database.look(lambda c: projection_records.load(c, NAME))
    if record is None:
        raise AuditError(
            "there is no audit trail in this database. An engine keeps one when it is told with which "
            "key to sign: AMENDS_AUDIT_KEY_FILE"
        )
    upto = record.position
    # What was applied is one record each, in one transaction with the count.
    run = _Run(store, database, keys, sorted(published), applied=record.events)
    try:
        await run.walk(upto)
        difference = None
    except _Found as found:
        difference = found.difference
    return run.result(difference, behind=await store.end() > upto)


class _Found(Exception):
    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.what)
        self.difference = difference


class _Run:
    """One verification."""

    def __init__(
        self,
        store: EventStore,
        database: Database,
        keys: Keys,
        published: Sequence[Checkpoint],
        applied: int,
    ) -> None:
        self._store = store
        self._database = database
        self._keys = keys
        self._published = iter([*published, None])
        self._next_published = next(self._published)
        self._applied = applied
        self._removals = Removals(store, database)
        self._last: Row | None = None
        self._hash = GENESIS
        self._signed: Row | None = None
        self._events = self._checkpoints = 0

    def result(self, difference: Difference | None, *, behind: bool) -> Verified:
        last = self._last
        return Verified(
            records=0 if last is None else last.n,
            position=START if last is None else last.content.position,
            hash=self._hash.hex(),
            at=None if last is None else last.at,
            events=self._events,
            removed=self._removals.seen,
            checkpoints=self._checkpoints,
            signed=0 if self._signed is None else self._signed.n,
            behind=behind,
            difference=difference,
        )

    async def walk(self, upto: Position) -> None:
        """Go through log and records, side by side. Raises _Found."""
        log, rows, signed = self._log(upto), self._rows(upto), self._signatures(upto)
        event, row = await anext(log, None), await anext(rows, None)
        checkpoint = await anext(signed, None)
        while event is not None or row is not None:
            if row is None or (event is not None and event.position < row.content.position):
                assert event is not None
                raise _Found(
                    _of_event(event, self._n, "the log has an event that is not in the chain")
                )
            if event is None or event.position > row.content.position:
                await self._check_missing(row)
            else:
                self._compare(row, event)
                self._events += 1
                event = await anext(log, None)
            self._follow(row)
            while checkpoint is not None and checkpoint.n <= row.n:
                self._check_signed(checkpoint, row)
                checkpoint = await anext(signed, None)
            self._check_published(row)
            row = await anext(rows, None)
        await self._check_end(checkpoint, upto)

    @property
    def _n(self) -> int:
        """The number of the next record."""
        return 1 if self._last is None else self._last.n + 1

    async def _check_missing(self, row: Row) -> None:
        """An event that is on record, and not in the log: was it removed, with all of its stream?"""
        content = row.content
        why = await self._removals.why_not(content.stream, content.version, content.position)
        if why is not None:
            raise _Found(_of_row(row, f"the log has no event there any more: {why}"))

    def _compare(self, row: Row, event: RecordedEvent) -> None:
        found = content_of(event)
        if found == row.content:
            return
        for name in ("stream", "version", "type", "id", "recorded_at", "data", "metadata"):
            was, is_ = getattr(row.content, name), getattr(found, name)
            if was != is_:
                raise _Found(
                    _of_row(
                        row,
                        f"another {name} in the log: it was {_shown(was)}, and is {_shown(is_)}",
                    )
                )

    def _follow(self, row: Row) -> None:
        """Compute the record anew, and take it for the last one."""
        if row.n != self._n:
            raise _Found(_of_row(row, f"record {self._n} is missing: the next one is {row.n}"))
        if self._last is not None and row.content.position <= self._last.content.position:
            raise _Found(_of_row(row, "the records are not in the order of the log"))
        content = row.content.hash
        if content != row.content_hash:
            raise _Found(_of_row(row, "the record has another content hash than its event"))
        hash = link(self._hash, content)
        if hash != row.hash:
            raise _Found(_of_row(row, "the record does not follow from the one before it"))
        self._last, self._hash = row, hash

    def _check_signed(self, checkpoint: Checkpoint, row: Row) -> None:
        """A checkpoint of the database's own, at this record if all is well."""
        if fault := self._fault(checkpoint, row):
            raise _Found(_of_row(row, f"the checkpoint at record {checkpoint.n}: {fault}"))
        self._checkpoints += 1
        self._signed = row

    def _fault(self, checkpoint: Checkpoint, row: Row) -> str | None:
        if fault := signature_fault(checkpoint, self._keys):
            return fault
        if checkpoint.n != row.n:
            return f"there is no record {checkpoint.n}"
        if checkpoint.hash != row.hash or checkpoint.position != row.content.position:
            first, since = 1, ""
            if self._signed is not None:
                first, since = (
                    self._signed.n + 1,
                    f", after position {self._signed.content.position}",
                )
            return (
                f"what was signed has the hash {checkpoint.hash.hex()}, and the chain has "
                f"{row.hash.hex()}: it was computed anew, and something changed in records {first} to "
                f"{row.n}{since}"
            )
        return None

    def _check_published(self, row: Row) -> None:
        while self._next_published is not None and self._next_published.n <= row.n:
            checkpoint = self._next_published
            if fault := self._fault(checkpoint, row):
                raise _Found(
                    _of_row(row, f"the published checkpoint at record {checkpoint.n}: {fault}")
                )
            self._signed = row
            self._next_published = next(self._published)

    async def _check_end(self, checkpoint: Checkpoint | None, upto: Position) -> None:
        """What was signed, counted or noted beyond the last record is missing."""
        n = self._n - 1
        at = -1 if self._last is None else self._last.content.position
        for one, which in (
            (checkpoint, "checkpoint"),
            (self._next_published, "published checkpoint"),
        ):
            if one is not None:
                fault = signature_fault(one, self._keys)
                told = f"the {which} at record {one.n} (position {one.position}): " + (
                    fault or f"the chain ends at record {n}, so what came after it was taken away"
                )
                raise _Found(Difference(told, at, n))
        if (beyond := await beyond_position(self._database, NAME)) is not None:
            told = f"record {beyond} is behind where the projection says it is: that was set back"
            raise _Found(Difference(told, at, n))
        with self._readable("the note of the last record"):
            head = await head_of(self._database)
        # A head behind `upto` is newer than what was read.
        had = max(self._applied, head.n if head is not None and head.position <= upto else 0)
        if had > n:
            told = f"the chain ends at record {n}, and had {had}: its end was taken away"
            raise _Found(Difference(told, at, n))

    async def _log(self, upto: Position) -> AsyncIterator[RecordedEvent]:
        after = START
        while page := await self._page(after):
            for event in page:
                if event.position > upto:
                    return
                yield event
            after = page[-1].position

    async def _page(self, after: Position) -> list[RecordedEvent]:
        with self._readable(f"an event after position {after}"):
            return await self._store.read_all(after, limit=PAGE)

    async def _rows(self, upto: Position) -> AsyncIterator[Row]:
        with self._readable(f"one of the next {PAGE:,} records"):
            async for row in pages(self._database, tables.records, upto):
                yield row_of(row)

    async def _signatures(self, upto: Position) -> AsyncIterator[Checkpoint]:
        with self._readable("a checkpoint"):
            async for row in pages(self._database, tables.checkpoints, upto):
                yield checkpoint_of(row)

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Nobody of ours writes what he cannot read: a text for a hash, say, or for a moment."""
        try:
            yield
        except (TypeError, ValueError) as error:
            at = -1 if self._last is None else self._last.content.position
            told = f"{what} cannot be read: {error}"
            raise _Found(Difference(told, at, self._n)) from None


def _of_row(row: Row, what: str) -> Difference:
    return Difference(what, row.content.position, row.n, row.content.stream, row.content.type)


def _of_event(event: RecordedEvent, n: int, what: str) -> Difference:
    return Difference(what, event.position, n, event.stream, event.type)


def _shown(value: object) -> str:
    return f"bytes with the SHA-256 {value.hex()}" if isinstance(value, bytes) else repr(value)

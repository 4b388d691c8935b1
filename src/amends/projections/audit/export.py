"""Making bundles: a stream's events from the log, and from the chain what proves them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import select

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import StreamName
from amends.errors import AuditError
from amends.projections.audit import tables
from amends.projections.audit.bundle import (
    Bundle,
    BundledCheckpoint,
    BundledEvent,
    BundledRecord,
    Segment,
)
from amends.projections.audit.chain import GENESIS, content_of, moment_text
from amends.projections.audit.checkpoints import Checkpoint, sign
from amends.projections.audit.keys import SigningKey
from amends.projections.audit.recorded import Row, checkpoint_of, head_of, row_of
from amends.projections.database import Database
from amends.stores.port import EventStore

#: Positions that are looked up at a time: SQLite takes no more than some thousand.
_AT_ONCE: Final = 500


async def export(
    store: EventStore,
    database: Database,
    stream: StreamName,
    *,
    key: SigningKey | None,
    now: datetime,
    made_by: str,
) -> Bundle:
    """The bundle of a stream, up to its last event of now.

    What came after the last checkpoint needs a new one, and so the key. Raises AuditError when the
    stream has no events, when the chain has not reached the last of them, and when one is not what
    was recorded; and what store and database raise.
    """
    records = await store.read(stream)
    if not records:
        raise AuditError(await _why_none(database, stream))
    events = await _numbered(database, records)
    segments = []
    while events:
        first = min(events)
        checkpoint = await _checkpoint_after(database, first, key)
        segments.append(await _segment(database, first, checkpoint, events))
        events = {n: event for n, event in events.items() if n > checkpoint.n}
    return Bundle(
        stream=stream, made_at=moment_text(now), made_by=made_by, segments=tuple(segments)
    )


async def _why_none(database: Database, stream: StreamName) -> str:
    c = tables.removals.c
    decided = await database.query(
        select(c.position).where(c.stream == stream).order_by(c.position.desc()).limit(1)
    )
    if decided:
        return (
            f"{stream} was removed from the log, as is on record at position "
            f"{decided[0]['position']}. The chain still has the hashes of its events, and nobody has "
            "their content. Nothing was written"
        )
    return f"the log has no stream {stream}, so there is nothing to export. Nothing was written"


async def _numbered(
    database: Database, records: Sequence[RecordedEvent]
) -> dict[int, RecordedEvent]:
    """The events by their numbers in the chain, each compared with its record."""
    found: dict[int, RecordedEvent] = {}
    r = tables.records.c
    for start in range(0, len(records), _AT_ONCE):
        part = {record.position: record for record in records[start : start + _AT_ONCE]}
        wanted = select(tables.records).where(r.position.in_([int(at) for at in part]))
        rows = {row["position"]: row_of(row) for row in await database.query(wanted)}
        for position, record in part.items():
            row = rows.get(position)
            if row is None:
                raise AuditError(await _why_not_chained(database, record))
            if content_of(record) != row.content:
                raise AuditError(
                    f"event {record.version} of {record.stream} (position {position}) is not what was "
                    "recorded. Nothing was written. See: amends audit verify"
                )
            found[row.n] = record
    return found


async def _why_not_chained(database: Database, record: RecordedEvent) -> str:
    head = await head_of(database)
    where = f"event {record.version} of {record.stream} (position {record.position})"
    if head is None or head.position < record.position:
        return (
            f"{where} is not in the chain yet, which is kept while an engine runs that has "
            "AMENDS_AUDIT_KEY_FILE. Nothing was written. Try again when it has caught up: amends "
            "projections"
        )
    return f"{where} is not in the chain. Nothing was written. See: amends audit verify"


async def signed_now(database: Database, key: SigningKey) -> Checkpoint | None:
    """A checkpoint of the chain's last record; None while there is none."""
    head = await head_of(database)
    if head is None:
        return None
    return sign(key, n=head.n, position=head.position, hash=head.hash, at=moment_text(head.at))


async def _checkpoint_after(database: Database, first: int, key: SigningKey | None) -> Checkpoint:
    """The first checkpoint at or behind a record; a new one, of the chain's end, if there is none."""
    c = tables.checkpoints.c
    wanted = select(tables.checkpoints).where(c.n >= first).order_by(c.n).limit(1)
    if found := await database.query(wanted):
        return checkpoint_of(found[0])
    new = None if key is None else await signed_now(database, key)
    if new is None:
        raise AuditError(
            f"no checkpoint was signed since record {first}, which is to be in the bundle. Nothing was "
            "written. Wait for the next checkpoint, or export where the key is: AMENDS_AUDIT_KEY_FILE"
        )
    return new


async def _segment(
    database: Database, first: int, checkpoint: Checkpoint, events: dict[int, RecordedEvent]
) -> Segment:
    r = tables.records.c
    before = await database.query(select(r.hash).where(r.n == first - 1))
    wanted = select(tables.records).where(r.n >= first, r.n <= checkpoint.n).order_by(r.n)
    rows = [row_of(row) for row in await database.query(wanted)]
    return Segment(
        first=first,
        previous=(before[0]["hash"] if before else GENESIS).hex(),
        records=tuple(_bundled(row, events.get(row.n)) for row in rows),
        checkpoint=BundledCheckpoint.model_validate(checkpoint.json),
    )


def _bundled(row: Row, event: RecordedEvent | None) -> BundledRecord | str:
    if event is None:
        return row.content_hash.hex()
    return BundledRecord(
        n=row.n, content=row.content_hash.hex(), hash=row.hash.hex(), event=BundledEvent.of(event)
    )

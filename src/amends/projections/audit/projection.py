"""The projection that keeps the chain: a record for each event of the log, whatever it is."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from amends.domain.envelope import RecordedEvent
from amends.domain.removals import REMOVALS, RemovalDecided
from amends.projections.audit import tables
from amends.projections.audit.chain import GENESIS, content_of, link, moment_text
from amends.projections.audit.checkpoints import sign
from amends.projections.audit.keys import SigningKey
from amends.projections.definition import Projection, on_every
from amends.projections.event import Event
from amends.projections.rows import Rows

NAME: Final = "audit"
HEAD: Final = 1


class AuditTrail(Projection):
    """A chain of hashes over the whole log, signed every so many records.

    The chain depends on the log alone, and its signatures on the key as well: with the same key, a
    rebuild from the same log makes the same rows. Checkpoints name their key, so that it may change.
    """

    name = NAME
    version = 1
    tables = (tables.records, tables.head, tables.checkpoints, tables.removals)

    def __init__(self, key: SigningKey, *, every: int = 1000) -> None:
        """`every`: how many records there are from one checkpoint to the next."""
        super().__init__()
        self._key = key
        self._every = every

    @on_every
    def recorded(self, event: Event[Any], rows: Rows) -> None:
        """Add the event to the chain."""
        record = event.record
        last = rows.get(tables.head, id=HEAD)
        n, previous = (1, GENESIS) if last is None else (last["n"] + 1, last["hash"])
        content = content_of(record)
        hashed = content.hash
        hash = link(previous, hashed)
        rows.insert(
            tables.records, n=n, position=event.position, stream=str(event.stream),
            version=event.version, id=content.id, type=event.type, at=event.at,
            data=content.data, metadata=content.metadata, content=hashed, hash=hash,
        )  # fmt: skip
        rows.upsert(tables.head, id=HEAD, n=n, position=int(event.position), hash=hash, at=event.at)
        if n % self._every == 0:
            self._sign(n, record, hash, rows)
        if record.stream == REMOVALS:
            _note_removals(record, rows)

    def _sign(self, n: int, record: RecordedEvent, hash: bytes, rows: Rows) -> None:
        at = moment_text(record.recorded_at)
        checkpoint = sign(self._key, n=n, position=record.position, hash=hash, at=at)
        rows.insert(
            tables.checkpoints, n=n, position=record.position, hash=hash, at=record.recorded_at,
            key=checkpoint.key, signature=checkpoint.signature,
        )  # fmt: skip


def _note_removals(record: RecordedEvent, rows: Rows) -> None:
    for stream, version in removed_in(record).items():
        rows.insert(
            tables.removals, stream=stream, position=int(record.position), version=version,
            decision=record.version,
        )  # fmt: skip


def removed_in(record: RecordedEvent) -> dict[str, int]:
    """The streams whose removal an event puts on record, with the versions of their last events."""
    if record.stream != REMOVALS or record.type != RemovalDecided.__name__:
        return {}
    try:
        decided = RemovalDecided.model_validate_json(record.data)
    except ValidationError:  # somebody else's, or spoiled: then it explains nothing
        return {}
    return {removed.stream: removed.version for removed in decided.streams}

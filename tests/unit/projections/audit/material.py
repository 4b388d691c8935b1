"""Events, chains and bundles to test with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic_core import to_json

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import Position, StreamName
from amends.projections.audit.bundle import (
    Bundle,
    BundledCheckpoint,
    BundledEvent,
    BundledRecord,
    Segment,
)
from amends.projections.audit.chain import GENESIS, content_of, link, moment_text
from amends.projections.audit.checkpoints import sign
from amends.projections.audit.keys import SigningKey

OURS = "saga.transfer-t1"


def log(streams: Sequence[str], seed: int = 1) -> list[RecordedEvent]:
    """A log with an event of each of these streams, in this order."""
    rng = random.Random(seed)
    versions: dict[str, int] = {}
    records = []
    for number, stream in enumerate(streams):
        version = versions[stream] = versions.get(stream, -1) + 1
        record = RecordedEvent(
            stream=StreamName(stream),
            version=version,
            position=Position(2 * number),
            id=UUID(int=rng.getrandbits(128)),
            type="Moved",
            data=to_json({"amount": number, "to": "Zoë"}),
            metadata=b'{"$correlationId":"c"}',
            recorded_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number),
        )
        records.append(record)
    return records


def bundle_of(
    records: Sequence[RecordedEvent], key: SigningKey, *, stream: str = OURS, every: int = 5
) -> Bundle:
    """The bundle of a stream, with a checkpoint at every so many records and at the end."""
    segments: list[Segment] = []
    hash = GENESIS
    previous, found = hash, []
    first = 1
    for n, record in enumerate(records, 1):
        content = content_of(record).hash
        hash = link(hash, content)
        if record.stream == stream:
            event = BundledEvent.of(record)
            found.append(BundledRecord(n=n, content=content.hex(), hash=hash.hex(), event=event))
        else:
            found.append(content.hex())  # type: ignore[arg-type]
        if n % every and n < len(records):
            continue
        if any(isinstance(one, BundledRecord) for one in found):
            at = moment_text(record.recorded_at)
            checkpoint = sign(key, n=n, position=record.position, hash=hash, at=at)
            segment = Segment(
                first=first,
                previous=previous.hex(),
                records=tuple(found),
                checkpoint=BundledCheckpoint(**checkpoint.json),
            )
            segments.append(segment)
        previous, found, first = hash, [], n + 1
    return Bundle(stream=stream, made_at="now", made_by="tests", segments=tuple(segments))

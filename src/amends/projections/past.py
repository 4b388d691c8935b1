"""What one stream was at a moment of the past."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import Position, StreamName
from amends.stores.port import EventStore

_PAGE: Final = 500


async def read_as_of(
    store: EventStore, stream: StreamName, when: datetime | Position
) -> list[RecordedEvent]:
    """The events of a stream up to a position, or to the first that was recorded later than a
    moment.
    """
    found: list[RecordedEvent] = []
    while page := await store.read(stream, start=len(found), limit=_PAGE):
        for record in page:
            if (record.recorded_at if isinstance(when, datetime) else record.position) > when:  # type: ignore[operator]
                return found
            found.append(record)
        if len(page) < _PAGE:
            break
    return found

"""Stores on the protocol double, with little patience."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

from amends.domain.envelope import NewEvent
from amends.domain.ids import ExpectedVersion, StreamName
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.port import Append
from amends.testing.contracts.data import new_events

#: Long enough for what succeeds, on a busy machine, and short enough to wait for.
TIMEOUT_S: Final = 1.0


@asynccontextmanager
async def opened(uri: str, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[EventStoreDb]:
    """A store, which is closed at the end of the block."""
    store = EventStoreDb(StoreAddress.parse(uri), timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


def a_stream() -> StreamName:
    """A stream that does not exist yet."""
    return StreamName.of(f"c{uuid4().hex}", "1")


def an_append(stream: StreamName, version: int = -1, events: Sequence[NewEvent] = ()) -> Append:
    """An append of two events at a version."""
    return Append(stream, events or new_events(2), ExpectedVersion(version))

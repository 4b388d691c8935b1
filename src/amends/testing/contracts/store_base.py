"""What every part of the event store contract needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar
from uuid import uuid4

import pytest

from amends.domain.ids import StreamName
from amends.stores.port import EventFilter, EventStore
from amends.testing.clock import ManualClock

Reopen = Callable[[], Awaitable[EventStore]]


@dataclass(frozen=True)
class StoreFeatures:
    """What a backend cannot do, said out loud; the defaults are the full contract."""

    retries_any: bool = True
    """Whether a retried append is recognised for good without an exact expected version."""
    append_bytes_max: int = 8_000_000
    """How many bytes of data one append may hold."""
    starts_empty: bool = True
    """Whether each test has a log of its own."""
    sets_clock: bool = True
    """Whether `recorded_at` comes from the `clock` fixture."""
    survives_close: bool = True
    """Whether the `reopen` fixture gives a second store over the same log."""
    forgets_at_once: bool = True
    """Whether the log shows no event of a removed stream from the removal on, and not only later."""


class StoreContractBase:
    """The fixtures that a backend supplies, and shorthands for the tests."""

    features: ClassVar[StoreFeatures] = StoreFeatures()

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock that the store was given."""
        return ManualClock()

    @pytest.fixture
    async def store(self, clock: ManualClock) -> EventStore:
        """The store under test, to be overridden. The fixture closes it."""
        raise NotImplementedError("override the `store` fixture")

    @pytest.fixture
    def reopen(self, store: EventStore) -> Reopen:
        """Opens another store over the log of `store`, which is closed by then."""
        raise NotImplementedError("override the `reopen` fixture")

    @pytest.fixture
    def category(self) -> str:
        """A category of this test alone, for backends whose log is shared."""
        return f"c{uuid4().hex}"

    @pytest.fixture
    def stream(self, category: str) -> StreamName:
        """A stream that does not exist yet."""
        return StreamName.of(category, "1")

    @pytest.fixture
    def mine(self, category: str) -> EventFilter:
        """The events of this test."""
        return EventFilter(stream_prefixes=(category,))

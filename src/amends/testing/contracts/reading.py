"""The event store contract: reading, one stream or all of them."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import ANY, START, Position, StreamName
from amends.stores.port import Append, EventFilter, EventStore
from amends.testing.contracts.data import as_new, new_event, new_events
from amends.testing.contracts.store_base import StoreContractBase


async def write_at_random(store: EventStore, category: str, seed: int) -> list[RecordedEvent]:
    """Some 200 events in six streams of six kinds of name and four types; gives the log of them."""
    rng = random.Random(seed)
    # What differs in case, in a wildcard of SQL, or beyond the alphabet is another name.
    names = [f"{category}{tail}" for tail in ("_x-1", "Yx-1", "yx-1", "_x-2", "-%", "-🦊")]
    for _ in range(30):
        events = [new_event(rng.choice("ABCD")) for _ in range(rng.randint(1, 12))]
        await store.append(Append(StreamName(rng.choice(names)), events, ANY))
    return await store.read_all(filter=EventFilter((category,)))


FILTERS: list[Callable[[str], EventFilter]] = [
    lambda category: EventFilter((category,)),
    lambda category: EventFilter((f"{category}_x",)),
    lambda category: EventFilter((f"{category}Y",)),
    lambda category: EventFilter((f"{category}-%", f"{category}-🦊")),
    lambda category: EventFilter((category,), ("A",)),
    lambda category: EventFilter((f"{category}_x-1", f"{category}y"), ("B", "D")),
    lambda category: EventFilter((category,), ("a", "AB", "")),
    lambda category: EventFilter((f"{category}_x", f"{category}_x-1")),
]


class ReadContract(StoreContractBase):
    """One stream by version and the log by position, both ways."""

    async def test_a_stream_that_does_not_exist_is_empty(
        self, store: EventStore, stream: StreamName
    ) -> None:
        assert await store.read(stream) == []
        assert await store.read(stream, start=3, limit=3) == []
        assert await store.read_backwards(stream) == []
        assert await store.read_backwards(stream, start=3, limit=3) == []

    @pytest.mark.parametrize("limit", [None, 0, 1, 4, 5, 6])
    async def test_a_stream_from_any_version_on(
        self, store: EventStore, stream: StreamName, limit: int | None
    ) -> None:
        events = new_events(5)
        await store.append(Append(stream, events, ANY))
        for start in (0, 1, 3, 4, 5, 99):
            read = await store.read(stream, start=start, limit=limit)
            assert as_new(read) == events[start:][:limit], f"start={start}"

    @pytest.mark.parametrize("limit", [None, 0, 1, 4, 5, 6])
    async def test_a_stream_from_any_version_back(
        self, store: EventStore, stream: StreamName, limit: int | None
    ) -> None:
        events = new_events(5)
        await store.append(Append(stream, events, ANY))
        for start in (0, 1, 3, 4, 99):
            read = await store.read_backwards(stream, start=start, limit=limit)
            assert as_new(read) == events[start::-1][:limit], f"start={start}"
        assert as_new(await store.read_backwards(stream, limit=limit)) == events[::-1][:limit]

    async def test_streams_that_begin_alike_are_different(
        self, store: EventStore, category: str
    ) -> None:
        streams = [StreamName(f"{category}{tail}") for tail in ("-1", "-11", "-1 ", "-A", "-a")]
        for stream in streams:
            await store.append(Append(stream, new_events(2), ANY))
        for stream in streams:
            assert {event.stream for event in await store.read(stream)} == {stream}
            assert len(await store.read_backwards(stream)) == 2

    async def test_the_log_is_in_the_order_of_the_appends(
        self, store: EventStore, category: str, mine: EventFilter
    ) -> None:
        events = new_events(9)
        for n, event in enumerate(events):
            await store.append(Append(StreamName.of(category, str(n % 2)), [event], ANY))
        log = await store.read_all(filter=mine)
        assert as_new(log) == events
        positions = [event.position for event in log]
        assert positions == sorted(set(positions))
        assert positions[0] > START
        assert positions[-1] == await store.end() or not self.features.starts_empty
        assert await store.read_all_backwards(filter=mine) == log[::-1]

    async def test_an_empty_log(self, store: EventStore, mine: EventFilter) -> None:
        assert await store.read_all(filter=mine) == []
        assert await store.read_all_backwards(filter=mine) == []
        if self.features.starts_empty:
            assert await store.end() == START
            assert await store.read_all() == await store.read_all_backwards() == []

    @pytest.mark.parametrize("filter_of", FILTERS)
    @pytest.mark.parametrize("seed", [1, 2])
    async def test_a_filter_gives_what_matches_and_nothing_else(
        self,
        store: EventStore,
        category: str,
        filter_of: Callable[[str], EventFilter],
        seed: int,
    ) -> None:
        log = await write_at_random(store, category, seed)
        filter = filter_of(category)
        matching = [event for event in log if filter.matches(event.stream, event.type)]
        assert await store.read_all(filter=filter) == matching
        assert await store.read_all_backwards(filter=filter) == matching[::-1]
        for cut in (log[0], log[50], log[-1]):
            after = [event for event in matching if event.position > cut.position]
            before = [event for event in matching if event.position < cut.position]
            assert await store.read_all(cut.position, filter=filter) == after
            assert await store.read_all_backwards(cut.position, filter=filter) == before[::-1]
            assert await store.read_all(cut.position, filter=filter, limit=3) == after[:3]
            assert (
                await store.read_all_backwards(cut.position, filter=filter, limit=3)
                == before[::-1][:3]
            )

    @pytest.mark.parametrize("page", [1, 7, 1000])
    async def test_pages_together_are_the_log(
        self, store: EventStore, category: str, mine: EventFilter, page: int
    ) -> None:
        log = await write_at_random(store, category, seed=3)
        forwards: list[RecordedEvent] = []
        after = START
        while events := await store.read_all(after, filter=mine, limit=page):
            assert len(events) <= page
            forwards += events
            after = events[-1].position
        backwards: list[RecordedEvent] = []
        before: Position | None = None
        while events := await store.read_all_backwards(before, filter=mine, limit=page):
            assert len(events) <= page
            backwards += events
            before = events[-1].position
        assert forwards == log
        assert backwards == log[::-1]

    async def test_a_page_of_the_log_is_a_thousand_unless_told(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        for _ in range(3):
            await store.append(Append(stream, new_events(400), ANY))
        assert len(await store.read_all(filter=mine)) == 1000
        assert len(await store.read_all_backwards(filter=mine)) == 1000
        assert len(await store.read_all(filter=mine, limit=1100)) == 1100
        assert await store.read_all(filter=mine, limit=0) == []
        assert await store.read_all_backwards(filter=mine, limit=0) == []
        # The limit of a page is no limit of a stream.
        assert len(await store.read(stream)) == 1200

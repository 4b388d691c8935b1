"""The event store contract: removing whole streams."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio

import pytest

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import (
    ANY,
    NO_STREAM,
    START,
    STREAM_EXISTS,
    ExpectedVersion,
    StreamName,
)
from amends.errors import UsageError, WrongExpectedVersion
from amends.stores.port import Append, EventFilter, EventStore, Removal
from amends.testing.contracts.data import as_new, closing, new_event, new_events, soon, take
from amends.testing.contracts.store_base import Reopen, StoreContractBase


async def let_others_run(times: int) -> None:
    """Come so many times after all others that could run."""
    for _ in range(times):
        await asyncio.sleep(0)


class RemoveContract(StoreContractBase):
    """Streams go whole, at their version; positions never come again."""

    @pytest.fixture
    async def streams(self, store: EventStore, category: str) -> list[StreamName]:
        """Five streams of four events each, the last of which are the last of the log."""
        streams = [StreamName.of(category, str(n)) for n in range(5)]
        for version in (NO_STREAM, ExpectedVersion(1)):
            for stream in streams:
                await store.append(Append(stream, new_events(2), version))
        return streams

    async def log(self, store: EventStore, mine: EventFilter) -> list[RecordedEvent]:
        """What the log has of this test, both ways."""
        log = await store.read_all(filter=mine)
        assert await store.read_all_backwards(filter=mine) == log[::-1]
        return log

    async def test_a_removed_stream_is_gone_and_the_others_are_not(
        self, store: EventStore, streams: list[StreamName], mine: EventFilter
    ) -> None:
        gone = {streams[0], streams[3]}
        left = [event for event in await self.log(store, mine) if event.stream not in gone]
        removed = await store.remove([Removal(stream, 3) for stream in gone])
        assert set(removed) == gone
        for stream in gone:
            assert await store.read(stream) == []
            assert await store.read(stream, start=3) == []
            assert await store.read_backwards(stream) == []
        if self.features.forgets_at_once:
            assert await self.log(store, mine) == left
        for stream in set(streams) - gone:
            assert len(await store.read(stream)) == 4

    @pytest.mark.parametrize("version", [0, 2, 4, 99])
    async def test_a_stream_that_has_moved_on_stays(
        self, store: EventStore, streams: list[StreamName], mine: EventFilter, version: int
    ) -> None:
        before = await self.log(store, mine)
        assert await store.remove([Removal(streams[0], version)]) == []
        assert await self.log(store, mine) == before
        # The others of the same call do not stay with it.
        removals = [Removal(streams[1], 3), Removal(streams[0], version), Removal(streams[2], 3)]
        assert set(await store.remove(removals)) == set(streams[1:3])
        assert len(await store.read(streams[0])) == 4

    async def test_what_is_not_there_is_not_removed(
        self, store: EventStore, streams: list[StreamName], category: str
    ) -> None:
        nothing = StreamName.of(category, "nothing")
        assert await store.remove([]) == []
        assert await store.remove([Removal(nothing, 0)]) == []
        both = [Removal(streams[0], 3), Removal(streams[0], 3)]
        assert await store.remove(both) == [streams[0]]
        assert await store.remove(both) == []

    @pytest.mark.parametrize("version", [NO_STREAM, ANY, STREAM_EXISTS])
    async def test_only_an_exact_version_will_do(
        self, store: EventStore, streams: list[StreamName], version: int
    ) -> None:
        with pytest.raises(UsageError):
            await store.remove([Removal(streams[1], 3), Removal(streams[0], version)])
        assert len(await store.read(streams[0])) == len(await store.read(streams[1])) == 4

    async def test_an_append_to_a_removed_stream_meets_none(
        self, store: EventStore, streams: list[StreamName]
    ) -> None:
        await store.remove([Removal(streams[0], 3)])
        for expected in (ExpectedVersion(3), ExpectedVersion(0), STREAM_EXISTS):
            with pytest.raises(WrongExpectedVersion) as caught:
                await store.append(Append(streams[0], new_events(1), expected))
            assert caught.value.actual == -1
        assert await store.read(streams[0]) == []

    async def test_its_name_is_free_for_a_new_stream(
        self, store: EventStore, streams: list[StreamName], mine: EventFilter
    ) -> None:
        old = await store.read(streams[0])
        await store.remove([Removal(streams[0], 3)])
        assert (await store.append(Append(streams[0], new_events(3), NO_STREAM))).version == 2
        assert (await store.append(Append(streams[0], new_events(1), ANY))).version == 3
        new = await store.read(streams[0])
        assert [event.version for event in new] == [0, 1, 2, 3]
        assert {event.id for event in new}.isdisjoint(event.id for event in old)
        log = await self.log(store, mine)
        assert log[-4:] == new

    async def test_nothing_is_remembered_of_it(self, store: EventStore, stream: StreamName) -> None:
        """Not even the ids that tell a retried append from a new one."""
        first = Append(stream, new_events(2), NO_STREAM)
        await store.append(first)
        await store.remove([Removal(stream, 1)])
        assert (await store.append(first)).version == 1
        await store.remove([Removal(stream, 1)])
        assert (await store.append(first._replace(expected=ANY))).version == 1
        assert as_new(await store.read(stream)) == first.events

    async def test_positions_never_come_again(
        self, store: EventStore, streams: list[StreamName], mine: EventFilter, category: str
    ) -> None:
        gone: set[StreamName] = set()
        for round in range(3):
            log = await self.log(store, mine)
            end = await store.end()
            assert end >= log[-1].position
            # All of them, and so the log's last event.
            left = {event.stream for event in log} - gone
            assert set(await store.remove([Removal(stream, 3) for stream in left])) == left
            gone |= left
            assert await store.end() >= end
            stream = StreamName.of(category, f"new {round}")
            await store.append(Append(stream, new_events(4), NO_STREAM))
            recorded = await store.read(stream)
            assert recorded[0].position > end
            if self.features.forgets_at_once:
                assert await self.log(store, mine) == recorded

    async def test_what_is_removed_stays_so(
        self, store: EventStore, streams: list[StreamName], mine: EventFilter, reopen: Reopen
    ) -> None:
        if not self.features.survives_close:
            pytest.skip("the backend keeps nothing")
        end = await store.end()
        await store.remove([Removal(stream, 3) for stream in streams])
        await store.close()
        again = await reopen()
        if self.features.forgets_at_once:
            assert await self.log(again, mine) == []
        assert await again.end() >= end
        appended = await again.append(Append(streams[0], new_events(1), NO_STREAM))
        assert appended.version == 0
        assert appended.position > end

    async def test_an_append_and_a_removal_do_not_both_win(
        self, store: EventStore, category: str
    ) -> None:
        async def append(stream: StreamName, late: int) -> bool:
            await let_others_run(late)
            try:
                await store.append(Append(stream, new_events(1), ExpectedVersion(1)))
            except WrongExpectedVersion as conflict:
                return conflict.actual != -1
            return True

        async def remove(stream: StreamName, late: int) -> bool:
            await let_others_run(late)
            return bool(await store.remove([Removal(stream, 1)]))

        outcomes = set()
        for n in range(40):
            stream = StreamName.of(category, str(n))
            await store.append(Append(stream, new_events(2), NO_STREAM))
            late = n // 2 % 5
            lates = (0, late) if n % 2 else (late, 0)
            appended, removed = await soon(
                asyncio.gather(append(stream, lates[0]), remove(stream, lates[1]))
            )
            assert appended != removed
            assert len(await store.read(stream)) == (3 if appended else 0)
            outcomes.add(appended)
        assert outcomes == {True, False}

    async def test_a_stream_is_read_whole_or_is_empty(
        self, store: EventStore, category: str
    ) -> None:
        for n in range(10):
            stream = StreamName.of(category, str(n))
            await store.append(Append(stream, new_events(1000), NO_STREAM))
            reading = [
                asyncio.ensure_future(read)
                for read in (store.read(stream), store.read_backwards(stream, start=899))
            ]
            for _ in range(n):
                await asyncio.sleep(0)
            await store.remove([Removal(stream, 999)])
            forwards, backwards = await soon(asyncio.gather(*reading))
            assert [e.version for e in forwards] in ([], list(range(1000)))
            assert [e.version for e in backwards] in ([], list(range(899, -1, -1)))

    async def test_a_subscription_passes_over_what_was_removed(
        self, store: EventStore, streams: list[StreamName], mine: EventFilter, category: str
    ) -> None:
        if not self.features.forgets_at_once:
            pytest.skip("the log shows what was removed until it is scavenged")
        log = await self.log(store, mine)
        async with (
            closing(store.subscribe(START, filter=mine)) as from_start,
            closing(store.subscribe(log[-1].position, filter=mine)) as from_end,
            closing(store.subscribe(log[1].position, filter=mine)) as from_removed,
            closing(store.subscribe(START, filter=mine)) as later,
        ):
            assert await take(from_start, 3) == log[:3]
            waiting = asyncio.ensure_future(anext(from_end))
            await asyncio.sleep(0)
            gone = {streams[0], streams[2], streams[4]}
            await store.remove([Removal(stream, 3) for stream in gone])
            last = Append(StreamName.of(category, "last"), [new_event("Last")], NO_STREAM)
            await store.append(last)
            assert (await soon(waiting)).type == "Last"
            left = await self.log(store, mine)
            assert await take(later, len(left)) == left
            assert await take(from_removed, len(left)) == left
            seen = [await soon(anext(from_start))]
            while seen[-1].type != "Last":
                seen.append(await soon(anext(from_start)))
            # What it had in hand when they were removed, it may still pass on.
            assert [event for event in seen if event.stream not in gone] == [
                event for event in left if event.position > log[2].position
            ]

    async def test_gaps_are_no_end(
        self, store: EventStore, category: str, mine: EventFilter
    ) -> None:
        """However wide they are, and however much a filter leaves out besides."""
        if not self.features.forgets_at_once:
            pytest.skip("the log shows what was removed until it is scavenged")
        kept = []
        for n in range(3):
            gap = StreamName.of(category, f"gap-{n}")
            for version in range(-1, 4999, 1000):
                await store.append(Append(gap, new_events(1000), ExpectedVersion(version)))
            stream = StreamName.of(category, f"kept-{n}")
            await store.append(Append(stream, [new_event("Kept"), new_event("Other")], NO_STREAM))
            kept += await store.read(stream)
            if n != 1:
                await store.remove([Removal(gap, 4999)])
        wanted = mine._replace(types=("Kept", "Other"))
        assert await self.log(store, wanted) == kept
        assert await self.log(store, mine._replace(types=("Kept",))) == kept[::2]
        assert (await store.read_all(filter=mine, limit=2)) == kept[:2]
        assert (await store.read_all_backwards(filter=mine, limit=2)) == kept[:3:-1]
        async with closing(store.subscribe(START, filter=wanted)) as subscription:
            assert await take(subscription, 6) == kept

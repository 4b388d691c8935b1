"""The event store contract: appending."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio

import pytest

from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, StreamName
from amends.errors import UsageError, WrongExpectedVersion
from amends.stores.port import Append, Appended, EventFilter, EventStore
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import as_new, new_event, new_events, soon
from amends.testing.contracts.store_base import StoreContractBase


class AppendContract(StoreContractBase):
    """Expected versions, retries, atomicity, races, contents."""

    async def test_an_append_says_where_it_ended(
        self, store: EventStore, stream: StreamName
    ) -> None:
        first = await store.append(Append(stream, new_events(3), NO_STREAM))
        second = await store.append(Append(stream, new_events(2), ExpectedVersion(2)))
        recorded = await store.read(stream)
        assert [event.version for event in recorded] == [0, 1, 2, 3, 4]
        assert first == Appended(2, recorded[2].position)
        assert second == Appended(4, recorded[4].position)

    async def test_events_come_back_as_they_were_given(
        self, store: EventStore, clock: ManualClock, stream: StreamName
    ) -> None:
        given = [
            new_event("Paid", b'{"a":1}', b'{"$correlationId":"c"}'),
            new_event("Empty", b"{}", b""),
        ]
        await clock.advance(3600)
        appended = await store.append(Append(stream, given, NO_STREAM))
        recorded = await store.read(stream)
        assert as_new(recorded) == given
        assert all(isinstance(event, RecordedEvent) for event in recorded)
        assert [event.stream for event in recorded] == [stream, stream]
        assert recorded[0].position < recorded[1].position == appended.position
        assert all(event.recorded_at.utcoffset() is not None for event in recorded)
        if self.features.sets_clock:
            assert {event.recorded_at for event in recorded} == {clock.now()}

    @pytest.mark.parametrize("expected", [ANY, STREAM_EXISTS, ExpectedVersion(1)])
    async def test_an_existing_stream_is_as_expected(
        self, store: EventStore, stream: StreamName, expected: ExpectedVersion
    ) -> None:
        before, after = new_events(2), new_events(2)
        await store.append(Append(stream, before, NO_STREAM))
        assert (await store.append(Append(stream, after, expected))).version == 3
        assert as_new(await store.read(stream)) == before + after

    async def test_any_version_makes_a_stream(self, store: EventStore, stream: StreamName) -> None:
        assert (await store.append(Append(stream, new_events(2), ANY))).version == 1

    @pytest.mark.parametrize(
        ("existing", "expected"),
        [
            (0, STREAM_EXISTS),
            (0, ExpectedVersion(0)),
            (0, ExpectedVersion(5)),
            (3, NO_STREAM),
            (3, ExpectedVersion(0)),
            (3, ExpectedVersion(1)),
            (3, ExpectedVersion(3)),
            (3, ExpectedVersion(9)),
        ],
    )
    async def test_a_conflict_tells_the_version_and_writes_nothing(
        self, store: EventStore, stream: StreamName, existing: int, expected: ExpectedVersion
    ) -> None:
        if existing:
            await store.append(Append(stream, new_events(existing), NO_STREAM))
        before, end = await store.read(stream), await store.end()
        with pytest.raises(WrongExpectedVersion) as caught:
            await store.append(Append(stream, new_events(2), expected))
        assert caught.value.actual == existing - 1
        assert (caught.value.stream, caught.value.expected) == (stream, expected)
        assert await store.read(stream) == before
        if self.features.starts_empty:
            assert await store.end() == end

    @pytest.mark.parametrize("expected", [NO_STREAM, ExpectedVersion(1), ANY, STREAM_EXISTS])
    @pytest.mark.parametrize("later", [0, 3])
    async def test_a_retried_append_is_a_success_without_a_second_copy(
        self, store: EventStore, stream: StreamName, expected: ExpectedVersion, later: int
    ) -> None:
        if expected in (ANY, STREAM_EXISTS) and not self.features.retries_any:
            pytest.skip("the backend recognises retries by their exact version")
        if expected != NO_STREAM:
            await store.append(Append(stream, new_events(2), NO_STREAM))
        append = Append(stream, new_events(3), expected)
        first = await store.append(append)
        if later:
            await store.append(Append(stream, new_events(later), ExpectedVersion(first.version)))
        before = await store.read(stream)
        assert await store.append(append) == first
        assert await store.append(append) == first
        assert await store.read(stream) == before

    async def test_a_retry_with_other_content_leaves_the_first(
        self, store: EventStore, stream: StreamName
    ) -> None:
        (given,) = new_events(1)
        first = await store.append(Append(stream, [given], NO_STREAM))
        changed = given._replace(type="Other", data=b'{"other":true}')
        assert await store.append(Append(stream, [changed], NO_STREAM)) == first
        assert as_new(await store.read(stream)) == [given]

    async def test_ids_mean_nothing_in_another_stream(
        self, store: EventStore, category: str
    ) -> None:
        events = new_events(2)
        for id in ("1", "2"):
            await store.append(Append(StreamName.of(category, id), events, NO_STREAM))
        for id in ("1", "2"):
            assert as_new(await store.read(StreamName.of(category, id))) == events

    async def test_an_append_that_is_known_only_in_part_is_a_conflict(
        self, store: EventStore, stream: StreamName
    ) -> None:
        first, second, third = new_events(3)
        await store.append(Append(stream, [first, second], NO_STREAM))
        for partly in ([first, third], [third, second], [second, first], [first, second, third]):
            with pytest.raises(WrongExpectedVersion) as caught:
                await store.append(Append(stream, partly, NO_STREAM))
            assert caught.value.actual == 1
        assert as_new(await store.read(stream)) == [first, second]

    async def test_an_append_of_nothing_is_refused(
        self, store: EventStore, stream: StreamName
    ) -> None:
        with pytest.raises(UsageError):
            await store.append(Append(stream, [], ANY))
        assert await store.read(stream) == []

    async def test_an_id_twice_in_one_append_is_refused(
        self, store: EventStore, stream: StreamName
    ) -> None:
        first, second = new_events(2)
        with pytest.raises(UsageError):
            await store.append(Append(stream, [first, second, first], NO_STREAM))
        assert await store.read(stream) == []

    async def test_what_is_no_expected_version_is_refused(
        self, store: EventStore, stream: StreamName
    ) -> None:
        with pytest.raises(UsageError):
            await store.append(Append(stream, new_events(1), ExpectedVersion(-3)))
        assert await store.read(stream) == []

    async def test_a_thousand_events_in_one_append(
        self, store: EventStore, stream: StreamName
    ) -> None:
        events = new_events(1000)
        assert (await store.append(Append(stream, events, NO_STREAM))).version == 999
        assert as_new(await store.read(stream)) == events

    async def test_every_character_and_every_byte_comes_back(
        self, store: EventStore, category: str
    ) -> None:
        stream = StreamName.of(category, "Žižka/№ 7 – 'q\" %_\\ 🦊")
        large = b'{"x":"%s"}' % (b"x" * (self.features.append_bytes_max // 2))
        given = [
            new_event("Überwiesen€", '{"text":"žluťoučký\\u0000 🦊 \\"q\\""}'.encode()),
            new_event("Large", large),
        ]
        await store.append(Append(stream, given, NO_STREAM))
        recorded = await store.read(stream)
        assert recorded[0].stream == stream
        # Not compared as a whole: the explanation of a difference would take minutes.
        assert recorded[0].data == given[0].data
        assert recorded[0].type == given[0].type
        assert bool(recorded[1].data == large)

    async def test_one_of_many_writers_makes_the_stream(
        self, store: EventStore, stream: StreamName
    ) -> None:
        batches = [new_events(2) for _ in range(50)]
        outcomes = await asyncio.gather(
            *(store.append(Append(stream, batch, NO_STREAM)) for batch in batches),
            return_exceptions=True,
        )
        won = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Appended)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, WrongExpectedVersion)]
        assert (len(won), len(lost)) == (1, 49)
        assert {conflict.actual for conflict in lost} == {1}
        assert as_new(await store.read(stream)) == batches[won[0]]

    async def test_one_of_many_writers_wins_each_version(
        self, store: EventStore, stream: StreamName
    ) -> None:
        async def write(event: NewEvent) -> int:
            while True:
                tail = await store.read_backwards(stream, limit=1)
                version = ExpectedVersion(tail[0].version) if tail else NO_STREAM
                try:
                    return (await store.append(Append(stream, [event], version))).version
                except WrongExpectedVersion as conflict:
                    # It may not say what was true before the read.
                    assert conflict.actual > version  # noqa: PT017 - the loop goes on

        events = new_events(50)
        versions = await soon(asyncio.gather(*(write(event) for event in events)))
        assert sorted(versions) == list(range(50))
        recorded = await store.read(stream)
        assert [recorded[version].id for version in versions] == [event.id for event in events]

    async def test_writers_of_different_streams_never_conflict(
        self, store: EventStore, category: str, mine: EventFilter
    ) -> None:
        streams = [StreamName.of(category, str(n)) for n in range(50)]

        async def write(stream: StreamName) -> None:
            for version in range(-1, 4):
                await store.append(Append(stream, new_events(1), ExpectedVersion(version)))

        await asyncio.gather(*(write(stream) for stream in streams))
        log = await store.read_all(filter=mine)
        assert len({event.position for event in log}) == 250
        for stream in streams:
            in_log = [event.version for event in log if event.stream == stream]
            assert in_log == [0, 1, 2, 3, 4]

    async def test_an_append_is_seen_whole_or_not_at_all(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        async def write() -> None:
            for n in range(40):
                await store.append(Append(stream, new_events(5), ExpectedVersion(n * 5 - 1)))

        writing = asyncio.ensure_future(write())
        while not writing.done():
            assert len(await store.read(stream)) % 5 == 0
            assert len(await store.read_all(filter=mine)) % 5 == 0
            # Not every backend lets others run when it reads.
            await asyncio.sleep(0)
        await writing
        assert len(await store.read(stream)) == 200

"""The event store contract: subscriptions."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio
import random
import tracemalloc

import pytest

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import ANY, START, Position, StreamName
from amends.stores.port import Append, EventFilter, EventStore
from amends.testing.contracts.data import as_new, closing, new_event, new_events, soon, take
from amends.testing.contracts.store_base import StoreContractBase


async def append_at_random(store: EventStore, category: str, rng: random.Random) -> None:
    """Some 60 appends to five streams, with pauses that let others run."""
    for _ in range(60):
        events = [new_event(rng.choice("AB")) for _ in range(rng.randint(1, 5))]
        await store.append(Append(StreamName.of(category, str(rng.randrange(5))), events, ANY))
        for _ in range(rng.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)


class SubscribeContract(StoreContractBase):
    """From a position to the end of time, without a gap or a double."""

    async def test_what_was_there_then_what_comes(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        past, future = new_events(3), new_events(3)
        await store.append(Append(stream, past, ANY))
        async with closing(store.subscribe(START, filter=mine)) as subscription:
            assert as_new(await take(subscription, 3)) == past
            coming = asyncio.ensure_future(anext(subscription))
            for event in future:
                await store.append(Append(stream, [event], ANY))
            assert as_new([await soon(coming), *await take(subscription, 2)]) == future
        assert [event.version for event in await store.read(stream)] == list(range(6))

    async def test_from_a_position_on(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        await store.append(Append(stream, new_events(10), ANY))
        log = await store.read_all(filter=mine)
        for n in (0, 4, 8):
            async with closing(store.subscribe(log[n].position, filter=mine)) as subscription:
                assert await take(subscription, 9 - n) == log[n + 1 :]

    async def test_from_now_on(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        await store.append(Append(stream, new_events(3), ANY))
        async with closing(store.subscribe(None, filter=mine)) as subscription:
            await store.append(Append(stream, new_events(3), ANY))
            coming = asyncio.ensure_future(anext(subscription))
            # Now it is awaited. How far it came is its own affair.
            await asyncio.sleep(0)
            future = new_events(3)
            await store.append(Append(stream, future, ANY))
            assert as_new([await soon(coming), *await take(subscription, 2)]) == future

    async def test_one_filter_for_the_past_and_the_future(
        self, store: EventStore, category: str
    ) -> None:
        wanted = EventFilter((f"{category}-a",), ("A",))
        events = [new_event("A"), new_event("B"), new_event("A")]

        async def write() -> None:
            for id in ("b", "a", "c", "ab"):
                await store.append(Append(StreamName.of(category, id), events, ANY))
                events[:] = [new_event(event.type) for event in events]

        await write()
        async with closing(store.subscribe(START, filter=wanted)) as subscription:
            past = await take(subscription, 4)
            coming = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0)
            await write()
            live = [await soon(coming), *await take(subscription, 3)]
        assert [event.stream for event in past + live] == [
            f"{category}-{id}" for id in ("a", "a", "ab", "ab") * 2
        ]
        assert past + live == await store.read_all(filter=wanted)

    @pytest.mark.parametrize("seed", range(5))
    async def test_no_gap_and_no_double_while_others_append(
        self, store: EventStore, category: str, mine: EventFilter, seed: int
    ) -> None:
        rng = random.Random(seed)
        last = Append(StreamName.of(category, "last"), [new_event("Last")], ANY)

        async def follow(after: Position | None) -> list[RecordedEvent]:
            for _ in range(rng.randrange(300)):
                await asyncio.sleep(0)
            seen: list[RecordedEvent] = []
            async with closing(store.subscribe(after, filter=mine)) as subscription:
                async for event in subscription:
                    seen.append(event)
                    if event.type == "Last":
                        return seen
            raise AssertionError("a subscription ended by itself")

        await append_at_random(store, category, rng)
        middle = (await store.read_all(filter=mine))[rng.randrange(50)].position
        followers = [asyncio.ensure_future(follow(after)) for after in (START, START, middle, None)]
        writers = (append_at_random(store, category, random.Random(seed * 7 + n)) for n in range(2))
        await soon(asyncio.gather(*writers))
        # By now the one that follows from now on has begun, whatever its pause was.
        for _ in range(300):
            await asyncio.sleep(0)
        await store.append(last)
        log = await store.read_all(filter=mine, limit=10_000)
        first, second, later, live = await soon(asyncio.gather(*followers))
        assert first == second == log
        assert later == [event for event in log if event.position > middle]
        assert live == log[len(log) - len(live) :]

    async def test_a_slow_reader_holds_no_backlog(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        data = b'{"x":"%s"}' % (b"x" * 8000)
        await store.append(Append(stream, new_events(1), ANY))
        async with closing(store.subscribe(START, filter=mine)) as subscription:
            await take(subscription, 1)
            coming = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0)
            tracemalloc.start()
            try:
                for _ in range(20):
                    # One `data` for all: a store in memory then holds references to it only.
                    batch = [new_event(data=data) for _ in range(100)]
                    await store.append(Append(stream, batch, ANY))
                await soon(coming)
                held_bytes, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert held_bytes < 2000 * len(data) / 2
            assert len(await take(subscription, 1999)) == 1999

    async def test_a_cancelled_reader_leaves_no_trace(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        await store.append(Append(stream, new_events(1), ANY))
        async with (
            closing(store.subscribe(START, filter=mine)) as cancelled,
            closing(store.subscribe(START, filter=mine)) as other,
        ):
            await take(cancelled, 1)
            waiting = asyncio.ensure_future(anext(cancelled))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(waiting)
            await store.append(Append(stream, new_events(2), ANY))
            assert [event.version for event in await take(other, 3)] == [0, 1, 2]

    async def test_many_readers_see_one_order(
        self, store: EventStore, category: str, mine: EventFilter
    ) -> None:
        async def follow() -> list[RecordedEvent]:
            async with closing(store.subscribe(START, filter=mine)) as subscription:
                return await take(subscription, 60)

        followers = [asyncio.ensure_future(follow()) for _ in range(20)]
        appends = (
            store.append(Append(StreamName.of(category, str(n)), new_events(3), ANY))
            for n in range(20)
        )
        await asyncio.gather(*appends)
        log = await store.read_all(filter=mine)
        for follower in followers:
            assert await soon(follower) == log

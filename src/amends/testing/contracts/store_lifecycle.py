"""The event store contract: closing and opening again."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio

import pytest

from amends.domain.ids import ANY, NO_STREAM, START, StreamName
from amends.errors import StoreClosed
from amends.stores.port import Append, EventFilter, EventStore, Removal
from amends.testing.contracts.data import closing, new_events, soon, take
from amends.testing.contracts.store_base import Reopen, StoreContractBase


class StoreLifecycleContract(StoreContractBase):
    """What `close` ends, and what it leaves."""

    async def test_a_closed_store_refuses_everything(
        self, store: EventStore, stream: StreamName
    ) -> None:
        await store.append(Append(stream, new_events(1), NO_STREAM))
        await store.close()
        await store.close()
        with pytest.raises(StoreClosed):
            await store.append(Append(stream, new_events(1), ANY))
        with pytest.raises(StoreClosed):
            await store.read(stream)
        with pytest.raises(StoreClosed):
            await store.read_backwards(stream)
        with pytest.raises(StoreClosed):
            await store.read_all()
        with pytest.raises(StoreClosed):
            await store.read_all_backwards()
        with pytest.raises(StoreClosed):
            await store.end()
        with pytest.raises(StoreClosed):
            await store.remove([Removal(stream, 0)])
        with pytest.raises(StoreClosed):
            await soon(anext(store.subscribe(START)))

    async def test_closing_ends_the_wait_of_a_subscription(
        self, store: EventStore, stream: StreamName, mine: EventFilter
    ) -> None:
        await store.append(Append(stream, new_events(1), ANY))
        async with closing(store.subscribe(START, filter=mine)) as subscription:
            await take(subscription, 1)
            waiting = asyncio.ensure_future(anext(subscription))
            for _ in range(20):
                # Until it has found nothing and waits, not only looks.
                await store.end()
                await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreClosed):
                await soon(waiting)

    async def test_appends_on_their_way_are_finished_or_refused(
        self, store: EventStore, category: str, reopen: Reopen, mine: EventFilter
    ) -> None:
        if not self.features.survives_close:
            pytest.skip("the backend keeps nothing")
        appends = [Append(StreamName.of(category, str(n)), new_events(2), ANY) for n in range(20)]
        writing = [asyncio.ensure_future(store.append(append)) for append in appends]
        await asyncio.sleep(0)
        await store.close()
        outcomes = await soon(asyncio.gather(*writing, return_exceptions=True))
        kept = {event.stream for event in await (await reopen()).read_all(filter=mine)}
        for append, outcome in zip(appends, outcomes, strict=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, StoreClosed)
            assert isinstance(outcome, StoreClosed) == (append.stream not in kept)

    async def test_the_log_is_there_when_it_is_opened_again(
        self, store: EventStore, stream: StreamName, mine: EventFilter, reopen: Reopen
    ) -> None:
        if not self.features.survives_close:
            pytest.skip("the backend keeps nothing")
        append = Append(stream, new_events(3), NO_STREAM)
        appended = await store.append(append)
        log = await store.read_all(filter=mine)
        await store.close()
        again = await reopen()
        assert await again.read_all(filter=mine) == log
        assert await again.append(append) == appended
        async with closing(again.subscribe(log[1].position, filter=mine)) as subscription:
            assert await take(subscription, 1) == log[2:]
        await again.append(Append(stream, new_events(1), ANY))
        assert [event.version for event in await again.read(stream)] == [0, 1, 2, 3]

"""Nothing of a call lasts longer than the call, and nobody waits for another's without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from amends.domain.ids import START, Position
from amends.errors import StoreReadOnly, StoreUnavailable
from amends.stores.eventstoredb import EventStoreDb
from amends.stores.port import Removal
from amends.testing.contracts.data import closing, soon, take
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault
from tests.integration.eventstoredb.support import a_stream, an_append, opened


@pytest.fixture
async def store(esdb_double: ProtocolDouble) -> AsyncIterator[EventStoreDb]:
    async with opened(esdb_double.uri) as store:
        yield store


async def test_who_asks_for_now_holds_nobody_up_for_longer_than_they_may_wait(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    await store.append(an_append(a_stream()))
    esdb_double.faults.next(Call.READ, Fault.STALL_BEFORE)
    following = asyncio.ensure_future(anext(store.subscribe()))
    await asyncio.sleep(0.05)
    append = an_append(a_stream())
    with pytest.raises(StoreUnavailable, match="where its log ends"):
        await soon(store.append(append))
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(following)
    assert (await soon(store.append(append))).version == 1


async def test_a_position_that_is_none_of_the_logs_is_told(store: EventStoreDb) -> None:
    first = await store.append(an_append(a_stream()))
    with pytest.raises(StoreUnavailable, match="restored from a backup"):
        await soon(store.read_all(Position(first.position - 1)))


async def test_closing_leaves_nothing_of_a_connection_that_was_replaced(
    esdb_double: ProtocolDouble,
) -> None:
    """Also when somebody has an event of its subscription in hand, so that it is not over yet."""
    async with opened(esdb_double.uri) as store:
        await store.append(an_append(a_stream()))
        async with closing(store.subscribe(START)) as subscription:
            await take(subscription, 1)
            link = await store._leader.link(1)
            store._leader.drop(link)
            await asyncio.sleep(0)
            await store.close()
            assert link._appender is not None
            assert all(task.done() for task in link._appender._tasks)


async def test_removals_come_to_their_end_though_one_of_them_fails(
    esdb_double: ProtocolDouble, store: EventStoreDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, other = an_append(a_stream()), an_append(a_stream())
    for append in (refused, other):
        await store.append(append)
    remove = store._writer.remove

    async def fails(removal: Removal) -> bool:
        if removal.stream == refused.stream:
            raise StoreReadOnly("not that one")
        return await remove(removal)

    monkeypatch.setattr(store._writer, "remove", fails)
    with pytest.raises(StoreReadOnly, match="not that one"):
        await soon(store.remove([Removal(refused.stream, 1), Removal(other.stream, 1)]))
    await store.close()
    async with opened(esdb_double.uri) as later:
        assert await later.read(other.stream) == []

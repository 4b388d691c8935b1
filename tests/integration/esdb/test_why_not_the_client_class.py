"""Why the adapter speaks through the client package's stubs, and not through its client class.

Each test shows what that class does today. When one fails, the class has changed for the better, and
the decision may be looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.esdb import clients
from tests.esdb.clients import NewEvent, StreamState
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault

COUNT = 2_000

pytestmark = pytest.mark.skipif(
    not clients.IS_OLDER, reason="kurrentdbclient, which came later, does these otherwise"
)


@pytest.fixture
async def client(esdb_double: ProtocolDouble) -> AsyncIterator[Any]:
    async with clients.connected(esdb_double.uri) as client:
        yield client


def some(count: int) -> list[Any]:
    return [NewEvent(type="Happened", data=b'{"n":1}' * 50) for _ in range(count)]


async def test_a_stream_that_is_read_in_part_looks_like_a_whole_one(client: Any) -> None:
    """Because any other call that fails makes the connection anew, under those that still run. A
    saga would be rebuilt from half of its journal.
    """
    await client.append_to_stream(
        "a-1", current_version=StreamState.NO_STREAM, events=some(COUNT), timeout=20
    )
    read = 0
    async for _ in await client.read_stream("a-1"):
        read += 1
        if read == 1:
            await client.reconnect()  # as it does by itself for somebody else's call
    assert read < COUNT


async def test_who_cancels_a_subscriber_is_not_heard(client: Any) -> None:
    """So that `asyncio.timeout`, a task group or the end of the program wait for ever, or go on."""
    subscription = await client.subscribe_to_all()
    went_on = asyncio.Event()

    async def follow() -> None:
        async for _ in subscription:
            pass
        went_on.set()

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    following.cancel()
    await asyncio.wait([following], timeout=5)
    assert following.done()
    assert not following.cancelled()
    assert went_on.is_set()


async def test_what_is_tried_again_is_tried_again_without_its_events(
    client: Any, esdb_double: ProtocolDouble
) -> None:
    """When they came from a generator, which the first try has used up. It reports success."""
    esdb_double.faults.next(Call.APPEND, Fault.DROP_BEFORE)
    await client.append_to_stream(
        "a-2", current_version=StreamState.NO_STREAM, events=(event for event in some(2))
    )
    assert esdb_double.faults.calls[Call.APPEND] == 2
    with pytest.raises(clients.NotFound):
        await client.get_stream("a-2")


async def test_a_failed_append_is_sent_twice_and_the_doubt_is_not_told(
    client: Any, esdb_double: ProtocolDouble
) -> None:
    """The first try was written. The caller hears of the second alone, which was refused."""
    esdb_double.faults.next(Call.APPEND, Fault.DROP_AFTER)
    esdb_double.faults.next(Call.APPEND, Fault.NOT_READY, skip=1)
    with pytest.raises(clients.ClientError) as caught:
        await client.append_to_stream("a-3", current_version=StreamState.NO_STREAM, events=some(2))
    assert "not ready" not in str(caught.value).lower(), "not even the server's reason is told"
    assert len(await client.get_stream("a-3")) == 2

"""The client library ends a connection by itself when the server misses heartbeats, and then says
"cancelled" to everybody who waits. Nobody was.
"""

from __future__ import annotations

import asyncio

import pytest

from amends.broker.rabbitmq import RabbitBroker
from amends.broker.rabbitmq.connection import library_words
from amends.testing.contracts.data import new_messages
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Site, messages_in

QUEUE = "commands.ledger"


async def end_connection(broker: RabbitBroker) -> None:
    """As the library does when it has heard nothing for too long."""
    made = broker._publishing._made
    assert made is not None
    assert made.transport is not None
    await made.transport.connection.close(asyncio.CancelledError)


async def test_what_was_under_way_is_published_again(
    private_rabbitmq: PrivateRabbitMQ, site: Site
) -> None:
    broker = await site.open(QUEUE, url=private_rabbitmq.url)
    messages = new_messages(QUEUE, 50)
    private_rabbitmq.pause()
    publishing = asyncio.ensure_future(broker.publish(messages))
    await asyncio.sleep(0.1)
    assert not publishing.done()
    ending = asyncio.ensure_future(end_connection(broker))
    await asyncio.sleep(0.1)
    private_rabbitmq.resume()
    await ending
    async with asyncio.timeout(20):
        await publishing
    assert {message.id for message in await messages_in(broker, QUEUE)} == {
        message.id for message in messages
    }


async def test_a_task_that_is_cancelled_is_cancelled() -> None:
    async def work() -> None:
        with library_words():
            await asyncio.sleep(60)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionError), library_words():
        raise asyncio.CancelledError

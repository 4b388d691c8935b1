"""A connection that is closed amid requests is noticed at once, and not when they time out: see
`while_open`.
"""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from aiormq.abc import ChannelFrame
from pamqp.heartbeat import Heartbeat

from amends.broker.port import Broker
from amends.broker.rabbitmq.connection import REQUEST_TIMEOUT_S, while_open
from amends.errors import BrokerUnavailable
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import PATIENCE_S, Plain, Site

QUEUES = ("inbox.0", "commands.ledger")
CLOSINGS = 8


async def declare_for_ever(broker: Broker) -> None:
    while True:
        await broker.declare(QUEUES)


async def consume_for_ever(broker: Broker) -> None:
    while True:
        consumer = broker.consume("commands.ledger", limit=1)
        receiving = asyncio.ensure_future(consumer.receive())
        await asyncio.wait([receiving], timeout=0.01)
        await consumer.stop()
        await receiving


async def test_whatever_it_was_about_to_ask(private_rabbitmq: PrivateRabbitMQ, harsh: Site) -> None:
    broker = await harsh.open(*QUEUES)
    draw = random.Random(1)
    longest_s = 0.0
    for _ in range(CLOSINGS):
        working = [*(declare_for_ever(broker) for _ in range(3)), consume_for_ever(broker)]
        asking = [asyncio.ensure_future(work) for work in working]
        await asyncio.sleep(draw.uniform(0, 0.05))
        began = time.monotonic()
        while not all(each.done() for each in asking):
            await asyncio.to_thread(private_rabbitmq.close_all_connections)
            await asyncio.wait(asking, timeout=0.5)
        longest_s = max(longest_s, time.monotonic() - began)
        assert {type(each.exception()) for each in asking} == {BrokerUnavailable}
    assert longest_s < REQUEST_TIMEOUT_S / 2


async def test_a_request_that_is_left_waiting_on_a_closed_channel_fails(plain: Plain) -> None:
    left = asyncio.ensure_future(while_open(plain.wire, asyncio.Event().wait()))
    await asyncio.sleep(0)
    await plain.wire.close()
    with pytest.raises(ConnectionError):
        await left


async def test_what_is_still_written_to_a_closed_connection_holds_nobody_up(
    private_rabbitmq: PrivateRabbitMQ, harsh: Site
) -> None:
    broker = await harsh.open(*QUEUES)
    made = broker._publishing._made
    assert made is not None
    assert made.transport is not None
    frames = made.transport.connection.write_queue
    await asyncio.to_thread(private_rabbitmq.close_all_connections)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(100):
            await frames.put(ChannelFrame.marshall(1, [Heartbeat()]))

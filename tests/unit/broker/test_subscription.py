"""A subscription goes on over lost connections, until it is stopped."""

from __future__ import annotations

import asyncio

import pytest

from amends.broker.port import Delivery
from amends.broker.subscription import Subscription
from amends.errors import BrokerUnavailable
from amends.testing.clock import VirtualClock
from amends.testing.contracts.data import new_message

pytestmark = pytest.mark.virtual_time

DELIVERY = Delivery(new_message("commands.ledger"), 1, None)


class Server:
    """A broker that can be away. `subscribed` counts the attempts to consume."""

    def __init__(self, *, away: bool) -> None:
        self.away = away
        self.subscribed = 0
        self.closed = 0

    def consume(self) -> _Consumer:
        self.subscribed += 1
        return _Consumer(self)


class _Consumer:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def receive(self) -> list[Delivery]:
        if self._server.away:
            raise BrokerUnavailable("away")
        return [DELIVERY]

    async def stop(self) -> None:
        pass

    async def close(self) -> None:
        self._server.closed += 1


async def test_it_goes_on_when_the_broker_is_there_again(clock: VirtualClock) -> None:
    server = Server(away=True)
    receiving = asyncio.create_task(Subscription(server.consume, clock=clock).receive())
    await asyncio.sleep(60)
    assert 8 < server.subscribed < 30
    assert server.closed == server.subscribed
    server.away = False
    assert await receiving == [DELIVERY]


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_once_stopped_it_never_subscribes_again(clock: VirtualClock, end: str) -> None:
    """Also while it waits for its next attempt: whoever stops would begin new work otherwise."""
    server = Server(away=True)
    subscription = Subscription(server.consume, clock=clock)
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(30)
    subscribed, server.away, stopped_at = server.subscribed, False, clock.elapsed_s
    await getattr(subscription, end)()
    assert await receiving == []
    assert await subscription.receive() == []
    assert (server.subscribed, clock.elapsed_s) == (subscribed, stopped_at)

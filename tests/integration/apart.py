"""A broker in memory in the place of RabbitMQ: for what is the same on every broker that stands
apart from the store.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from amends import Settings
from amends.broker.memory import MemoryBroker
from amends.domain.clock import Clock

ADDRESS = "amqp://user:secret@host"


class BrokerApart:
    """Whoever opens the broker meets the others there. `opened` are their views of it."""

    def __init__(self) -> None:
        self.opened: list[MemoryBroker] = []

    async def open(self, settings: Settings, clock: Clock) -> MemoryBroker:
        """What the composition root calls."""
        assert settings.broker == ADDRESS
        broker = self.opened[0].reopened() if self.opened else MemoryBroker(clock)
        self.opened.append(broker)
        return broker


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> BrokerApart:
    """What opens instead of RabbitMQ, at `ADDRESS`."""
    broker = BrokerApart()
    module = SimpleNamespace(RabbitBroker=broker)
    monkeypatch.setitem(sys.modules, "amends.broker.rabbitmq.broker", module)
    return broker

"""A broker in memory in the place of RabbitMQ: for what is the same on every broker that stands
apart from the store.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import amends.broker.rabbitmq
from amends.broker.memory import MemoryBroker
from amends.broker.port import Process, QueueDepth
from amends.broker.rabbitmq import BrokerAddress
from amends.broker.rabbitmq.topology import Finding
from amends.domain.clock import Clock

ADDRESS = "amqp://user:secret@host"


class View(MemoryBroker):
    """One process's view of the broker."""

    def __init__(self, apart: BrokerApart, clock: Clock) -> None:
        super().__init__(clock)
        if apart.opened:
            self._memory = apart.opened[0]._memory
        self.apart = apart
        self.is_connected = False

    async def connect(self) -> None:
        if self.apart.is_down is not None:
            raise self.apart.is_down
        self.is_connected = True

    async def depths(self, queues: Sequence[str] = ()) -> list[QueueDepth]:
        self.apart.asked = list(queues)
        return self.apart.depths or await super().depths()

    async def processes(self) -> list[Process]:
        return self.apart.processes

    async def set_up(self, queues: Sequence[str]) -> list[Finding]:
        self.apart.set_up = list(queues)
        return self.apart.findings


class BrokerApart:
    """Whoever opens the broker meets the others there. `opened` are their views of it.

    `depths`, `processes` and `findings` are what it tells, `asked` and `set_up` the queues that it was
    asked for.
    """

    def __init__(self) -> None:
        self.opened: list[View] = []
        self.is_down: Exception | None = None
        self.asked: list[str] = []
        self.depths: list[QueueDepth] = []
        self.processes: list[Process] = []
        self.set_up: list[str] = []
        self.findings: list[Finding] = []

    def __call__(
        self,
        address: BrokerAddress,
        prefix: str,
        clock: Clock,
        *,
        partitions: int,
        publish_timeout_s: float,
    ) -> View:
        """What the composition root calls for one of them."""
        assert (address.nodes[0].host, address.user, address.password) == ("host", "user", "secret")
        assert (prefix, partitions, publish_timeout_s) == ("amends", 8, 30.0)
        self.opened.append(View(self, clock))
        return self.opened[-1]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> BrokerApart:
    """What is opened instead of RabbitMQ, at `ADDRESS`."""
    broker = BrokerApart()
    monkeypatch.setattr(amends.broker.rabbitmq, "RabbitBroker", broker)
    return broker

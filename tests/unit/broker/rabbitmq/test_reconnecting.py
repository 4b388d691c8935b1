"""Whoever lost a server tries again, ever more patiently, and not in step with all the others."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from amends.broker.rabbitmq import BrokerAddress
from amends.broker.rabbitmq.connection import Connection
from amends.domain.backoff import BACKOFF_MAX_S, backoff_s
from amends.errors import BrokerUnavailable
from amends.testing.clock import VirtualClock

pytestmark = pytest.mark.virtual_time

ATTEMPTS = 10


async def pauses(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many seconds lie between the attempts of one connection, in vain."""
    tried = []

    async def refuse(_: Any) -> None:
        tried.append(clock.now())
        raise BrokerUnavailable("nobody listens")

    monkeypatch.setattr(Connection, "_connect", refuse)
    connection = Connection(BrokerAddress.parse("amqp://nowhere/"), "test", clock)
    for _ in range(ATTEMPTS):
        with pytest.raises(BrokerUnavailable):
            await connection.made()
    await connection.close()
    return [(after - before).total_seconds() for before, after in pairwise(tried)]


async def test_pauses_grow_up_to_a_bound_and_no_two_are_alike(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [await pauses(clock, monkeypatch) for _ in range(20)]
    for failures, alike in enumerate(zip(*many, strict=True), 1):
        usual = backoff_s(failures)
        assert 0.5 * usual <= min(alike) <= usual <= max(alike) <= 1.5 * usual
        assert len(set(alike)) > len(alike) / 2
    assert backoff_s(ATTEMPTS - 1) == BACKOFF_MAX_S

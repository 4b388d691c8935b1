"""Channels over which RabbitMQ takes nothing for a queue any more, as when that has lost its leader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog.testing
from aiormq.channel import Channel as Wire
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic

from amends.broker.rabbitmq import RabbitBroker, publisher
from amends.testing.contracts.data import new_message, soon
from tests.integration.rabbitmq.site import Site, messages_in

LEDGER, MAIL = "commands.ledger", "commands.mail"


class Broken:
    """The first channel that publishes to a queue: whatever is sent there over it is refused, or
    forgotten.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, queue: str, *, refuses: bool) -> None:
        self.lost = 0
        self._refuses = refuses
        self._queue = queue
        self._wire: Wire | None = None
        self._publish = Wire.basic_publish
        broken = self

        async def publish(wire: Wire, body: bytes, **options: Any) -> object:
            return await broken.publish(wire, body, **options)

        monkeypatch.setattr(Wire, "basic_publish", publish)

    async def publish(self, wire: Wire, body: bytes, **options: Any) -> object:
        if options["routing_key"] == self._queue and self._wire in (None, wire):
            self._wire = wire
            self.lost += 1
            if self._refuses:
                raise DeliveryError(None, Basic.Nack())
            await asyncio.Event().wait()
        return await self._publish(wire, body, **options)


@pytest.fixture
async def broker(site: Site, monkeypatch: pytest.MonkeyPatch) -> RabbitBroker:
    monkeypatch.setattr(publisher, "CONFIRM_S", 0.5)
    monkeypatch.setattr(publisher, "TRUST_S", 0.1)
    return await site.open(LEDGER, MAIL)


@pytest.mark.parametrize("refuses", [False, True])
async def test_what_one_channel_does_not_take_goes_over_another(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    broken = Broken(monkeypatch, LEDGER, refuses=refuses)
    lost, other = new_message(LEDGER), new_message(MAIL)
    with structlog.testing.capture_logs() as logs:
        await soon(broker.publish([lost, other]))
    events = {entry["event"] for entry in logs}
    assert events == {"publish_refused" if refuses else "publish_unconfirmed"}
    assert broken.lost >= 1
    assert await messages_in(broker, LEDGER) == [lost]
    assert await messages_in(broker, MAIL) == [other]


async def test_an_alarm_is_waited_for(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(monkeypatch, LEDGER, refuses=False)
    alarm = [True]
    lost_meanwhile: list[int] = []
    waited: list[int] = []

    async def is_blocked() -> bool:
        lost_meanwhile.append(broken.lost)
        return alarm.pop(0) if alarm else False

    async def unblocked() -> None:
        waited.append(broken.lost)

    monkeypatch.setattr(broker._publisher, "is_blocked", is_blocked)
    monkeypatch.setattr(broker._publishing, "unblocked", unblocked)
    with structlog.testing.capture_logs() as logs:
        await soon(broker.publish([new_message(LEDGER)]))
    # Once more when the alarm is over, and over another channel when that does not help either.
    assert (lost_meanwhile, waited) == ([1, 2], [1])
    assert [entry["event"] for entry in logs] == ["publish_unconfirmed"]

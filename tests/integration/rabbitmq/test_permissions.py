"""What a user must be allowed to do: configure, write and read what is under the prefix, and a queue
that the server names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from amends.broker.rabbitmq import RabbitBroker
from amends.errors import BrokerRefused
from amends.testing.contracts.data import new_message, soon
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Site, receive

USER, PASSWORD = "payments", "its-own"


@pytest.fixture
def server(private_rabbitmq: PrivateRabbitMQ) -> Iterator[PrivateRabbitMQ]:
    private_rabbitmq.ctl("add_user", USER, PASSWORD)
    yield private_rabbitmq
    private_rabbitmq.ctl("delete_user", USER)


def url_of(server: PrivateRabbitMQ) -> str:
    return f"amqp://{USER}:{PASSWORD}@{server.url.rpartition('@')[2]}"


async def permit(server: PrivateRabbitMQ, configure: str, write: str, read: str) -> None:
    await asyncio.to_thread(server.ctl, "set_permissions", USER, configure, write, read)


async def test_permissions_for_the_prefix_are_enough(
    server: PrivateRabbitMQ, harsh: Site, rabbit_prefix: str
) -> None:
    ours = rf"^({rabbit_prefix}(\..*)?|amq\.gen-.*)$"
    await permit(server, ours, ours, ours)
    broker: RabbitBroker = await harsh.open_undeclared(url=url_of(server))
    assert not any(found.differs for found in await broker.set_up(["inbox.0", "commands.ledger"]))
    await broker.declare(["inbox.0", "commands.ledger"])
    commands, inboxes = broker.consume("commands.ledger", limit=2), broker.own(["inbox.0"], limit=2)
    sent = [new_message("commands.ledger"), new_message("inbox.0")]
    await broker.publish(sent)
    [command], [report] = await receive(commands, 1), await receive(inboxes, 1)
    await broker.dead_letter(command, reason="a test", detail="")
    assert await broker.redrive([sent[0].id]) == 1
    [again] = await receive(commands, 1)
    assert (again.message, report.message) == tuple(sent)
    assert len(await soon(broker.processes())) == 1


async def test_who_may_not_configure_is_refused(
    server: PrivateRabbitMQ, harsh: Site, rabbit_prefix: str
) -> None:
    await harsh.open("inbox.0")
    await permit(server, r"^amq\.gen", ".*", ".*")
    broker = await harsh.open_undeclared(url=url_of(server))
    with pytest.raises(BrokerRefused, match=rf"ACCESS_REFUSED.*{rabbit_prefix}\.partitions"):
        await broker.declare(["inbox.0"])

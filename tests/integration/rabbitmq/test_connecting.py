"""Whoever cannot get in is told early why, and nobody is told a password."""

from __future__ import annotations

import asyncio
import re
import socket
import warnings
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
import trustme
from yarl import URL

from amends.broker.rabbitmq import RabbitBroker
from amends.broker.rabbitmq.connection import LibraryConnection
from amends.errors import (
    BrokerClosed,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    InvalidSettings,
)
from amends.testing.contracts.data import new_message, soon
from amends.testing.rabbitmq import PrivateRabbitMQ, TlsFiles
from tests.integration.rabbitmq.site import Site, eventually, take

COMMANDS = "commands.ledger"


async def refusal(opening: Awaitable[Any], password: str, *, within_s: float = 3) -> BrokerError:
    """Why it cannot be opened, which is known at once."""
    with pytest.raises(BrokerError) as caught:
        async with asyncio.timeout(within_s):
            await opening
    for error in (caught.value, caught.value.__cause__):
        assert password not in f"{error} {error!r}"
    return caught.value


def changed(url: str, **parts: str) -> str:
    """A URL with another user, password, host, port or path."""
    split = urlsplit(url)
    told = {
        "user": split.username, "password": split.password, "host": split.hostname,
        "port": split.port, "path": split.path, "scheme": split.scheme, **parts,
    }  # fmt: skip
    return "{scheme}://{user}:{password}@{host}:{port}{path}".format(**told)


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# --- who comes in


async def test_with_a_wrong_password_nobody_comes_in(harsh: Site) -> None:
    url = changed(harsh.url, password="wr0ng")
    error = await refusal(harsh.open(url=url), "wr0ng")
    assert isinstance(error, BrokerRefused)
    assert "amqp://amends@127.0.0.1" in str(error)
    assert "password" in str(error)


async def test_a_virtual_host_that_is_not_there_is_refused(harsh: Site) -> None:
    error = await refusal(
        harsh.open(url=changed(harsh.url, path="/nowhere")), urlsplit(harsh.url).password or ""
    )
    assert isinstance(error, BrokerRefused)
    assert "/nowhere" in str(error)
    assert "the virtual host" in str(error)


@pytest.fixture
def guest(private_rabbitmq: PrivateRabbitMQ) -> Iterator[str]:
    """A user who may do nothing but look."""
    auth = "rabbit_auth_backend_internal"
    private_rabbitmq.eval(f'{auth}:add_user(<<"looker">>, <<"l00k">>, <<"test">>)')
    private_rabbitmq.eval(
        f'{auth}:set_permissions(<<"looker">>, <<"/">>, <<"^$">>, <<"^$">>, <<".*">>, <<"test">>)'
    )
    yield changed(private_rabbitmq.url, user="looker", password="l00k")
    private_rabbitmq.eval(f'{auth}:delete_user(<<"looker">>, <<"test">>)')


async def test_without_permission_nothing_is_declared(harsh: Site, guest: str) -> None:
    broker = await harsh.open_undeclared(url=guest)
    for attempt in (broker.declare([COMMANDS]), broker.set_up([COMMANDS])):
        error = await refusal(attempt, "l00k")
        assert isinstance(error, BrokerRefused)
        assert "refuses to declare exchange" in str(error)
        assert "refused for user 'looker'" in str(error)
        assert "Look at the user's permissions" in str(error)


# --- where it is


async def test_where_nobody_listens_it_is_said_at_once(harsh: Site, nobody: int) -> None:
    error = await refusal(harsh.open(url=f"amqp://me:s3cret@127.0.0.1:{nobody}"), "s3cret")
    assert not isinstance(error, BrokerRefused)
    assert f"amqp://me@127.0.0.1:{nobody}" in str(error)
    assert "111" in str(error)


async def test_all_who_wait_share_an_attempt_and_hear_how_it_went(
    harsh: Site, nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the last of many heard that the server is away when it had long come back."""
    attempts: list[int] = []
    connect = aio_pika.connect

    async def counted(*args: Any, **options: Any) -> Any:
        attempts.append(1)
        return await connect(*args, **options)

    monkeypatch.setattr(aio_pika, "connect", counted)
    broker = harsh.make(url=f"amqp://me:s3cret@127.0.0.1:{nobody}")
    for tried in (1, 2):
        outcomes = await asyncio.gather(
            *(broker.declare([COMMANDS]) for _ in range(30)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}
        assert len(attempts) == tried
    waiting = asyncio.ensure_future(broker.declare([COMMANDS]))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await broker.close()
        with pytest.raises(BrokerClosed):
            await waiting


async def test_what_an_attempt_leaves_behind_is_collected_in_any_thread() -> None:
    left = [LibraryConnection(URL("amqp://localhost"))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await asyncio.to_thread(left.clear)
    assert not caught


async def test_of_several_nodes_one_that_lives_is_found(
    harsh: Site, nobody: int, private_rabbitmq: PrivateRabbitMQ
) -> None:
    """At first, and again when the connection is lost."""
    down = changed(harsh.url, port=str(nobody))
    url = f"{down},{harsh.url}"
    broker = await harsh.open(COMMANDS, url=url)
    await asyncio.to_thread(private_rabbitmq.close_all_connections)
    message = new_message(COMMANDS)
    await soon(broker.publish([message]))
    [delivery] = await eventually(lambda: _taken(broker))
    assert delivery.message == message


async def _taken(broker: RabbitBroker) -> Any:
    try:
        return await take(broker, COMMANDS, 1)
    except BrokerUnavailable:
        return None


async def test_a_server_that_says_nothing_is_given_up(harsh: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"amqp://me:s3cret@127.0.0.1:{port}?connection_timeout=1"
        error = await refusal(harsh.open(url=url), "s3cret")
    assert isinstance(error, BrokerUnavailable)
    assert "TimeoutError" in str(error)


# --- TLS


async def test_over_tls(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ, rabbit_tls: TlsFiles
) -> None:
    broker = await harsh.open(COMMANDS, url=private_rabbitmq.tls_url, ca_file=str(rabbit_tls.ca))
    message = new_message(COMMANDS)
    await broker.publish([message])
    [delivery] = await take(broker, COMMANDS, 1)
    assert delivery.message == message
    assert "ssl" in private_rabbitmq.eval("rabbit_networking:connection_info_all([ssl])")
    assert "{ssl,true}" in private_rabbitmq.eval("rabbit_networking:connection_info_all([ssl])")


async def test_a_server_of_an_unknown_authority_is_not_trusted(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    password = urlsplit(harsh.url).password or ""
    for ca_file in (None, str(other)):
        error = await refusal(harsh.open(url=private_rabbitmq.tls_url, ca_file=ca_file), password)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)


async def test_a_server_under_another_name_is_not_trusted(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ, rabbit_tls: TlsFiles
) -> None:
    url = changed(private_rabbitmq.tls_url, host="127.0.0.2")
    error = await refusal(
        harsh.open(url=url, ca_file=str(rabbit_tls.ca)), urlsplit(url).password or ""
    )
    assert "127.0.0.2" in str(error)


async def test_tls_at_the_plain_port_and_plain_at_the_tls_port(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ, rabbit_tls: TlsFiles
) -> None:
    password = urlsplit(harsh.url).password or ""
    error = await refusal(
        harsh.open(url=changed(harsh.url, scheme="amqps"), ca_file=str(rabbit_tls.ca)), password
    )
    assert "WRONG_VERSION_NUMBER" in str(error)
    error = await refusal(
        harsh.open(url=changed(private_rabbitmq.tls_url, scheme="amqp")), password
    )
    assert "onnection" in str(error)


async def test_a_certificate_that_is_being_renewed_is_waited_for(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ, rabbit_tls: TlsFiles, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(b"not yet")
    with pytest.raises(InvalidSettings, match="cafile"):
        await harsh.open(url=private_rabbitmq.tls_url, ca_file=str(ca))
    ca.write_bytes(rabbit_tls.ca.read_bytes())
    broker = await harsh.open(COMMANDS, url=private_rabbitmq.tls_url, ca_file=str(ca))
    ca.write_bytes(b"half of it")
    await asyncio.to_thread(private_rabbitmq.close_all_connections)
    message = new_message(COMMANDS)
    publishing = asyncio.ensure_future(broker.publish([message]))
    await asyncio.sleep(0.3)
    assert not publishing.done()
    ca.write_bytes(rabbit_tls.ca.read_bytes())
    await soon(publishing)
    [delivery] = await eventually(lambda: _taken(broker))
    assert delivery.message == message


# --- what the server sees


async def test_connections_have_names_and_a_heartbeat(
    harsh: Site, private_rabbitmq: PrivateRabbitMQ
) -> None:
    broker = await harsh.open(COMMANDS, heartbeat_s=7)
    await take_nothing(broker)
    seen = private_rabbitmq.eval(
        "rabbit_networking:connection_info_all([timeout, client_properties])"
    )
    assert sorted(re.findall(r'"connection_name">>,longstr,<<"([^"]*)"', seen)) == [
        "amends consumer", "amends publisher",
    ]  # fmt: skip
    assert re.findall(r"{timeout,(\d+)}", seen) == ["7", "7"]


async def take_nothing(broker: RabbitBroker) -> None:
    consumer = broker.consume(COMMANDS, limit=1)
    receiving = asyncio.ensure_future(consumer.receive())
    message = new_message(COMMANDS)
    await broker.publish([message])
    await broker.ack(await soon(receiving))
    await consumer.close()

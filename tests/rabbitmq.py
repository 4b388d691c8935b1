"""RabbitMQ for tests: a private server, started once, or the one that AMENDS_TEST_AMQP_URL names.

Where there is neither, tests that need it are skipped; with CI=true they fail.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import aio_pika
import aiormq
import pytest
import trustme

from amends.testing.rabbitmq import PrivateRabbitMQ, RabbitMQError, RabbitMQMissing, TlsFiles

URL_VARIABLE = "AMENDS_TEST_AMQP_URL"


@pytest.fixture(scope="session")
def rabbit_tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """The certificate of the private server, and the authority to trust for it."""
    folder = tmp_path_factory.mktemp("rabbit-tls")
    files = TlsFiles(
        ca=folder / "ca.pem", certificate=folder / "certificate.pem", key=folder / "key.pem"
    )
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(files.ca)
    issued.private_key_pem.write_to_path(files.key)
    for pem in issued.cert_chain_pems:
        pem.write_to_path(files.certificate, append=True)
    return files


@pytest.fixture(scope="session")
def rabbitmq_process(rabbit_tls: TlsFiles) -> Iterator[PrivateRabbitMQ]:
    """The private server of the session. Tests take `private_rabbitmq`."""
    try:
        server = PrivateRabbitMQ(tls=rabbit_tls)
    except RabbitMQMissing as missing:
        if os.environ.get("CI") == "true" and URL_VARIABLE not in os.environ:
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.fixture
def private_rabbitmq(rabbitmq_process: PrivateRabbitMQ) -> Iterator[PrivateRabbitMQ]:
    """A server that may be killed, paused and blocked: after the test it runs again as before."""
    yield rabbitmq_process
    mend(rabbitmq_process)


@pytest.fixture(scope="session")
def rabbitmq(request: pytest.FixtureRequest) -> str:
    """The URL of a server that nobody harms."""
    if named := os.environ.get(URL_VARIABLE):
        return named
    server: PrivateRabbitMQ = request.getfixturevalue("rabbitmq_process")
    return server.url


@pytest.fixture
def rabbit_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix for names that no other test has. What has such a name is deleted after the test."""
    prefix = f"test-{uuid4().hex[:12]}"
    if URL_VARIABLE in os.environ and "private_rabbitmq" not in request.fixturenames:
        with declared_names(prefix) as (queues, exchanges):
            yield prefix
        asyncio.run(delete(os.environ[URL_VARIABLE], queues, exchanges))
        return
    server: PrivateRabbitMQ = request.getfixturevalue("rabbitmq_process")
    yield prefix
    mend(server)
    server.delete(prefix)


def mend(server: PrivateRabbitMQ) -> None:
    """Leave it running, without an alarm, whatever a test did to it."""
    if server.running:
        server.resume()
        with suppress(RabbitMQError):  # as when its application is stopped
            server.clear_memory_alarm()
            return
    # Empty: RabbitMQ 3.10 breaks when queues are deleted as soon as it is up again.
    server.stop()
    server.start()


@contextmanager
def declared_names(prefix: str) -> Iterator[tuple[set[str], set[str]]]:
    """What this process declares meanwhile under a prefix: AMQP cannot list what there is."""
    queues: set[str] = set()
    exchanges: set[str] = set()
    declare_queue, declare_exchange = (
        aiormq.Channel.queue_declare,
        aiormq.Channel.exchange_declare,
    )

    async def queue_declare(self: aiormq.Channel, queue: str = "", **options: Any) -> Any:
        queues.update({queue} if queue.startswith(prefix) else ())
        return await declare_queue(self, queue, **options)

    async def exchange_declare(self: aiormq.Channel, exchange: str = "", **options: Any) -> Any:
        exchanges.update({exchange} if exchange.startswith(prefix) else ())
        return await declare_exchange(self, exchange, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiormq.Channel, "queue_declare", queue_declare)
        patch.setattr(aiormq.Channel, "exchange_declare", exchange_declare)
        yield queues, exchanges


async def delete(url: str, queues: set[str], exchanges: set[str]) -> None:
    """Delete what may be there, over AMQP."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for queue in queues:
            await channel.queue_delete(queue)
        for exchange in exchanges:
            await channel.exchange_delete(exchange)

"""The private RabbitMQ server: what it survives, and that nothing of it survives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import aio_pika
import psutil
import pytest
from aio_pika.abc import AbstractConnection
from aiormq.abc import FieldTable

from amends.testing.rabbitmq import (
    PrivateRabbitMQ,
    RabbitMQError,
    RabbitMQMissing,
    TlsFiles,
    find_server,
)
from amends.testing.rabbitmq_files import free_ports
from tests.rabbitmq import declared_names, delete

QUORUM: FieldTable = {"x-queue-type": "quorum"}
PATIENCE_S = 10.0

#: A program that starts a server, says where it is, and waits to be killed.
OWNER = """
import signal
from amends.testing.rabbitmq import PrivateRabbitMQ
server = PrivateRabbitMQ()
server.start()
print(server.url, server.eval("os:getenv(\\"HOME\\")").strip('"'), flush=True)
signal.pause()
"""


def in_folder(folder: str) -> list[psutil.Process]:
    """The processes of a server, each of which has its folder as its home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == folder or folder in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue  # it has ended, or is none of ours
    return found


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait for the end of processes that are nobody's children (an orphan may stay a zombie)."""
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, f"{process} is still there"
                time.sleep(0.02)


async def put(connection: AbstractConnection, queue: str, body: bytes) -> None:
    """Publish a persistent message to a quorum queue, confirmed."""
    channel = await connection.channel()
    await channel.declare_queue(queue, durable=True, arguments=QUORUM)
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, queue)


async def taken(connection: AbstractConnection, queue: str) -> bytes:
    channel = await connection.channel()
    declared = await channel.declare_queue(queue, durable=True, arguments=QUORUM)
    message = await declared.get()
    assert message is not None
    await message.ack()
    return message.body


async def test_what_is_durable_outlives_a_kill(
    private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str
) -> None:
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        await put(connection, rabbit_prefix, b"money")
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        pid, process = private_rabbitmq.pid, psutil.Process(private_rabbitmq.pid)
        assert process.name() == "beam.smp"
        private_rabbitmq.kill()
        assert not psutil.pid_exists(pid)
        await closed.wait()
    with pytest.raises(RabbitMQError, match="does not run"):
        private_rabbitmq.eval("node()")
    with pytest.raises(aio_pika.exceptions.AMQPConnectionError):
        await aio_pika.connect(private_rabbitmq.url)

    private_rabbitmq.start()
    assert private_rabbitmq.pid != pid
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        assert await taken(connection, rabbit_prefix) == b"money"


async def test_connections_are_closed_for_its_clients(private_rabbitmq: PrivateRabbitMQ) -> None:
    reasons: asyncio.Queue[BaseException | None] = asyncio.Queue()
    connection = await aio_pika.connect(private_rabbitmq.url)
    connection.close_callbacks.add(lambda _, reason: reasons.put_nowait(reason))
    private_rabbitmq.close_all_connections()
    assert "CONNECTION_FORCED" in str(await reasons.get())


async def test_an_alarm_holds_publishers_until_it_is_over(
    private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str
) -> None:
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        private_rabbitmq.set_memory_alarm()
        publishing = asyncio.create_task(put(connection, rabbit_prefix, b"late"))
        done, _ = await asyncio.wait([publishing], timeout=0.3)
        assert not done
        private_rabbitmq.clear_memory_alarm()
        await publishing
        assert await taken(connection, rabbit_prefix) == b"late"


async def test_nobody_answers_while_it_is_paused(
    private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str
) -> None:
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        private_rabbitmq.pause()
        publishing = asyncio.create_task(put(connection, rabbit_prefix, b"later"))
        done, _ = await asyncio.wait([publishing], timeout=0.3)
        assert not done
        with pytest.raises(RabbitMQError, match=r"did not evaluate 'node\(\)' within 0.1 s"):
            private_rabbitmq.eval("node()", timeout=0.1)
        private_rabbitmq.resume()
        await publishing


async def test_the_application_stops_and_starts_within_its_process(
    private_rabbitmq: PrivateRabbitMQ,
) -> None:
    pid = private_rabbitmq.pid
    private_rabbitmq.stop_app()
    with pytest.raises(aio_pika.exceptions.AMQPConnectionError):
        await aio_pika.connect(private_rabbitmq.url)
    private_rabbitmq.start_app()
    await (await aio_pika.connect(private_rabbitmq.url)).close()
    assert private_rabbitmq.pid == pid


def test_it_answers_questions(private_rabbitmq: PrivateRabbitMQ) -> None:
    assert private_rabbitmq.eval("X = 6, X * 7") == "42"
    assert private_rabbitmq.eval("X = 7, X * 7") == "49"
    with pytest.raises(RabbitMQError, match=r"raised from 'exit\(no\)': exit {no,"):
        private_rabbitmq.eval("exit(no)")
    assert private_rabbitmq.ctl("eval", "6 * 7.").strip() == "42"
    with pytest.raises(RabbitMQError, match="no_such_command"):
        private_rabbitmq.ctl("no_such_command")
    assert 0 < private_rabbitmq.cpu_seconds() < 60


async def test_what_has_a_prefix_is_deleted(
    rabbitmq: str, private_rabbitmq: PrivateRabbitMQ
) -> None:
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        channel = await connection.channel()
        for name in ("ours.a", "ours.b", "theirs"):
            await channel.declare_queue(name, durable=True, arguments=QUORUM)
            await channel.declare_exchange(name, durable=True)
    private_rabbitmq.delete("ours.")
    names = "lists:sort([element(4, Name) || Name <- {}])"
    queues = names.format("lists:map(fun amqqueue:get_name/1, rabbit_amqqueue:list())")
    assert private_rabbitmq.eval(queues) == '[<<"theirs">>]'
    assert "ours" not in private_rabbitmq.ctl("list_exchanges", "name")
    private_rabbitmq.delete("theirs")
    assert private_rabbitmq.eval(queues) == "[]"


async def test_tls_is_spoken_to_who_trusts_it(
    private_rabbitmq: PrivateRabbitMQ, rabbit_tls: TlsFiles, rabbit_prefix: str
) -> None:
    trusting = ssl.create_default_context(cafile=str(rabbit_tls.ca))
    async with await aio_pika.connect(private_rabbitmq.tls_url, ssl_context=trusting) as connection:
        await put(connection, rabbit_prefix, b"secret")
        assert await taken(connection, rabbit_prefix) == b"secret"
    with pytest.raises(aio_pika.exceptions.AMQPConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await aio_pika.connect(private_rabbitmq.tls_url)


def test_two_share_nothing_and_none_survives_its_owner(
    private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str
) -> None:
    async def put_and_take(url: str, body: bytes) -> None:
        async with await aio_pika.connect(url) as connection:
            await put(connection, rabbit_prefix, body)
            assert await taken(connection, rabbit_prefix) == body

    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        url, folder = owner.stdout.readline().split()
        asyncio.run(put_and_take(private_rabbitmq.url, b"1"))
        asyncio.run(put_and_take(url, b"2"))
        processes = in_folder(folder)
        names = [process.name() for process in processes]
        assert {"beam.smp", "epmd"} <= set(names)
        processes[names.index("beam.smp")].suspend()  # it notices nothing by itself
        assert Path(folder).is_dir()
        owner.kill()
    wait_until_gone(processes)
    assert not Path(folder).exists()  # its guard was one of them
    assert private_rabbitmq.running


def fake_server(folder: Path, script: str) -> Path:
    """A folder like that of a RabbitMQ, but for its program."""
    (folder / "plugins").mkdir(parents=True)
    program = folder / "sbin/rabbitmq-server"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(
    rabbitmq_process: PrivateRabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_server(tmp_path / "installed", "echo no such luck; exit 3")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("AMENDS_RABBITMQ_SERVER", str(program))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    server = PrivateRabbitMQ()
    with pytest.raises(RabbitMQError, match=r"(?s)ended while it started.*no such luck"):
        server.start()
    assert not server.running
    assert list(temporary.iterdir()) == []


def test_a_server_that_does_not_answer_is_given_up(
    rabbitmq_process: PrivateRabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_server(tmp_path / "installed", "echo waiting; exec sleep 1000")
    monkeypatch.setenv("AMENDS_RABBITMQ_SERVER", str(program))
    monkeypatch.setattr("amends.testing.rabbitmq.START_TIMEOUT_S", 0.1)
    with (
        pytest.raises(RabbitMQError, match=r"(?s)did not answer within.*waiting"),
        PrivateRabbitMQ(),
    ):
        pytest.fail("nothing was started")


def test_a_server_that_died_by_itself_is_started_again(private_rabbitmq: PrivateRabbitMQ) -> None:
    process = psutil.Process(private_rabbitmq.pid)
    os.kill(process.pid, signal.SIGKILL)
    while private_rabbitmq.running:
        time.sleep(0.01)
    private_rabbitmq.start()
    assert private_rabbitmq.eval("rabbit:is_running()") == "true"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENDS_RABBITMQ_SERVER", "/nowhere/rabbitmq-server")
    with pytest.raises(RabbitMQMissing, match="Install the package rabbitmq-server"):
        find_server()


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


async def test_what_a_test_declared_on_a_named_server_is_deleted(
    private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str
) -> None:
    with declared_names(rabbit_prefix) as (queues, exchanges):
        async with await aio_pika.connect(private_rabbitmq.url) as connection:
            channel = await connection.channel()
            await channel.declare_queue(f"{rabbit_prefix}.queue", durable=True, arguments=QUORUM)
            await channel.declare_exchange(f"{rabbit_prefix}.exchange", durable=True)
            await channel.declare_queue(exclusive=True)
    assert (queues, exchanges) == ({f"{rabbit_prefix}.queue"}, {f"{rabbit_prefix}.exchange"})
    await delete(private_rabbitmq.url, queues, exchanges)
    listed = private_rabbitmq.eval("{rabbit_amqqueue:list(), rabbit_exchange:list()}")
    assert rabbit_prefix not in listed

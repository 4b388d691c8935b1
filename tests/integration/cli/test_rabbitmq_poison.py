"""Messages that nobody can handle, put into RabbitMQ by somebody else while the engine runs: each
is put aside with a reason, everything else goes on, and people decide from the command line.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika import Message

from amends import Client
from amends.broker.port import DeadLetter
from amends.domain.clock import SystemClock
from amends.domain.messages import MESSAGE_BYTES_MAX
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import Amends

INBOX, COMMANDS = "inbox.0", "commands.ledger"
OURS: dict[str, Any] = {"key": "transfer/p", "correlation": "transfer/p", "causation": "test"}
STEP = {"saga": "transfer", "id": "p", "seq": 1, "attempt": 1, "activity": "withdraw"}
BIG = {"saga": "sleepy", "id": "s", "name": "hello"}
SIGNAL = {"saga": "transfer", "id": "p", "name": "hello"}


def ours(type: str, body: Any, **more: Any) -> Message:
    """A message that looks like one of ours."""
    properties = {"headers": OURS, "message_id": str(uuid4()), "app_id": "amends", **more}
    return Message(json.dumps(body).encode(), type=type, **properties)


#: What is put where, and with which reason and detail it is put aside.
POISON: dict[str, tuple[str, Message, str, str]] = {
    "not JSON": (
        INBOX, Message(b"\x00\xff", app_id="amends", type="StartSaga", message_id=str(uuid4()),
                       headers=OURS),
        "unreadable", "json_invalid"),
    "nobody's": (
        COMMANDS, Message(b"<order/>", type="OrderPlaced", headers={"shop": "17", "n": 1}),
        "unreadable", "no message is of type 'foreign OrderPlaced'"),
    "an unknown type": (
        INBOX, ours("Rewind", STEP), "unreadable", "no message is of type 'Rewind'"),
    "a newer schema": (
        COMMANDS, ours("RunStep", {**STEP, "priority": 3}), "unreadable",
        "priority: extra_forbidden"),
    "a field of another type": (
        COMMANDS, ours("RunStep", {**STEP, "seq": "one"}), "unreadable", "seq: int_parsing"),
    "an unknown activity": (
        COMMANDS, ours("RunStep", {**STEP, "activity": "launch"}), "unknown activity",
        "'launch' is not registered"),
    "no command": (COMMANDS, ours("DeliverSignal", {**SIGNAL, "payload": 1}), "unreadable", "is no command"),
    "no input": (INBOX, ours("RunStep", {**STEP, "seq": 2}), "no such instance", "transfer/p was never started"),
    "a broken parcel": (
        INBOX, Message(b'[["a"]]\nrest', app_id="amends", type="Parcel"), "unreadable",
        "'foreign Parcel'"),
    "of no instance": (
        INBOX, ours("DeliverSignal", SIGNAL), "no such instance", "transfer/p was never started"),
    "too large": (
        INBOX, ours("DeliverSignal", {**BIG, "payload": "x" * MESSAGE_BYTES_MAX}),
        "refused", "bytes is over the limit"),
}  # fmt: skip


@pytest.fixture
def shared(
    rabbitmq: str, rabbit_prefix: str, amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> Amends:
    """The command line, with a broker of the test's own, and an empty store."""
    monkeypatch.setenv("AMENDS_BROKER", rabbitmq)
    monkeypatch.setenv("AMENDS_BROKER_PREFIX", rabbit_prefix)
    monkeypatch.setenv("AMENDS_PARTITIONS", "1")
    return amends


async def as_many(client: Client, count: int) -> list[DeadLetter]:
    """The dead letters, once there are so many."""
    while len(letters := await client.backend.broker.dead_letters()) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return letters


@pytest.fixture
def poisoned(shared: Amends, rabbitmq: str, rabbit_prefix: str) -> dict[str, dict[str, Any]]:
    """All of it, put into the queues while an engine works: the letters by what they were."""
    ids: dict[str, str] = {}

    async def work(client: Client) -> None:
        await client.start(transfer_app.sleepy, 30, id="s")
        async with await aio_pika.connect(rabbitmq) as connection:
            channel = await connection.channel()
            for name, (queue, message, _, _) in POISON.items():
                await channel.default_exchange.publish(message, f"{rabbit_prefix}.{queue}")
                ids[name] = str(message.message_id)
        order = transfer_app.Transfer(payer="anna", payee="bert", amount=5)
        handle = await client.start(transfer_app.transfer, order, id="good")
        assert await handle.result(timeout=20) == "paid to bert"
        letters = await as_many(client, len(POISON))
        by_body = {letter.message.body: str(letter.message.id) for letter in letters}
        for name, (_, message, _, _) in POISON.items():
            ids[name] = by_body[message.body]

    shared.engine(work)
    letters = {letter["id"]: letter for letter in shared.ok("dead", "list", "--json").json}
    assert len(letters) == len(POISON)
    return {name: letters[id] for name, id in ids.items()}


def test_each_is_put_aside_with_its_reason_and_people_decide(
    shared: Amends, poisoned: dict[str, dict[str, Any]]
) -> None:
    for name, (queue, _, reason, detail) in POISON.items():
        letter = poisoned[name]
        assert (letter["queue"], letter["reason"]) == (queue, reason), name
        assert detail in letter["detail"], name
        assert letter["deliveries"] == 1, name
    # One by one, and by filter.
    foreign = poisoned["nobody's"]
    shown = shared.ok("dead", "show", foreign["id"][:8]).out
    assert "foreign OrderPlaced" in shown
    assert "<order/>" in shown
    listed = shared.ok("dead", "list", "--queue", COMMANDS, "--reason", "unreadable", "--json").json
    names = {"nobody's", "a newer schema", "a field of another type", "no command"}
    assert {letter["id"] for letter in listed} == {poisoned[name]["id"] for name in names}
    assert shared.ok("dead", "discard", foreign["id"], "--yes", "--json").json == [{"discarded": 1}]
    ran = shared.ok("dead", "redrive", "--reason", "no such instance", "--json")
    back = [n for n, (_, _, reason, _) in POISON.items() if reason == "no such instance"]
    assert ran.json == [{"redriven": len(back)}]
    left = len(POISON) - 1 - len(back)
    assert len(shared.ok("dead", "list", "--json").json) == left

    async def again(client: Client) -> None:
        """Now there is such an instance."""
        await as_many(client, left + len(back))

    shared.engine(again)
    once_more = {letter["id"]: letter for letter in shared.ok("dead", "list", "--json").json}
    for name in back:
        letter = once_more[poisoned[name]["id"]]
        assert {**letter, "died_at": None} == {**poisoned[name], "died_at": None, "deliveries": 2}
    ran = shared.ok("dead", "discard", "--all", "--yes", "--json")
    assert ran.json == [{"discarded": left + len(back)}]
    assert "no dead letters" in shared.ok("dead", "list").err


def test_a_signal_that_came_too_early_is_heard_when_it_is_redriven(
    shared: Amends, rabbitmq: str, rabbit_prefix: str
) -> None:
    """The whole way: put aside, the reason for that removed, redriven, and acted upon."""
    approval = {"saga": "approve", "id": "a", "name": "approved", "payload": {"by": "cleo"}}

    async def early(client: Client) -> None:
        async with await aio_pika.connect(rabbitmq) as connection:
            channel = await connection.channel()
            await channel.default_exchange.publish(
                ours("DeliverSignal", approval), f"{rabbit_prefix}.{INBOX}"
            )
        await as_many(client, 1)

    shared.engine(early)

    async def then(client: Client) -> None:
        await client.start(transfer_app.approve, id="a")

    shared.engine(then)
    assert shared.ok("dead", "redrive", "--all", "--json").json == [{"redriven": 1}]
    shared.settle("approve/a")
    assert shared.state("approve/a") == "completed"


def test_what_is_delayed_for_decades_is_accepted(
    shared: Amends, rabbitmq: str, rabbit_prefix: str
) -> None:
    """Through the whole engine: a timer of twenty years, at the level of the longest delays."""
    shared.start(transfer_app.sleepy, 365 * 20, "s")
    [delayed] = [d for d in shared.ok("status", "--json").json[0]["queues"] if d["delayed"]]
    assert delayed["delayed"] == 1

    async def at_its_level() -> dict[str, Any]:
        async with await aio_pika.connect(rabbitmq) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(f"{rabbit_prefix}.delay.30", ensure=False)
            message = await queue.get()
            return dict(message.headers)

    due = str(asyncio.run(at_its_level())["due"])
    wanted = SystemClock().now() + timedelta(days=365 * 20)
    assert due[:4] in (f"{wanted.year}", f"{wanted.year - 1}", f"{wanted.year + 1}")
    assert shared.state("sleepy/s") == "running"

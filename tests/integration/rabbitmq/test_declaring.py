"""What is declared stays as it is; whoever needs it otherwise is told what differs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pamqp.common import FieldTable

from amends.broker.rabbitmq import topology
from amends.broker.rabbitmq.delays import LEVELS
from amends.domain.clock import SystemClock
from amends.errors import BrokerRefused, UsageError
from amends.testing.contracts.data import new_message
from tests.integration.rabbitmq.site import Plain, Site, take

COMMANDS = "commands.ledger"
INBOX = "inbox.0"


def kinds(findings: list[topology.Finding]) -> dict[str, int]:
    """How many were made, were there, and differ."""
    told = {"made": 0, "there": 0, "differ": 0}
    for finding in findings:
        told["differ" if finding.differs else "made" if finding.made else "there"] += 1
    return told


async def test_setting_up_makes_all_once(site: Site) -> None:
    broker = await site.open_undeclared()
    queues = [INBOX, "inbox.1", COMMANDS]
    first = await broker.set_up(queues)
    names = {finding.name.removeprefix(f"{site.prefix}.") for finding in first}
    levels = {f"delay.{level:02}" for level in range(LEVELS)}
    own = {site.prefix, "members", "delivery", "dead", "partitions"}
    assert names == {*queues, *levels, *own}
    assert kinds(first) == {"made": len(first), "there": 0, "differ": 0}
    assert len([f for f in first if f.kind == "queue"]) == len(queues) + LEVELS + 1
    again = await broker.set_up(queues)
    assert [finding.name for finding in again] == [finding.name for finding in first]
    assert kinds(again) == {"made": 0, "there": len(first), "differ": 0}
    await broker.declare(queues)  # as an engine does later
    await asyncio.gather(*(broker.declare(queues) for _ in range(5)))


async def test_setting_up_says_what_differs_and_makes_the_rest(site: Site, plain: Plain) -> None:
    theirs: FieldTable = {"x-queue-type": "quorum", "x-delivery-limit": 7}
    await plain.wire.queue_declare(f"{site.prefix}.{COMMANDS}", durable=True, arguments=theirs)
    await plain.wire.exchange_declare(
        f"{site.prefix}.delivery", exchange_type="fanout", durable=True
    )
    broker = await site.open_undeclared()
    findings = await broker.set_up([INBOX, COMMANDS])
    differing = {finding.name: finding.differs for finding in findings if finding.differs}
    assert sorted(differing) == [f"{site.prefix}.{COMMANDS}", f"{site.prefix}.delivery"]
    assert "inequivalent arg 'type'" in str(differing[f"{site.prefix}.delivery"])
    assert "current is 'fanout'" in str(differing[f"{site.prefix}.delivery"])
    assert kinds(findings)["made"] == len(findings) - 2
    assert await plain.count(INBOX) == 0


@pytest.mark.parametrize(
    ("queue", "theirs", "told"),
    [
        (COMMANDS, {"x-delivery-limit": 7}, "'x-delivery-limit'.*received.*'100' but current is '7'"),
        (COMMANDS, {"x-overflow": "drop-head"}, "'x-overflow'.*current is.*'drop-head'"),
        (COMMANDS, {"x-message-ttl": 1000}, "'x-message-ttl'.*current is.*1000"),
        (INBOX, {"x-single-active-consumer": False}, "'x-single-active-consumer'.*'false'"),
        (INBOX, {"x-dead-letter-exchange": "amq.fanout"}, "'x-dead-letter-exchange'.*'amq.fanout'"),
    ],
)  # fmt: skip
async def test_a_queue_that_is_otherwise_is_left_alone(
    site: Site, plain: Plain, queue: str, theirs: dict[str, Any], told: str
) -> None:
    [ours] = [
        part
        for part in topology.parts_of((await site.open_undeclared())._names, queue)
        if isinstance(part, topology.Queue)
    ]
    arguments = {**ours.arguments, **theirs}
    await plain.wire.queue_declare(ours.name, durable=True, arguments=arguments)
    await plain.publish(queue, b"theirs")
    broker = site.make()
    with pytest.raises(BrokerRefused, match=told) as refused:
        await broker.declare([queue])
    assert f"queue {ours.name} exists already" in str(refused.value)
    assert "amends broker setup" in str(refused.value)
    assert await plain.count(queue) == 1


async def test_a_deployment_has_one_number_of_partitions(site: Site) -> None:
    await site.open(INBOX, partitions=4)
    other = site.make(partitions=5)
    with pytest.raises(
        BrokerRefused, match=r"AMENDS_PARTITIONS=5, but.*current is '.*partitions\.4'"
    ):
        await other.declare([INBOX])
    findings = {finding.name: finding.differs for finding in await other.set_up([])}
    assert ".partitions.4'" in str(findings[f"{site.prefix}.partitions"])
    await site.open(INBOX, partitions=4)


async def test_a_deployment_of_another_prefix_is_another(site: Site) -> None:
    broker = await site.open(COMMANDS, partitions=4)
    neighbours = Site(site.url, f"{site.prefix}-next")
    neighbour = await neighbours.open(COMMANDS, partitions=5)
    here, there = new_message(COMMANDS, "here"), new_message(COMMANDS, "there")
    await broker.publish([here])
    await neighbour.publish([there])
    assert [d.message for d in await take(broker, COMMANDS, 1)] == [here]
    assert [d.message for d in await take(neighbour, COMMANDS, 1)] == [there]
    await neighbours.close()


@pytest.mark.parametrize("queue", ["commands.ä", "commands.a b", "commands." + "q" * 250, "dead"])
async def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(
    site: Site, queue: str
) -> None:
    broker = await site.open(COMMANDS)
    with pytest.raises(UsageError, match="Nothing was declared"):
        await broker.declare([queue])
    with pytest.raises(UsageError):
        await broker.publish([new_message(COMMANDS), new_message(queue)])
    assert await broker.depths() == [] or (await broker.depths())[0].ready == 0


# --- delays


async def test_a_long_delay_is_at_its_level(site: Site, plain: Plain) -> None:
    """Level n holds what has 2^n eighths of a second to wait still, and less than twice that."""
    broker = await site.open(COMMANDS)
    now = SystemClock().now()
    years = {20: 30, 8: 30, 1: 27, 1 / 365: 19}
    messages = [new_message(COMMANDS, due=now + timedelta(days=365 * year)) for year in years]
    await broker.publish(messages)
    counts = {level: await plain.count(f"delay.{level:02}") for level in range(LEVELS)}
    assert {level: n for level, n in counts.items() if n} == {30: 2, 27: 1, 19: 1}
    assert [(d.queue, d.delayed) for d in await broker.depths()] == [
        (COMMANDS, 0), ("(delayed)", 4),
    ]  # fmt: skip
    held = await plain.wire.basic_get(f"{site.prefix}.delay.30")
    headers = held.header.properties.headers or {}
    assert headers["due"] == (now + timedelta(days=365 * 20)).isoformat()
    assert (held.routing_key or "").endswith(f".{COMMANDS}")

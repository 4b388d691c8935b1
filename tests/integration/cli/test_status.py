"""`amends status` and `amends broker setup` on a broker that tells of processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from amends.broker.port import Process, QueueDepth
from amends.broker.rabbitmq.topology import Finding
from amends.errors import BrokerUnavailable
from tests.integration.apart import ADDRESS, BrokerApart, apart
from tests.integration.cli.conftest import APP, Amends

__all__ = ["apart"]

INBOXES = [f"inbox.{number}" for number in range(8)]
ONE, OTHER = "server-one.example:17", "server-two.example:4711"


@pytest.fixture
def shared(amends: Amends, apart: BrokerApart, monkeypatch: pytest.MonkeyPatch) -> Amends:
    """The command line on a store in which a saga ran, with a broker that is shared since."""
    amends.transfer("t")
    monkeypatch.setenv("AMENDS_BROKER", ADDRESS)
    return amends


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def depth(
    queue: str, *, consumers: int = 1, owner: str | None = None, ready: int = 0
) -> QueueDepth:
    return QueueDepth(queue, ready, 0, 0, ago(150) if ready else None, consumers, owner)


def process(name: str, *queues: str, blocked: datetime | None = None) -> Process:
    owns = tuple(queue for queue in queues if queue.startswith("inbox."))
    return Process(name, queues, owns, 12, blocked, 1000, 2000, 0)


def in_order(apart: BrokerApart) -> None:
    """Two processes that see to everything."""
    apart.depths = [
        depth("commands.ledger", consumers=2, ready=1234),
        *(depth(name, owner=ONE if name < "inbox.3" else OTHER) for name in INBOXES),
    ]
    apart.processes = [
        process(ONE, "commands.ledger", *INBOXES[:3]),
        process(OTHER, "commands.ledger", *reversed(INBOXES[3:])),
    ]


def test_it_shows_who_is_at_work(shared: Amends, apart: BrokerApart) -> None:
    in_order(apart)
    ran = shared.ok("status")
    assert max(map(len, ran.out.splitlines())) <= 80
    words = [line.split() for line in ran.out.splitlines()]
    assert ["broker", "amqp://***@host"] in words
    assert ["commands.ledger", "1,234", "0", "0", "2", "min", "2"] in words
    assert ["inbox.0", "0", "0", "0", "1", ONE] in words
    assert [ONE, "ledger", "0,", "1,", "2", "12"] in words
    assert [OTHER, "ledger", "3,", "4,", "5,", "6,", "7", "12"] in words
    assert ran.err == ""


def test_it_asks_for_the_queues_of_an_application_that_is_named(
    shared: Amends, apart: BrokerApart
) -> None:
    in_order(apart)
    shared.ok("status")
    assert apart.asked == INBOXES
    shared.ok("status", APP)
    assert apart.asked == [*INBOXES, "commands.ledger"]


def test_programs_are_told_too(shared: Amends, apart: BrokerApart) -> None:
    in_order(apart)
    [status] = shared.ok("status", "--json").json
    assert status["broker"] == "amqp://***@host"
    assert status["instances"] == 1
    assert {queue["owner"] for queue in status["queues"]} == {None, ONE, OTHER}
    assert [each["name"] for each in status["processes"]] == [ONE, OTHER]
    assert status["processes"][0]["owns"] == INBOXES[:3]
    assert status["processes"][0]["blocked_since"] is None


def test_a_process_that_the_broker_blocks_is_pointed_out(
    shared: Amends, apart: BrokerApart
) -> None:
    in_order(apart)
    apart.processes[1] = apart.processes[1]._replace(blocked_since=ago(150))
    ran = shared.ok("status")
    assert "for 2 min" in ran.out
    assert f"taken nothing from {OTHER} for 2 min" in ran.err
    assert "rabbitmq-diagnostics alarms" in ran.err
    [status] = shared.ok("status", "--json").json
    assert status["processes"][1]["blocked_since"] is not None


def test_what_nobody_sees_to_is_pointed_out(shared: Amends, apart: BrokerApart) -> None:
    apart.depths = [
        depth("commands.ledger", consumers=0),
        depth("inbox.0", owner=ONE),
        depth("inbox.1", consumers=0),
        depth("inbox.2"),  # served by one who did not answer
        depth("inbox.3", consumers=0),
    ]
    ran = shared.ok("status")
    assert "nobody owns inbox.1, inbox.3: is an orchestrator running?" in ran.err
    assert "nobody consumes commands.ledger: amends worker APP --queues ledger" in ran.err


def test_the_embedded_broker_has_nothing_of_this(amends: Amends) -> None:
    amends.transfer("t")
    ran = amends.ok("status", APP)
    assert "consumers" not in ran.out
    assert "broker" not in ran.out
    assert "nobody" not in ran.err
    [status] = amends.ok("status", "--json").json
    assert (status["broker"], status["processes"]) == ("embedded", [])


def test_what_only_reads_the_store_needs_no_broker(shared: Amends, apart: BrokerApart) -> None:
    apart.is_down = BrokerUnavailable("RabbitMQ at amqp://user@host:5672 cannot be used now")
    for verb in (
        ("list",),
        ("show", "transfer/t"),
        ("events",),
        ("replay", APP, "transfer/t"),
        ("purge", "--older-than", "30d", "--dry-run"),
    ):
        shared.ok(*verb)
    for verb in (("signal", "transfer/t", "x"), ("start", APP, "sleepy", "1"), ("dev", APP)):
        ran = shared(*verb)
        assert ran.code == 1
        assert "error: RabbitMQ at amqp://user@host:5672 cannot be used now" in ran.err


# --- amends broker setup

FOUND = [
    Finding("amends", "exchange", made=False),
    Finding("amends.inbox.0", "queue", made=True),
    Finding("amends.dead", "queue", made=False),
]
DIFFERS = Finding("amends.inbox.1", "queue", made=False, differs="inequivalent arg 'x-queue-type'")


def test_setup_says_what_was_there_and_what_was_made(shared: Amends, apart: BrokerApart) -> None:
    apart.findings = FOUND
    ran = shared.ok("broker", "setup")
    words = [line.split() for line in ran.out.splitlines()]
    assert ["exchange", "amends", "there"] in words
    assert ["queue", "amends.inbox.0", "made"] in words
    assert "1 made, 2 were there, 0 differ" in ran.err
    assert apart.set_up == INBOXES
    shared.ok("broker", "setup", APP)
    assert apart.set_up == [*INBOXES, "commands.ledger"]


def test_setup_fails_when_something_differs(shared: Amends, apart: BrokerApart) -> None:
    apart.findings = [*FOUND, DIFFERS]
    ran = shared("broker", "setup")
    assert ran.code == 1
    assert "different" in ran.out
    assert "inequivalent arg" in ran.out
    assert "1 made, 2 were there, 1 differ" in ran.err
    assert "error: 1 differ from what Amends needs" in ran.err
    told = shared("broker", "setup", "--json")
    assert told.code == 1
    assert told.json[3] == {
        "name": "amends.inbox.1", "kind": "queue", "made": False,
        "differs": "inequivalent arg 'x-queue-type'",
    }  # fmt: skip


def test_the_embedded_broker_needs_no_setup(amends: Amends) -> None:
    ran = amends("broker", "setup")
    assert ran.code == 2
    assert "there is nothing to set up" in ran.err

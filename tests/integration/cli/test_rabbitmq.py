"""Applications in several processes on RabbitMQ: real ones, which are really stopped and killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from amends.broker.topology import partition_of
from amends.domain.ids import InstanceId
from tests.integration.cli.conftest import APP, Amends, Process

ORDER = '{"payer":"anna","payee":"bert","amount":5}'
GATED = '{"payer":"gate","payee":"bert","amount":5}'


class Site:
    """The command line, and processes, with a store here and a broker of the test's own."""

    def __init__(self, amends: Amends, begin: Callable[..., Process], settings: dict[str, str]):
        self.amends = amends
        self._begin = begin
        self._settings = settings

    def process(self, *args: str, **more: str) -> Process:
        """A process that runs for longer, and has begun to."""
        process = self._begin(*args, **self._settings, **more)
        process.wait_for("Ctrl-C")
        return process

    def status(self, *args: str) -> dict[str, Any]:
        [status] = self.amends.ok("status", "--json", *args).json
        return status  # type: ignore[no-any-return]


@pytest.fixture
def site(
    rabbitmq: str,
    rabbit_prefix: str,
    amends: Amends,
    processes: Callable[..., Process],
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    settings = {
        "AMENDS_BROKER": rabbitmq,
        "AMENDS_BROKER_PREFIX": rabbit_prefix,
        "AMENDS_PARTITIONS": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return Site(amends, processes, settings)


def ended(site: Site, id: str) -> str:
    """How a transfer ended."""
    site.amends.settle_elsewhere(f"transfer/{id}")
    return site.amends.state(f"transfer/{id}")


def test_sagas_run_in_one_process_and_activities_in_another(site: Site) -> None:
    orchestrator = site.process("orchestrator", APP)
    worker = site.process("worker", APP, "--queues", "ledger")
    [told] = site.amends.ok("start", APP, "transfer", ORDER, "--wait", "--json").json
    assert told["state"] == "completed"
    status = site.status()
    assert {depth["queue"]: depth["consumers"] for depth in status["queues"]} == {
        "commands.ledger": 1, "inbox.0": 1, "inbox.1": 1,
    }  # fmt: skip
    pids = {process["name"].rpartition(":")[2]: process for process in status["processes"]}
    runs, works = pids[str(orchestrator.popen.pid)], pids[str(worker.popen.pid)]
    assert (works["queues"], works["owns"]) == (["commands.ledger"], [])
    assert (runs["queues"], runs["owns"]) == (["inbox.0", "inbox.1"], ["inbox.0", "inbox.1"])
    owners = {depth["owner"] for depth in status["queues"] if "inbox" in depth["queue"]}
    assert owners == {runs["name"]}
    for process in (worker, orchestrator):
        process.send(signal.SIGTERM)
        assert process.end().code == 0


def test_dev_runs_everything_in_one_process(site: Site) -> None:
    dev = site.process("dev", APP)
    [told] = site.amends.ok("start", APP, "transfer", ORDER, "--wait", "--json").json
    assert told["state"] == "completed"
    dev.send(signal.SIGINT)
    assert dev.end().code == 0


def test_a_worker_that_is_told_to_stop_finishes_what_runs(
    site: Site, gate: Callable[[], None]
) -> None:
    site.process("orchestrator", APP)
    worker = site.process("worker", APP)
    site.amends.ok("start", APP, "transfer", GATED, "--id", "g")
    worker.wait_for("withdrawing")
    worker.send(signal.SIGTERM)
    worker.wait_for("engine_stopping", where="err")
    gate()
    assert worker.end().code == 0
    another = site.process("worker", APP)
    assert ended(site, "g") == "completed"
    assert "withdrawing" not in another.out


def test_what_a_worker_does_not_finish_in_its_time_another_does(
    site: Site, gate: Callable[[], None]
) -> None:
    site.process("orchestrator", APP)
    worker = site.process("worker", APP, AMENDS_SHUTDOWN_GRACE_S="0.01")
    site.amends.ok("start", APP, "transfer", GATED, "--id", "g")
    worker.wait_for("withdrawing")
    another = site.process("worker", APP)
    worker.send(signal.SIGTERM)
    ran = worker.end()
    assert ran.code == 0
    assert "activities_handed_back" in ran.err
    another.wait_for("withdrawing")
    gate()
    assert ended(site, "g") == "completed"


def test_what_a_killed_worker_had_in_hand_another_takes(
    site: Site, gate: Callable[[], None]
) -> None:
    site.process("orchestrator", APP)
    worker = site.process("worker", APP)
    site.amends.ok("start", APP, "transfer", GATED, "--id", "g")
    worker.wait_for("withdrawing")
    another = site.process("worker", APP)
    worker.kill()
    another.wait_for("withdrawing")
    gate()
    assert ended(site, "g") == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_another_orchestrator_goes_on_where_one_ends(
    site: Site, gate: Callable[[], None], number: signal.Signals
) -> None:
    one = site.process("orchestrator", APP)
    worker = site.process("worker", APP)
    site.amends.ok("start", APP, "transfer", GATED, "--id", "g")
    worker.wait_for("withdrawing")
    other = site.process("orchestrator", APP)
    one.send(number)
    assert one.end().code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    gate()
    assert ended(site, "g") == "completed"
    for partition in range(2):
        site.amends.ok("start", APP, "transfer", ORDER, "--id", an_id(partition), "--wait")
    name = {process["name"] for process in site.status()["processes"] if process["owns"]}.pop()
    assert name.endswith(f":{other.popen.pid}")
    assert {inbox["owner"] for inbox in site.status()["queues"] if "inbox" in inbox["queue"]} == {
        name
    }


def an_id(partition: int) -> str:
    """The id of a transfer whose inputs go to one of two inboxes."""
    ids = (f"t{number}" for number in count())
    return next(id for id in ids if partition_of(InstanceId("transfer", id), 2) == partition)


def test_the_command_line_acts_through_it(site: Site) -> None:
    site.process("orchestrator", APP)
    site.amends.ok("start", APP, "approve", "--id", "a")
    site.amends.ok("signal", "approve/a", "approved", '{"by":"anna"}')
    site.amends.settle_elsewhere("approve/a")
    site.amends.ok("start", APP, "sleepy", "30", "--id", "s")
    site.amends.ok("cancel", "sleepy/s")
    site.amends.settle_elsewhere("sleepy/s")
    assert site.amends.state("sleepy/s") == "cancelled"
    # To whom nothing can be told any more, it is told after all.
    site.amends.ok("start", APP, "sleepy", "30", "--id", "t")
    site.amends.ok("terminate", "sleepy/t", "--yes")
    site.amends.settle_elsewhere("sleepy/t")
    assert site.amends.state("sleepy/t") == "terminated"


OTHERS = """
from amends import App, activity

@activity(queue="ledger")
async def another() -> None: ...

app = App(activities=[another])
"""


def test_what_nobody_can_handle_is_put_aside_and_brought_back(site: Site) -> None:
    Path("others.py").write_text(OTHERS)
    site.process("orchestrator", APP)
    others = site.process("worker", "others")
    site.amends.ok("start", APP, "transfer", ORDER, "--id", "t")
    others.wait_for("dead_letter", where="err")
    others.send(signal.SIGTERM)
    assert others.end().code == 0
    [letter] = site.amends.ok("dead", "list", "--json").json
    assert letter["queue"] == "commands.ledger"
    assert letter["reason"] == "unknown activity"
    assert "'withdraw' is not registered" in site.amends.ok("dead", "show", letter["id"]).out
    assert "amends dead list" in site.amends.ok("status").err
    assert site.amends.ok("dead", "redrive", letter["id"], "--json").json == [{"redriven": 1}]
    site.process("worker", APP)
    assert ended(site, "t") == "completed"
    assert site.amends.ok("dead", "list", "--json").json == []


def test_reconcile_brings_back_what_the_journals_wait_for(site: Site) -> None:
    orchestrator = site.process("orchestrator", APP)
    site.amends.ok("start", APP, "transfer", ORDER, "--id", "t")
    orchestrator.send(signal.SIGTERM)
    assert orchestrator.end().code == 0
    [done] = site.amends.ok("reconcile", "--json").json
    assert (done["instances"], done["waiting"], done["messages"]) == (1, 1, 1)
    depths = {depth["queue"]: depth for depth in site.status(APP)["queues"]}
    assert depths["commands.ledger"]["ready"] == 2  # a copy, which does no harm
    site.process("dev", APP)
    assert ended(site, "t") == "completed"
    types = [event["type"] for event in site.amends.ok("show", "transfer/t", "--json").json]
    assert types.count("StepCompleted") == 2


def test_what_waits_for_a_worker_is_seen_by_the_name_of_its_application(site: Site) -> None:
    orchestrator = site.process("orchestrator", APP)
    site.amends.ok("start", APP, "transfer", ORDER, "--id", "t")
    orchestrator.send(signal.SIGTERM)
    assert orchestrator.end().code == 0
    assert not any("commands" in depth["queue"] for depth in site.status()["queues"])
    depths = {depth["queue"]: depth for depth in site.status(APP)["queues"]}
    assert depths["commands.ledger"]["ready"] == 1
    assert depths["commands.ledger"]["consumers"] == 0
    hints = site.amends.ok("status", APP).err
    assert "nobody owns inbox.0, inbox.1" in hints
    assert "amends worker APP --queues ledger" in hints


def test_setup_is_repeatable_and_tells_what_differs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.amends.ok("broker", "setup", APP, "--json").json
    assert all(finding["made"] for finding in first)
    names = {finding["name"].partition(".")[2] for finding in first}
    assert {"inbox.0", "inbox.1", "commands.ledger", "dead"} <= names
    again = site.amends.ok("broker", "setup", APP, "--json").json
    assert [finding["name"] for finding in again] == [finding["name"] for finding in first]
    assert not any(finding["made"] or finding["differs"] for finding in again)
    monkeypatch.setenv("AMENDS_PARTITIONS", "3")
    ran = site.amends("broker", "setup", APP, "--json")
    assert ran.code == 1
    assert [finding["made"] for finding in ran.json if finding["differs"]] == [False]
    assert "error: 1 differ from what Amends needs" in ran.err
    told = site.amends("start", APP, "transfer", ORDER)
    assert told.code == 1
    assert "AMENDS_PARTITIONS=3" in told.err
    assert not Path("amends.db").exists() or site.amends.ok("list", "--json").json == []


def test_a_server_that_is_not_there_is_told_and_reading_goes_on(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    amends.transfer("t")
    monkeypatch.setenv("AMENDS_BROKER", "amqp://me:hunter2@127.0.0.1:1/")
    ran = amends("start", APP, "transfer", ORDER)
    assert ran.code == 1
    assert "127.0.0.1:1" in ran.err
    assert "hunter2" not in ran.err
    assert amends.state("transfer/t") == "completed"
    assert json.loads(amends.ok("show", "transfer/t", "--json").out.splitlines()[0])
    assert amends("replay", APP, str(InstanceId("transfer", "t"))).code == 0

"""`amends orchestrator` and `amends worker`: what they say, and where they refuse to begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from amends.errors import StoreCorrupt
from amends.worker import Engine
from tests.integration.apart import ADDRESS, BrokerApart, apart
from tests.integration.cli.conftest import APP, Amends, Ran

__all__ = ["apart"]

PARTS = ["orchestrator", "worker"]


@pytest.fixture
def shared(amends: Amends, apart: BrokerApart, monkeypatch: pytest.MonkeyPatch) -> Amends:
    """The command line with a broker that processes share; engines fail as soon as they run."""

    async def failed(self: Engine) -> None:
        raise StoreCorrupt("the end of this test")

    monkeypatch.setattr(Engine, "failed", failed)
    monkeypatch.setenv("AMENDS_BROKER", ADDRESS)
    return amends


def facts(ran: Ran) -> dict[str, str]:
    """The banner's lines by their labels."""
    assert ran.code == 1
    assert ran.err.endswith("error: the end of this test\n")
    lines = [line.split(maxsplit=1) for line in ran.out.splitlines()]
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def test_an_orchestrator_runs_sagas_and_no_activities(shared: Amends) -> None:
    said = facts(shared("orchestrator", APP))
    assert said["amends"] == f"orchestrates {APP}"
    assert said["broker"] == "amqp://***@host"
    assert said["sagas"] == "approve, buggy, sleepy, transfer"
    assert said["inboxes"] == "its share of 8"
    assert said["activities"] == said["queues"] == "none"
    assert said["journals"] == "kept for ever"


def test_a_worker_runs_activities_and_no_sagas(shared: Amends) -> None:
    said = facts(shared("worker", APP, "--queues", " ledger,, ledger "))
    assert said["amends"] == f"works for {APP}"
    assert said["broker"] == "amqp://***@host"
    assert said["activities"] == "deposit, refund, withdraw"
    assert said["queues"] == "ledger (at most 100 at once)"
    assert said.keys().isdisjoint({"sagas", "inboxes", "journals"})


def test_dev_runs_everything_also_on_a_broker_that_is_shared(shared: Amends) -> None:
    said = facts(shared("dev", APP))
    assert said["amends"] == f"runs {APP}"
    assert said["sagas"] == "approve, buggy, sleepy, transfer"
    assert said["queues"] == "ledger (at most 100 at once)"
    assert said["inboxes"] == "its share of 8"


def test_programs_are_told_the_same(shared: Amends) -> None:
    [worker] = shared("worker", APP, "--json").json
    [orchestrator] = shared("orchestrator", APP, "--json").json
    assert worker["broker"] == "amqp://***@host"
    assert (worker["orchestrates"], orchestrator["orchestrates"]) == (False, True)
    assert (worker["queues"], orchestrator["queues"]) == ({"ledger": 100}, {})
    assert (worker["sagas"], orchestrator["activities"]) == ([], [])


@pytest.mark.parametrize("part", PARTS)
def test_on_the_embedded_broker_there_is_one_engine(amends: Amends, part: str) -> None:
    ran = amends(part, APP)
    assert ran.code == 2
    assert "one engine" in ran.err
    assert "`amends dev APP`" in ran.err
    assert list(Path().iterdir()) == []


def test_a_queue_that_there_is_not_is_named_with_those_there_are(
    shared: Amends, apart: BrokerApart
) -> None:
    ran = shared("worker", APP, "--queues", "ledger,mail")
    assert ran.code == 2
    assert "no activity has the queue 'mail'; there are: ledger" in ran.err
    assert apart.opened == []


def test_a_worker_without_a_queue_has_no_work(shared: Amends, apart: BrokerApart) -> None:
    Path("idle.py").write_text("from amends import App\napp = App()\n")
    for ran in (shared("worker", APP, "--queues", ","), shared("worker", "idle")):
        assert ran.code == 2
        assert "there is no activity queue to consume" in ran.err
    assert apart.opened == []

"""`amends dev`: an engine in a real process, which is really stopped and really killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from amends.errors import StoreCorrupt
from amends.worker import Engine
from tests.integration.cli.conftest import APP, Amends, Process

Begin = Callable[..., Process]
ORDER = '{"payer":"anna","payee":"bert","amount":5}'
GATED = '{"payer":"gate","payee":"bert","amount":5}'


def test_it_says_where_it_runs_and_what_it_has(processes: Begin) -> None:
    dev = processes("dev", APP, "--db", "here.db")
    dev.wait_for("Ctrl-C")
    for fact in (APP, "sqlite:///here.db", "transfer", "withdraw", "ledger (at most 100 at once)"):
        assert fact in dev.out


def test_with_json_it_says_so_in_one_line_and_logs_json_to_stderr(processes: Begin) -> None:
    dev = processes("dev", APP, "--json")
    dev.wait_for("\n")
    ready = json.loads(dev.out)
    assert ready["pid"] == dev.popen.pid
    assert ready["sagas"] == ["approve", "buggy", "sleepy", "transfer"]
    assert ready["queues"] == {"ledger": 100}
    dev.send(signal.SIGTERM)
    ran = dev.end()
    assert ran.code == 0
    logged = [json.loads(line) for line in ran.err.splitlines()]
    assert [line["event"] for line in logged] == [
        "engine_started", "engine_stopping", "engine_stopped",
    ]  # fmt: skip
    assert {line["logger"] for line in logged} == {"amends.engine", "amends.cli"}


def test_the_log_level_is_heeded(processes: Begin) -> None:
    dev = processes("dev", APP, "--log-level", "error")
    dev.wait_for("Ctrl-C")
    dev.send(signal.SIGINT)
    assert dev.end().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_finishes_what_runs(
    amends: Amends, processes: Begin, gate: Callable[[], None], number: signal.Signals
) -> None:
    dev = processes("dev", APP)
    dev.wait_for("Ctrl-C")
    amends.ok("start", APP, "transfer", GATED, "--id", "g")
    dev.wait_for("withdrawing")
    dev.send(number)
    dev.wait_for("engine_stopping", where="err")
    gate()
    assert dev.end().code == 0
    types = [event["type"] for event in amends.ok("show", "transfer/g", "--json").json]
    assert types[:3] == ["SagaStarted", "StepScheduled", "StepCompleted"]


def test_what_outlives_the_grace_time_runs_again_later(
    amends: Amends, processes: Begin, gate: Callable[[], None]
) -> None:
    dev = processes("dev", APP, AMENDS_SHUTDOWN_GRACE_S="0.01")
    dev.wait_for("Ctrl-C")
    amends.ok("start", APP, "transfer", GATED, "--id", "g")
    dev.wait_for("withdrawing")
    dev.send(signal.SIGTERM)
    ran = dev.end()  # although its thread waits for the gate still
    assert ran.code == 0
    assert "activities_handed_back" in ran.err
    again = processes("dev", APP)
    again.wait_for("withdrawing")
    gate()
    amends.settle_elsewhere("transfer/g")
    assert amends.state("transfer/g") == "completed"


def test_a_second_signal_stops_it_at_once(
    amends: Amends, processes: Begin, gate: Callable[[], None]
) -> None:
    dev = processes("dev", APP)
    dev.wait_for("Ctrl-C")
    amends.ok("start", APP, "transfer", GATED, "--id", "g")
    dev.wait_for("withdrawing")
    dev.send(signal.SIGTERM)
    dev.wait_for("engine_stopping", where="err")
    dev.send(signal.SIGTERM)
    ran = dev.end()
    assert ran.code == 128 + signal.SIGTERM
    assert "stopped at once" in ran.err
    assert amends.state("transfer/g") == "running"


def test_killed_it_goes_on_where_it_was(
    amends: Amends, processes: Begin, gate: Callable[[], None]
) -> None:
    dev = processes("dev", APP)
    dev.wait_for("Ctrl-C")
    amends.ok("start", APP, "transfer", GATED, "--id", "g")
    dev.wait_for("withdrawing")
    dev.kill()
    again = processes("dev", APP)
    again.wait_for("withdrawing")
    gate()
    amends.settle_elsewhere("transfer/g")
    assert amends.state("transfer/g") == "completed"


def test_a_second_engine_on_the_file_is_refused(amends: Amends, processes: Begin) -> None:
    dev = processes("dev", APP)
    dev.wait_for("Ctrl-C")
    ran = processes("dev", APP).end()
    assert ran.code == 1
    assert f"process {dev.popen.pid}" in ran.err
    assert "Traceback" not in ran.err


def test_an_engine_that_fails_is_no_success(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failed(self: Engine) -> None:
        raise StoreCorrupt("the file is damaged")

    monkeypatch.setattr(Engine, "failed", failed)
    before = signal.getsignal(signal.SIGINT)
    ran = amends("dev", APP)
    assert ran.code == 1
    assert "error: the file is damaged" in ran.err
    assert signal.getsignal(signal.SIGINT) is before


def test_an_engine_that_ends_by_itself_is_no_success(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(self: Engine) -> None:
        return

    monkeypatch.setattr(Engine, "failed", ended)
    ran = amends("dev", APP)
    assert ran.code == 1
    assert "ended by itself" in ran.err

"""`amends replay` and `amends reconcile`."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from amends.domain.ids import InstanceId
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import APP, Amends

CHANGED = "tests.integration.cli.changed_app:app"


def test_code_that_agrees_with_its_journal(amends: Amends) -> None:
    amends.transfer("t")
    out = amends.ok("replay", APP, "transfer/t").out
    assert out.startswith("OK transfer/t  7 events, 4 decisions confirmed")
    [verdict] = amends.ok("replay", APP, "transfer/t", "--json").json
    assert verdict == {
        "instance": "transfer/t",
        "ok": True,
        "events": 7,
        "decisions": 4,
        "fault": None,
        "note": None,
    }


def test_code_that_was_changed_is_found_out(amends: Amends) -> None:
    amends.transfer("t")
    ran = amends("replay", CHANGED, "transfer/t")
    assert ran.code == 1
    out = " ".join(ran.out.split())
    assert "MISMATCH transfer/t" in out
    assert "decision 1: the journal has step withdraw(" in out
    assert "but the code wants step deposit(" in out
    [verdict] = amends("replay", CHANGED, "transfer/t", "--json").json
    assert not verdict["ok"]


def test_all_instances_are_checked(amends: Amends) -> None:
    amends.transfer("t-1")
    amends.transfer("t-2", payee="closed")
    amends.start(transfer_app.approve, None, "a")
    ran = amends.ok("replay", APP, "--all")
    assert ran.out == ""
    assert "3 agree, 0 do not" in ran.err
    ran = amends("replay", CHANGED, "--all", "--json")
    assert ran.code == 1
    assert {verdict["instance"]: verdict["ok"] for verdict in ran.json} == {
        "transfer/t-1": False,
        "transfer/t-2": False,
        "approve/a": True,
    }
    assert amends.ok("replay", APP, "--saga", "approve", "--json").json[0]["decisions"] == 0


def test_code_that_wants_more_than_is_on_record_is_found_out(amends: Amends) -> None:
    amends.start(transfer_app.approve, None, "a")
    ran = amends("replay", CHANGED.replace(":app", ":hasty"), "approve/a")
    assert ran.code == 1
    out = " ".join(ran.out.split())
    assert "at the end of the journal: the journal has nothing more, but the code wants a" in out


def test_a_stalled_instance_is_ok_with_the_code_that_was_fixed(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = transfer_app.Transfer(payer="a", payee="b", amount=1)
    amends.start(transfer_app.buggy, order, "b")
    [verdict] = amends("replay", APP, "buggy/b", "--json").json
    assert verdict["fault"] == "TypeError: a bug, not a refusal"
    monkeypatch.setattr(transfer_app, "FIXED", True)
    [verdict] = amends.ok("replay", APP, "buggy/b", "--json").json
    assert verdict["note"] == "stalled; would go on with SagaCompleted"


def test_a_saga_that_the_application_lacks(amends: Amends) -> None:
    amends.start(transfer_app.sleepy, 1, "open")
    [verdict] = amends("replay", CHANGED, "sleepy/open", "--json").json
    assert verdict["fault"] == "the application has no saga 'sleepy'"
    amends.ok("terminate", "sleepy/open", "--yes")
    amends.settle("sleepy/open")
    [verdict] = amends.ok("replay", CHANGED, "sleepy/open", "--json").json
    assert "not checked" in verdict["note"]


@pytest.mark.parametrize("args", [(), ("transfer/t", "--all"), ("nonsense",)])
def test_replay_wants_one_or_all(amends: Amends, args: tuple[str, ...]) -> None:
    amends.transfer("t")
    assert amends("replay", APP, *args).code == 2


def test_replay_of_what_never_was_is_code_3(amends: Amends) -> None:
    amends.transfer("t")
    assert amends("replay", APP, "transfer/x").code == 3


def lose_all_messages() -> None:
    with sqlite3.connect("amends.db") as connection:
        connection.execute("DELETE FROM messages")
        connection.execute("DELETE FROM delayed")
    connection.close()


def delayed(amends: Amends) -> int:
    [status] = amends.ok("status", "--json").json
    return sum(int(queue["delayed"]) for queue in status["queues"])


def test_reconcile_brings_back_what_the_broker_lost(amends: Amends) -> None:
    amends.transfer("done")
    amends.start(transfer_app.sleepy, 100, "s")
    order = transfer_app.Transfer(payer="a", payee="b", amount=1)
    amends.start(transfer_app.buggy, order, "b")
    before = delayed(amends)
    lose_all_messages()
    assert delayed(amends) == 0
    expected: dict[str, Any] = {"instances": 3, "waiting": 2, "messages": 2, "unreadable": 0}
    assert amends.ok("reconcile", "--json").json == [expected]
    assert amends.ok("reconcile").err.startswith("3 instances, 2 of them waiting")
    [status] = amends.ok("status", "--json").json
    waiting = sum(queue["delayed"] + queue["ready"] for queue in status["queues"])
    assert waiting == before  # twice the same is once


def test_reconcile_sets_a_lost_step_going(amends: Amends) -> None:
    amends.transfer("t", "jammed", "closed")
    amends.ok("resolve", "transfer/t", "retry", "--why", "test")
    lose_all_messages()
    amends.ok("resolve", "transfer/t", "skip", "--why", "test")
    amends.settle("transfer/t")
    assert amends.ok("reconcile", "--json").json[0]["messages"] == 0


def test_reconcile_says_which_journals_it_cannot_read(amends: Amends) -> None:
    amends.transfer("t")
    amends.tamper(InstanceId("transfer", "t"))
    ran = amends("reconcile", "--json")
    assert ran.code == 1
    assert ran.json[0]["unreadable"] == 1
    assert "transfer/t" in ran.err

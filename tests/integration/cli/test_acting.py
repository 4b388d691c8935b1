"""`amends signal`, `cancel`, `terminate` and `resolve`: what a person can do about an instance."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import APP, Amends


def events(amends: Amends, instance: str, type: str) -> list[dict[str, Any]]:
    journal = amends.ok("show", instance, "--json").json
    return [event["data"] for event in journal if event["type"] == type]


def test_a_signal_reaches_its_saga(amends: Amends) -> None:
    amends.start(transfer_app.approve, None, "a")
    ran = amends.ok("signal", "approve/a", "approved", '{"by":"carla"}', "--json")
    assert ran.json == [
        {"instance": "approve/a", "action": "signal", "sent": True, "name": "approved"}
    ]
    amends.settle("approve/a")
    assert events(amends, "approve/a", "SagaCompleted")[0]["result"] == "approved by carla"


@pytest.mark.parametrize(("name", "payload"), [("approved", "{"), ("not a name", "1")])
def test_a_signal_that_cannot_be_is_a_usage_error(amends: Amends, name: str, payload: str) -> None:
    assert amends("signal", "approve/a", name, payload).code == 2


def test_cancelling_undoes_and_names_who(amends: Amends) -> None:
    amends.start(transfer_app.sleepy, 1, "s")
    ran = amends.ok("cancel", "sleepy/s", "--why", "no longer tired")
    assert ran.out == ""
    assert "cancel requested" in ran.err
    amends.settle("sleepy/s")
    assert amends.state("sleepy/s") == "cancelled"
    [asked] = events(amends, "sleepy/s", "CancelRequested")
    assert (asked["who"], asked["why"]) == (getpass.getuser(), "no longer tired")


def test_terminating_asks_first(amends: Amends) -> None:
    amends.start(transfer_app.sleepy, 1, "s")
    ran = amends("terminate", "sleepy/s", stdin="n\n")
    assert ran.code == 1
    assert "NOTHING is undone" in ran.err
    ran = amends.ok("terminate", "sleepy/s", "--who", "dora", stdin="y\n")
    assert "NOTHING IS UNDONE" in ran.err
    amends.settle("sleepy/s")
    assert amends.state("sleepy/s") == "terminated"
    assert events(amends, "sleepy/s", "SagaTerminated")[0]["who"] == "dora"
    assert "nothing was undone" in amends.ok("show", "sleepy/s").out


def test_terminating_without_a_question(amends: Amends) -> None:
    amends.start(transfer_app.sleepy, 1, "s")
    ran = amends.ok("terminate", "sleepy/s", "--yes", "--json")
    assert ran.json[0]["action"] == "terminate"
    assert "NOTHING IS UNDONE" in ran.err


@pytest.mark.parametrize("verb", ["signal", "cancel", "terminate"])
def test_what_has_ended_refuses(amends: Amends, verb: str) -> None:
    amends.transfer("t")
    more = ["x"] if verb == "signal" else []
    ran = amends(verb, "transfer/t", *more)
    assert ran.code == 1
    assert f"there is nothing to {verb}" in ran.err


@pytest.mark.parametrize("verb", ["signal", "cancel", "terminate", "resolve"])
def test_what_never_was_is_code_3(amends: Amends, verb: str) -> None:
    amends.transfer("t")
    more = {"signal": ["x"], "resolve": ["skip", "--why", "w"]}.get(verb, [])
    assert amends(verb, "transfer/x", *more).code == 3


def test_a_parked_undo_is_tried_again(amends: Amends) -> None:
    amends.transfer("t", "jammed", "closed")
    assert amends.state("transfer/t") == "parked"
    Path("repaired").touch()
    amends.ok("resolve", "transfer/t", "retry", "--why", "the bank is back")
    amends.settle("transfer/t")
    assert amends.state("transfer/t") == "compensated"
    [decision] = events(amends, "transfer/t", "StepResolved")
    assert decision["resolution"] == "retry"
    assert decision["who"] == getpass.getuser()
    assert "resolved by" in amends.ok("show", "transfer/t").out


@pytest.mark.parametrize("resolution", ["skip", "complete"])
def test_a_parked_undo_is_decided_by_hand(amends: Amends, resolution: str) -> None:
    amends.transfer("t", "jammed", "closed")
    ran = amends.ok(
        "resolve", "transfer/t", resolution, "--why", "paid in cash", "--step", "3", "--json"
    )
    assert ran.json[0]["resolution"] == resolution
    amends.settle("transfer/t")
    assert events(amends, "transfer/t", "StepResolved")[0]["why"] == "paid in cash"


def test_a_decision_needs_a_reason(amends: Amends) -> None:
    assert amends("resolve", "transfer/t", "skip").code == 2
    assert amends("resolve", "transfer/t", "guess", "--why", "x").code == 2


def test_nothing_parked_is_a_refusal(amends: Amends) -> None:
    amends.transfer("t")
    ran = amends("resolve", "transfer/t", "skip", "--why", "x")
    assert ran.code == 1
    assert "parked: none" in ran.err


def test_a_result_by_hand_is_checked_when_the_application_is_named(amends: Amends) -> None:
    amends.transfer("t", "jammed", "closed")
    ran = amends("resolve", "transfer/t", "complete", "--why", "x", "--result", "7", "--app", APP)
    assert ran.code == 2
    assert "does not fit" in ran.err
    assert amends("resolve", "transfer/t", "retry", "--why", "x", "--result", "7").code == 2

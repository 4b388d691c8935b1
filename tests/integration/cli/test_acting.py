"""`amends signal`, `cancel`, `terminate` and `resolve`: what a person can do about an instance."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from amends import App, Client, InstanceId, SagaContext, activity, saga
from amends.domain import messages as m
from amends.domain.ids import START
from amends.stores.port import EventFilter
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import APP, WAIT_S, Amends


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


@activity
async def wire(amount: int) -> str:
    raise transfer_app.AccountClosed("refused")


@saga
async def wired(ctx: SagaContext, amount: int) -> None:
    await ctx.do(wire, amount, pivot=True)


wiring = App(sagas=[wired], activities=[wire])


def test_a_refused_pivot_that_happened_after_all_is_seen_and_decided_by_hand(
    amends: Amends,
) -> None:
    async def refused_and_yet(client: Client) -> None:
        handle = await client.start(wired, 5, id="w")
        await client.wait_for_end(handle.instance, WAIT_S)
        late = m.ReportCompleted(saga="wired", id="w", seq=1, attempt=1, result="wired")
        await client.send(late)
        parked = EventFilter((handle.instance.stream,), ("StepParked",))
        await anext(client.backend.store.subscribe(START, filter=parked))

    amends.engine(refused_and_yet, app=wiring)
    [listed] = amends.ok("list", "--state", "parked", "--json").json
    assert (listed["instance"], listed["parked"][0]["activity"]) == ("wired/w", "wire")
    assert "happened after the saga was told otherwise" in listed["parked"][0]["error"]
    shown = amends.ok("show", "wired/w").out
    assert "step 1 (wire) waits for you: PivotStands" in " ".join(shown.split())
    assert "amends resolve wired/w skip --why" in shown
    assert "wired/w retry" not in shown
    by_hand = ("resolve", "wired/w", "complete", "--why", "?", "--result", "7")
    for more, says in (((), "--app"), (("--app", f"{__name__}:wiring"), "does not fit")):
        ran = amends(*by_hand, *more)
        assert (ran.code, says in " ".join(ran.err.split())) == (2, True)
    ran = amends("resolve", "wired/w", "retry", "--why", "?")
    assert ran.code == 1
    assert "it is not run again" in " ".join(ran.err.split())
    amends.ok("resolve", "wired/w", "skip", "--why", "called the money back")
    amends.engine(until_resolved, app=wiring)
    assert amends.state("wired/w") == "failed"


async def until_resolved(client: Client) -> None:
    resolved = EventFilter((InstanceId("wired", "w").stream,), ("StepResolved",))
    await anext(client.backend.store.subscribe(START, filter=resolved))


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
    assert "an undo has no result" in ran.err
    assert amends("resolve", "transfer/t", "retry", "--why", "x", "--result", "7").code == 2

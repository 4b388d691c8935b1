"""`amends list`, `show`, `status` and `events`: what is going on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from amends.domain.ids import InstanceId
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import APP, Amends, Process

PARKED = ("jammed", "closed")


@pytest.fixture
def shop(amends: Amends) -> Amends:
    """A store with one instance of each fate."""
    amends.transfer("done")
    amends.transfer("undone", payee="closed")
    amends.transfer("stuck", *PARKED)
    amends.start(transfer_app.buggy, transfer_app.Transfer(payer="a", payee="b", amount=1), "bug")
    amends.start(transfer_app.sleepy, 100, "nap")
    amends.start(transfer_app.approve, None, "ask")
    return amends


def instances(amends: Amends, *options: str) -> list[str]:
    return [row["instance"] for row in amends.ok("list", "--json", *options).json]


def test_list_has_the_latest_first_with_their_states(shop: Amends) -> None:
    rows = shop.ok("list", "--json").json
    assert [(row["instance"], row["state"]) for row in rows] == [
        ("approve/ask", "running"),
        ("sleepy/nap", "running"),
        ("buggy/bug", "stalled"),
        ("transfer/stuck", "parked"),
        ("transfer/undone", "compensated"),
        ("transfer/done", "completed"),
    ]
    stuck = rows[3]
    assert stuck["step"]["activity"] == "refund"
    assert stuck["step"]["attempt"] == 2
    assert stuck["error"]["type"] == "ConnectionError"
    assert rows[1]["next_timer"] is not None


def test_list_for_people_fits_80_columns(shop: Amends) -> None:
    ran = shop.ok("list")
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("transfer/stuck") and "parked" in line for line in lines)
    assert "TypeError: a bug" in ran.out


def test_a_long_id_is_folded_and_not_cut(amends: Amends) -> None:
    id = "".join(f"part{number:02}-" for number in range(25))
    amends.start(transfer_app.sleepy, 1, id)
    out = amends.ok("list").out
    assert max(map(len, out.splitlines())) <= 80
    assert "".join(line[:40].split(" ")[0] for line in out.splitlines()[2:]) == f"sleepy/{id}"


def test_list_filters(shop: Amends) -> None:
    assert instances(shop, "--state", "parked") == ["transfer/stuck"]
    assert instances(shop, "--state", "parked", "--state", "stalled") == [
        "buggy/bug", "transfer/stuck",
    ]  # fmt: skip
    assert instances(shop, "--saga", "transfer", "--limit", "2") == [
        "transfer/stuck", "transfer/undone",
    ]  # fmt: skip
    assert instances(shop, "--older", "1h") == []
    assert len(instances(shop, "--older", "0s")) == 6
    limited = shop.ok("list", "--limit", "2")
    assert "--limit shows more" in limited.err
    assert "no instance fits" in shop.ok("list", "--state", "failed").err


@pytest.mark.parametrize("age", ["1", "h", "1y", "-1h", "1h30m"])
def test_an_age_that_is_none_is_a_usage_error(amends: Amends, age: str) -> None:
    assert amends("list", "--older", age).code == 2


def test_show_tells_the_story_and_links_undos(amends: Amends) -> None:
    amends.transfer("t", payee="closed")
    out = amends.ok("show", "transfer/t").out
    assert max(map(len, out.splitlines())) <= 80
    story = [" ".join(line.split()[1:]) for line in out.splitlines()]
    assert "1 → withdraw" in " | ".join(story)
    for part in (
        "1 ✓ withdraw completed (",
        "2 × deposit attempt 1 failed, no more attempts AccountClosed:",
        "↩ compensation, because of a failure",
        "3 ↩ refund undoes step 1 (withdraw)",
        "3 ✓ refund completed (",
        "■ compensated (",
    ):
        assert any(line.startswith(part) for line in story), (part, out)
    assert "UTC" in out


def test_show_says_what_a_person_can_do(shop: Amends) -> None:
    parked = shop.ok("show", "transfer/stuck").out
    assert "step 3 (refund) waits for you: ConnectionError: the bank does not answer" in parked
    assert "amends resolve transfer/stuck retry --why" in parked
    stalled = shop.ok("show", "buggy/bug").out
    assert "nothing was undone" in stalled
    assert "amends replay APP buggy/bug" in stalled
    assert "Traceback" not in stalled
    assert 'raise TypeError("a bug, not a refusal")' in shop.ok("show", "buggy/bug", "--full").out
    assert "waits: a timer, until" in shop.ok("show", "sleepy/nap").out
    assert "waits: a signal" in shop.ok("show", "approve/ask").out


def test_show_as_json_is_the_journal(amends: Amends) -> None:
    amends.transfer("t")
    events = amends.ok("show", "transfer/t", "--json").json
    assert [event["version"] for event in events] == list(range(len(events)))
    assert events[0]["data"]["input"]["payer"] == "anna"
    assert {event["metadata"]["$correlationId"] for event in events} == {
        events[0]["metadata"]["$correlationId"]
    }
    emitted = [event for event in events if event["type"] == "MoneyTransferred"]
    assert emitted[0]["data"] == {"payee": "bert", "amount": 5}


def test_what_a_terminal_would_obey_is_shown_and_not_sent(amends: Amends) -> None:
    amends.transfer("t", payer="\x1b[31mred\x07")
    out = amends.ok("show", "transfer/t").out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_show_of_what_never_was_is_code_3(amends: Amends) -> None:
    amends.transfer("t")
    ran = amends("show", "transfer/x")
    assert ran.code == 3
    assert ran.err.startswith("error: transfer/x was never started here")


def test_status_counts_states_and_messages(shop: Amends) -> None:
    [status] = shop.ok("status", "--json").json
    assert status["instances"] == 6
    assert status["states"] == {
        "running": 2, "stalled": 1, "parked": 1, "compensated": 1, "completed": 1,
    }  # fmt: skip
    assert status["sagas"]["transfer"] == {"completed": 1, "compensated": 1, "parked": 1}
    depths = {queue["queue"]: queue for queue in status["queues"]}
    assert depths.keys() == {"commands.ledger", "inbox.0"}
    assert depths["inbox.0"]["delayed"] == 2  # the timer, and the next look at the bug
    out = shop.ok("status").out
    assert max(map(len, out.splitlines())) <= 80


def test_events_are_the_tail_of_the_log(shop: Amends) -> None:
    last = shop.ok("events", "--limit", "1", "--json").json
    assert last[0]["stream"] == "saga.approve-ask"
    started = shop.ok("events", "--type", "SagaStarted", "--json").json
    assert len(started) == 6
    some = shop.ok("events", "--stream", "saga.transfer-done", "--type", "StepCompleted", "--json")
    assert [event["data"]["seq"] for event in some.json] == [1, 2]
    lines = shop.ok("events", "--stream", "saga.sleepy-").out.splitlines()
    assert "saga.sleepy-nap@0 SagaStarted" in lines[0]


def test_events_follow_the_log(amends: Amends, processes: Callable[..., Process]) -> None:
    amends.transfer("one")
    tail = processes("events", "--follow", "--limit", "1", "--type", "SagaCompleted")
    tail.wait_for("saga.transfer-one@")
    amends.transfer("two")
    tail.wait_for("saga.transfer-two@")
    tail.send(signal.SIGINT)
    ran = tail.end()
    assert ran.code == 0, ran
    assert ran.err == ""


@pytest.mark.parametrize(
    "verb",
    [
        ("list",),
        ("status",),
        ("show", "a/b"),
        ("events",),
        ("events", "--follow"),
        ("dead", "list"),
        ("signal", "a/b", "x"),
        ("cancel", "a/b"),
        ("terminate", "a/b", "--yes"),
        ("resolve", "a/b", "skip", "--why", "x"),
        ("reconcile",),
        ("replay", "tests.integration.cli.transfer_app:app", "a/b"),
    ],
    ids=" ".join,
)
def test_no_store_is_code_3_and_none_is_made(amends: Amends, verb: tuple[str, ...]) -> None:
    ran = amends(*verb, "--db", "typo.db")
    assert ran.code == 3
    assert "there is no store at" in ran.err
    assert list(Path().iterdir()) == []


def test_a_file_of_something_else_is_left_alone(amends: Amends) -> None:
    Path("notes.txt").write_text("not a database" * 100)
    ran = amends("list", "--db", "notes.txt")
    assert ran.code == 1
    assert "is not an Amends database" in ran.err
    assert [path.name for path in Path().iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("verb", [("list",), ("dev", APP)], ids=["list", "dev"])
def test_a_directory_is_called_one(amends: Amends, verb: tuple[str, ...]) -> None:
    Path("data").mkdir()
    ran = amends(*verb, "--db", "data")
    assert ran.code == 1
    assert "data is not an Amends database: it is a directory" in " ".join(ran.err.split())
    assert list(Path("data").iterdir()) == []


def test_an_unreadable_journal_does_not_hide_the_others(amends: Amends) -> None:
    amends.transfer("good")
    amends.transfer("bad")
    amends.tamper(InstanceId("transfer", "bad"))
    rows = {row["instance"]: row for row in amends.ok("list", "--json").json}
    assert rows["transfer/good"]["state"] == "completed"
    assert rows["transfer/bad"]["state"] == "unreadable"
    assert "schema version 99" in rows["transfer/bad"]["fault"]
    assert "unreadable" in amends.ok("list").out
    shown = amends.ok("show", "transfer/bad").out
    assert "● started" in shown
    assert "? StepScheduled" in shown

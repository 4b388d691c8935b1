"""`amends purge`: journals of sagas that ended long ago are removed, after a question."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from amends import Client, InstanceId
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import APP, Amends, Process

ORDER = '{"payer":"anna","payee":"bert","amount":5}'
DAY_US = 86_400_000_000


def age(days: int, instance: str = "%") -> None:
    """Make journals as old as that."""
    with sqlite3.connect("amends.db") as connection:
        connection.execute(
            "UPDATE events SET recorded_at = recorded_at - ? WHERE stream IN "
            "(SELECT id FROM streams WHERE name LIKE ?)",
            [days * DAY_US, f"saga.{instance}"],
        )
    connection.close()


def instances(amends: Amends) -> list[str]:
    return sorted(row["instance"] for row in amends.ok("list", "--json").json)


@pytest.fixture
def old(amends: Amends) -> list[str]:
    """Two transfers that ended 40 days ago; of two other sagas one that did, and one that sleeps."""
    for id in ("a", "b"):
        amends.transfer(id)
    amends.start(transfer_app.sleepy, 1, "asleep")
    amends.start(transfer_app.approve, None, "approved")
    amends.ok("signal", "approve/approved", "approved", '{"by":"carla"}')
    amends.settle("approve/approved")
    age(40)
    return instances(amends)


def test_it_asks_first(amends: Amends, old: list[str]) -> None:
    ran = amends("purge", "--older-than", "30d", stdin="n\n")
    assert ran.code == 1
    assert "The journals of 3 instances (17 events) that ended more than 30 d ago" in ran.err
    assert "FOR GOOD" in ran.err
    assert "NEW saga" in ran.err.replace("\n", " ")
    assert instances(amends) == old
    ran = amends.ok("purge", "--older-than", "30d", stdin="y\n")
    assert "removed the journals of 3 instances (17 events)" in ran.err
    assert instances(amends) == ["sleepy/asleep"]
    assert "never started here, or its journal was removed" in amends("show", "transfer/a").err


def test_a_dry_run_only_counts(amends: Amends, old: list[str]) -> None:
    ran = amends.ok("purge", "--older-than", "5w", "--dry-run")
    assert "would remove the journals of 3 instances" in ran.err
    ran = amends.ok("purge", "--older-than", "5w", "--dry-run", "--json")
    assert ran.json == [{"dry_run": True, "journals": 3, "events": 17, "kept": 0}]
    assert instances(amends) == old


def test_only_one_saga_and_only_what_is_old(amends: Amends, old: list[str]) -> None:
    amends.transfer("young")
    ran = amends.ok("purge", "--older-than", "6w", "--yes", "--json")
    assert ran.json == [{"dry_run": False, "journals": 0, "events": 0, "kept": 0}]
    ran = amends.ok("purge", "--older-than", "30d", "--saga", "transfer", "--yes", "--json")
    assert ran.json == [{"dry_run": False, "journals": 2, "events": 14, "kept": 0}]
    assert instances(amends) == ["approve/approved", "sleepy/asleep", "transfer/young"]
    assert "removed the journals of 0 instances" in amends.ok("purge", "--older-than", "6w").err
    # The first line of the log, and of each journal, may be gone: nothing minds.
    assert amends.ok("status", "--json").json[0]["instances"] == 3
    assert len(amends.ok("events", "--json", "--type", "SagaStarted").json) == 3
    assert amends.ok("reconcile", "--json").json[0]["instances"] == 3


def test_what_stays_is_said(amends: Amends) -> None:
    amends.transfer("a")
    amends.transfer("b")
    amends.tamper(InstanceId("transfer", "a"))
    age(40)
    ran = amends.ok("purge", "--older-than", "30d", "--yes")
    assert "removed the journals of 1 instance (7 events)" in ran.err
    assert "1 more ended so long ago and stay" in ran.err


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--older-than", "1h"),
        ("--older-than", "0d"),
        ("--older-than", "soon"),
        ("--older-than", "30d", "--saga", "no-name"),
    ],
)
def test_nobody_purges_by_accident(amends: Amends, args: tuple[str, ...]) -> None:
    amends.transfer("a")
    assert amends("purge", *args, "--yes").code == 2
    assert instances(amends) == ["transfer/a"]


def test_below_a_day_it_must_be_forced(amends: Amends) -> None:
    amends.transfer("a")
    age(1)
    assert "--force" in amends("purge", "--older-than", "2h", "--yes").err
    ran = amends.ok("purge", "--older-than", "2h", "--force", "--yes", "--json")
    assert ran.json[0]["journals"] == 1


def test_a_missing_store_is_not_made(amends: Amends) -> None:
    assert amends("purge", "--older-than", "30d", "--yes").code == 3
    assert amends("purge", "--older-than", "30d", "--dry-run", "--db", "x.db").code == 3


def test_beside_an_engine_that_runs(amends: Amends, processes: Callable[..., Process]) -> None:
    """The engine has the instance in mind still; it takes the next of that id for what it is."""
    dev = processes("dev", APP)
    dev.wait_for("Ctrl-C")
    first = amends.ok("start", APP, "transfer", ORDER, "--id", "t", "--wait", "--json").json
    age(40)
    assert amends.ok("purge", "--older-than", "30d", "--yes", "--json").json[0]["journals"] == 1
    again = amends.ok("start", APP, "transfer", ORDER, "--id", "t", "--wait", "--json").json
    assert again == first
    [row] = amends.ok("list", "--json").json
    assert (row["state"], row["events"]) == ("completed", 7)
    journal = amends.ok("show", "transfer/t", "--json").json
    # Behind the seven that were removed, and the record of that.
    assert [event["position"] for event in journal] == list(range(8, 15))


def test_an_engine_does_it_by_itself(amends: Amends, processes: Callable[..., Process]) -> None:
    amends.transfer("old")
    age(40)
    amends.transfer("young")
    dev = processes("dev", APP, AMENDS_RETENTION_DAYS="30")
    dev.wait_for("removed 30 d after the end of their sagas")
    dev.wait_for("journals_removed", where="err")
    assert instances(amends) == ["transfer/young"]


def test_a_retention_below_an_hour_is_refused(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_RETENTION_DAYS", "0.01")
    ran = amends("dev", APP)
    assert ran.code == 2
    assert "AMENDS_RETENTION_DAYS" in ran.err


def test_without_a_retention_an_engine_keeps_everything(amends: Amends) -> None:
    amends.transfer("old")
    age(4000)

    async def work(client: Client) -> None:
        await client.start(transfer_app.approve, id="x")

    amends.engine(work)
    assert "transfer/old" in instances(amends)

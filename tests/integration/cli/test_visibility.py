"""`amends list` and `status` with filters, from the projection *sagas* and from the log alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from amends import App, Client
from amends.projections.builtin import Sagas
from amends.projections.builtin.sagas import sagas
from amends.projections.records import projections
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import Amends

WITH_SAGAS = App(
    sagas=list(transfer_app.app.sagas.values()),
    activities=list(transfer_app.app.activities.values()),
    projections=[Sagas()],
)


@pytest.fixture(params=["log", "projection"])
def shop(amends: Amends, request: pytest.FixtureRequest) -> Amends:
    amends.transfer("done")
    amends.transfer("undone", payee="closed")
    amends.transfer("stuck", payer="jammed", payee="closed")
    amends.start(transfer_app.approve, None, "ask")
    if request.param == "projection":
        catch_up(amends)
    return amends


def catch_up(amends: Amends) -> None:
    amends.engine(lambda client: client.projections.caught_up("sagas"), app=WITH_SAGAS)


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ([], ["approve/ask", "transfer/stuck", "transfer/undone", "transfer/done"]),
        (["state:parked"], ["transfer/stuck"]),
        (["state:parked", "payer:jammed", "saga:transfer"], ["transfer/stuck"]),
        (["state:parked,completed saga:transfer"], ["transfer/stuck", "transfer/done"]),
        (["payer:jam*"], ["transfer/stuck"]),
        (["payer:anna", "state:compensated"], ["transfer/undone"]),
        (["error:AccountClosed"], ["transfer/undone"]),
        (["step:refund"], ["transfer/stuck"]),
        (["id:done", "newer:1h", "amount:5"], ["transfer/done"]),
        (["older:1h"], []),
        (["--state", "parked", "saga:transfer"], ["transfer/stuck"]),
        (["--limit", "1", "saga:transfer"], ["transfer/stuck"]),
    ],
)
def test_a_filter(shop: Amends, filter: list[str], found: list[str]) -> None:
    ran = shop.ok("list", "--json", *filter)
    assert [row["instance"] for row in ran.json] == found
    assert ran.err == ""  # from the projection, no word of the log


def test_a_list_looks_the_same(shop: Amends) -> None:
    stuck = shop.ok("list", "--json", "id:stuck").json[0]
    assert stuck["state"] == "parked"
    assert stuck["step"]["activity"] == "refund"
    assert stuck["step"]["attempt"] == 2
    assert stuck["error"] == {
        "type": "ConnectionError", "message": "the bank does not answer [503]",
    }  # fmt: skip
    assert "transfer/stuck" in shop.ok("list", "state:parked").out


def test_a_filter_that_cannot_be_read_is_pointed_at(shop: Amends) -> None:
    ran = shop("list", "saga:transfer", "state:waiting")
    assert ran.code == 2
    said, shown, arrow = ran.err.splitlines()
    assert said.startswith("error: the filter cannot be read: there is no state 'waiting'")
    assert shown[arrow.index("^") :].startswith("waiting")


def test_a_name_that_no_input_has_is_pointed_at(shop: Amends) -> None:
    ran = shop("list", "payee:bert", "stat:parked")
    assert ran.code == 2
    assert "no instance has a value 'stat' in its input" in ran.err


def test_options_and_terms_do_not_contradict_each_other(shop: Amends) -> None:
    assert "'state' stands there twice" in shop("list", "--state", "parked", "state:failed").err


def test_status_counts_the_same(shop: Amends) -> None:
    (status,) = shop.ok("status", "--json").json
    assert status["sagas"]["transfer"] == {"completed": 1, "compensated": 1, "parked": 1}
    assert status["instances"] == 4


def test_the_projection_is_what_answers(amends: Amends) -> None:
    amends.transfer("one")
    catch_up(amends)

    async def forge(client: Client) -> None:
        await client.projections.database.run(
            lambda connection: connection.execute(
                sagas.update().values(id="forged", state="failed")
            )
        )

    amends.engine(forge, app=WITH_SAGAS)
    assert amends.state("transfer/forged") == "completed"
    (status,) = amends.ok("status", "--json").json
    assert status["states"] == {"failed": 1}


def test_one_that_nobody_runs_does_not_answer(amends: Amends) -> None:
    amends.transfer("one")
    catch_up(amends)
    amends.transfer("two")  # without the projection
    ran = amends.ok("list", "--json")
    assert [row["instance"] for row in ran.json] == ["transfer/two", "transfer/one"]
    assert "'sagas' is behind the log, and nobody runs it; so the log is read" in ran.err


def test_one_that_is_behind_is_waited_for_and_then_told_of(amends: Amends) -> None:
    amends.transfer("one")
    catch_up(amends)
    amends.transfer("two")

    async def pretend_somebody_runs_it(client: Client) -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        leased = projections.update().values(owner="somebody", leased_until=later)
        await client.projections.database.run(lambda connection: connection.execute(leased))

    amends.engine(pretend_somebody_runs_it)
    ran = amends.ok("list", "--json")
    assert [row["instance"] for row in ran.json] == ["transfer/one"]
    assert ran.err.startswith("as of ")
    assert ran.err.endswith("'sagas' is behind the log\n")


def test_one_of_another_version_does_not_answer(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    amends.transfer("one")
    catch_up(amends)
    monkeypatch.setattr(Sagas, "version", 2)
    ran = amends.ok("list", "--json")
    assert ran.json[0]["state"] == "completed"
    assert "is of version 1, and this is 2: amends projections rebuild sagas" in ran.err


def test_a_database_that_does_not_answer_is_done_without(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    amends.transfer("one")
    monkeypatch.setenv("AMENDS_PROJECTIONS", "postgresql://nobody:secret@127.0.0.1:1/none")
    ran = amends.ok("list", "--json")
    assert ran.json[0]["state"] == "completed"
    assert "cannot be used" in ran.err
    assert "secret" not in ran.err

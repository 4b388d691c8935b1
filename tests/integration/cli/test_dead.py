"""`amends dead`: from a message that nobody could handle to the end of it."""

from __future__ import annotations

from typing import Any

import pytest

from amends import Client
from amends.domain.messages import DeliverSignal
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import Amends


def bury(amends: Amends, *ids: str) -> list[dict[str, Any]]:
    """Send signals to sagas that never began; they end as dead letters."""

    async def work(client: Client) -> None:
        for id in ids:
            message = DeliverSignal(saga="approve", id=id, name="approved", payload={"by": "carla"})
            await client.send(message)
        while len(await client.backend.broker.dead_letters()) < len(ids):
            # The queue empties in its own time; each look lets it.
            await client.backend.broker.depths()

    amends.engine(work)
    return amends.ok("dead", "list", "--json").json


def test_dead_letters_are_listed_and_shown(amends: Amends) -> None:
    [letter] = bury(amends, "a")
    assert letter["queue"] == "inbox.0"
    assert letter["key"] == "approve/a"
    assert letter["body"]["payload"] == {"by": "carla"}
    out = amends.ok("dead", "list").out
    assert letter["id"][:8] in out
    assert max(map(len, out.splitlines())) <= 80
    shown = amends.ok("dead", "show", letter["id"][:8]).out
    assert "approve/a was never started" in shown
    assert amends.ok("dead", "show", letter["id"], "--json").json == [letter]
    status = amends.ok("status")
    assert "amends dead list" in status.err


def test_a_redriven_message_gets_another_chance(amends: Amends) -> None:
    [letter] = bury(amends, "a")
    amends.start(transfer_app.approve, None, "a")
    ran = amends.ok("dead", "redrive", letter["id"][:8], "--json")
    assert ran.json == [{"redriven": 1}]
    amends.settle("approve/a")
    assert amends.state("approve/a") == "completed"
    assert "no dead letters" in amends.ok("dead", "list").err


def test_discarding_asks_first(amends: Amends) -> None:
    letters = bury(amends, "a", "b", "c")
    assert len(letters) == 3
    ran = amends("dead", "discard", "--all", stdin="n\n")
    assert ran.code == 1
    assert "Delete 3 dead letters for good?" in ran.err
    assert len(amends.ok("dead", "list", "--json").json) == 3
    assert "1 discarded" in amends.ok("dead", "discard", letters[0]["id"], "--yes").err
    ran = amends.ok("dead", "discard", "--all", stdin="y\n")
    assert "2 discarded" in ran.err
    assert amends.ok("dead", "discard", "--all", "--json").json == [{"discarded": 0}]


def test_filters_choose(amends: Amends) -> None:
    bury(amends, "a")
    assert amends.ok("dead", "list", "--queue", "commands.ledger", "--json").json == []
    assert len(amends.ok("dead", "list", "--reason", "no such instance", "--json").json) == 1
    assert amends.ok("dead", "redrive", "--reason", "unreadable", "--json").json == [
        {"redriven": 0}
    ]
    assert amends.ok("dead", "discard", "--queue", "inbox.0", "--yes", "--json").json == [
        {"discarded": 1}
    ]


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_nobody_empties_the_queue_by_accident(amends: Amends, verb: str) -> None:
    bury(amends, "a")
    assert amends("dead", verb).code == 2
    assert amends("dead", verb, "abc", "--all").code == 2
    assert amends("dead", verb, "ffffffff-no").code == 3
    assert len(amends.ok("dead", "list", "--json").json) == 1


def test_an_id_that_names_several_is_a_usage_error(amends: Amends) -> None:
    bury(amends, *(f"i{number}" for number in range(17)))  # of 16 first digits, one comes twice
    codes = {amends("dead", "show", digit).code for digit in "0123456789abcdef"}
    assert 2 in codes

"""`amends audit show`: one instance or aggregate as it was at any moment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial

from amends import Aggregate, Client, InstanceId, Repository, applies
from amends.domain.envelope import RecordedEvent
from tests.integration.cli.conftest import Amends
from tests.integration.projections.sample import Deposited, Withdrawn

ACCOUNT = "tests.integration.cli.test_audit_show:Account"


class Account(Aggregate):
    category = "account"
    events = (Deposited, Withdrawn)
    balance = 0

    def move(self, amount: int) -> None:
        self.record(Deposited(amount=amount) if amount > 0 else Withdrawn(amount=-amount))

    @applies(Deposited)
    def _deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies(Withdrawn)
    def _withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount


def journal(amends: Amends, instance: InstanceId) -> list[RecordedEvent]:
    async def read(client: Client) -> list[RecordedEvent]:
        return await client.journal(instance)

    return amends.engine(read)


def test_an_instance_is_shown_as_it_was_after_each_of_its_events(amends: Amends) -> None:
    amends.transfer("t-1")
    amends.transfer("t-2")
    events = journal(amends, InstanceId("transfer", "t-2"))
    states = []
    for number, event in enumerate(events, 1):
        (told,) = amends.ok(
            "audit", "show", "transfer/t-2", "--as-of", str(event.position), "--json"
        ).json
        assert told["version"] == number - 1
        assert [one["id"] for one in told["events"]] == [str(one.id) for one in events[:number]]
        states.append(told["state"]["state"])
    assert states[0] == "running"
    assert states[-1] == "completed"
    assert states == sorted(states, reverse=True)  # once completed, always completed
    before = events[0].position - 1
    missing = amends("audit", "show", "transfer/t-2", "--as-of", str(before))
    assert missing.code == 3
    assert "did not exist" in missing.err
    shown = amends.ok("audit", "show", "transfer/t-2", "--as-of", "2999-01-01T00:00Z")
    assert "completed" in shown.out
    assert f"{len(events)} events" in shown.err
    assert amends("audit", "show", "transfer/t-2", "--as-of", "2001-01-01").code == 3


def test_an_aggregate_is_shown_with_its_state(amends: Amends) -> None:
    async def move(client: Client) -> list[datetime]:
        moments = []
        repository = Repository(client.backend.store, Account)
        for amount in (5, -2, 4):
            await repository.execute("a-7", partial(Account.move, amount=amount))
            await asyncio.sleep(0.002)
            moments.append(datetime.now(UTC))
        return moments

    moments = amends.engine(move)
    for moment, balance in zip(moments, (5, 3, 7), strict=True):
        ran = amends.ok(
            "audit", "show", "account-a-7", "--as-of", moment.isoformat(),
            "--aggregate", ACCOUNT, "--json",
        )  # fmt: skip
        assert ran.json[0]["state"] == {"balance": balance}
    shown = amends.ok("audit", "show", "account-a-7", "--as-of", "1", "--aggregate", ACCOUNT)
    assert "balance  3" in shown.out
    assert "Withdrawn" in shown.out
    wrong = amends("audit", "show", "else-1", "--as-of", "1", "--aggregate", ACCOUNT)
    assert wrong.code == 3
    nobody = amends("audit", "show", "account-a-7", "--as-of", "1", "--aggregate", "tests:Nobody")
    assert nobody.code == 2

"""Aggregates decide once for each key, whatever keeps their events and whatever happens to it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from amends.domain.ids import StreamName
from amends.errors import AppendOutcomeUnknown, StoreUnavailable
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.port import EventStore, Removal
from amends.stores.repository import Recorded, Repository
from amends.testing.contracts.data import soon
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault
from tests.integration.eventstoredb.conftest import Reopen
from tests.unit.stores.accounts import Account, Deposited, deposit, withdraw


async def test_who_decides_in_several_processes_decides_once_for_each_key(reopen: Reopen) -> None:
    id = uuid4().hex
    stores = [await reopen() for _ in range(3)]
    accounts = [Repository(store, Account) for store in stores]
    decisions = [
        account.execute(id, deposit(n), key=f"k{n}", attempts_max=100)
        for n in range(10)
        for account in accounts
    ]
    recorded = await soon(asyncio.gather(*decisions))
    # More may believe that they were first: at one version, one decision has one append.
    assert sum(not each.already for each in recorded) >= 10
    for n in range(10):
        same = recorded[3 * n : 3 * n + 3]
        assert {each.events for each in same} == {(Deposited(amount=n),)}
        assert len({each.version for each in same}) == 1
    for account in accounts:
        loaded = await account.load(id)
        assert (loaded.version, loaded.balance) == (9, 45)
    for store in stores:
        await store.close()


async def test_a_repeat_returns_what_is_on_record(reopen: Reopen) -> None:
    id, store = uuid4().hex, await reopen()
    accounts = Repository(store, Account)
    await accounts.execute(id, deposit(10))
    first = await accounts.execute(id, withdraw(3, "a", "b"), key="k")
    await accounts.execute(id, deposit(1))
    await store.close()
    store = await reopen()
    again = await Repository(store, Account).execute(id, withdraw(9), key="k")
    assert again == Recorded(first.events, first.version, already=True)
    await store.close()


async def test_an_account_that_was_removed_begins_anew(reopen: Reopen) -> None:
    """Although the same decision under the same key has the same event ids."""
    id, store = uuid4().hex, await reopen()
    stream = StreamName.of("account", id)
    for _ in range(3):
        accounts = Repository(store, Account)
        recorded = await accounts.execute(id, deposit(10), key="k")
        assert (recorded.version, recorded.already) == (0, False)
        assert (await accounts.execute(id, withdraw(3), key="l")).version == 1
        assert (await accounts.load(id)).balance == 7
        assert await store.remove([Removal(stream, 1)]) == [stream]
        other: EventStore = await reopen()
        assert not (await Repository(other, Account).load(id)).exists
        await other.close()
    await store.close()


async def test_each_key_once_while_everything_goes_wrong(esdb_double: ProtocolDouble) -> None:
    faults = {
        Fault.DROP_BEFORE: 0.05,
        Fault.DROP_AFTER: 0.1,
        Fault.TIMEOUT_AFTER: 0.1,
        Fault.NOT_READY: 0.05,
        Fault.STALL_AFTER: 0.02,
        Fault.LATE: 0.02,
    }
    reads = {Fault.DROP_BEFORE: 0.05, Fault.NOT_READY: 0.05}
    esdb_double.faults.by_chance(1, {Call.APPEND: faults, Call.READ: reads})
    store = EventStoreDb(StoreAddress.parse(esdb_double.uri), timeout_s=0.4)

    async def insist(accounts: Repository[Account], id: str, n: int) -> None:
        while True:
            try:
                await accounts.execute(id, deposit(n), key=f"k{n}", attempts_max=100)
            except (StoreUnavailable, AppendOutcomeUnknown):
                continue
            return

    accounts = [Repository(store, Account) for _ in range(2)]
    ids = [uuid4().hex for _ in range(4)]
    await asyncio.wait_for(
        asyncio.gather(
            *(insist(accounts[n % 2], id, n % 8) for id in ids for n in range(16)),
        ),
        60,
    )
    esdb_double.faults.stop()
    for id in ids:
        loaded = await accounts[0].load(id)
        assert (loaded.version, loaded.balance) == (7, 28)
    await store.close()
    assert esdb_double.faults.happened.keys() >= faults.keys() - {Fault.LATE, Fault.STALL_AFTER}

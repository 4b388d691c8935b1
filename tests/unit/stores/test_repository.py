"""One decision, one effect: a repeat returns what is on record."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amends.domain.aggregate import Aggregate
from amends.domain.envelope import decode_metadata
from amends.errors import (
    DefinitionError,
    InvalidJournal,
    InvalidPayload,
    PayloadTooLarge,
    UsageError,
)
from amends.stores import repository as module
from amends.stores.repository import Recorded, Repository
from tests.unit.stores.accounts import (
    Account,
    Deposited,
    Noted,
    Overdrawn,
    Store,
    Withdrawn,
    deposit,
    withdraw,
)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def accounts(store: Store) -> Repository[Account]:
    return Repository(store, Account)


# --- deciding ----------------------------------------------------------------------------------


async def test_what_was_decided_is_what_is_loaded(accounts: Repository[Account]) -> None:
    assert not (await accounts.load("1")).exists
    assert await accounts.execute("1", deposit(10)) == ((Deposited(amount=10),), 0, False)
    done = await accounts.execute("1", withdraw(3, "a", "b"))
    assert done.events == (Withdrawn(amount=3), Noted(text="a"), Noted(text="b"))
    assert (done.version, done.already) == (3, False)
    for loaded in (await accounts.load("1"), await Repository(accounts._store, Account).load("1")):
        assert (loaded.version, loaded.balance, loaded.notes) == (3, 7, ["a", "b"])


async def test_a_refusal_leaves_no_trace(accounts: Repository[Account], store: Store) -> None:
    await accounts.execute("1", deposit(10))
    with pytest.raises(Overdrawn):
        await accounts.execute("1", withdraw(11, "seen by nobody"), key="k")
    assert len(store.log()) == 1
    loaded = await accounts.load("1")
    assert (loaded.balance, loaded.notes, loaded.pending) == (10, [], ())
    assert await accounts.recorded("1", "k") is None


async def test_a_loaded_one_is_the_callers_own(accounts: Repository[Account]) -> None:
    await accounts.execute("1", deposit(10))
    loaded = await accounts.load("1")
    loaded.withdraw(5, "mine")
    again = await accounts.load("1")
    assert (again.balance, again.notes) == (10, [])


async def test_a_decision_that_breaks_the_rules_spoils_its_own_copy_only(
    accounts: Repository[Account],
) -> None:
    def cheat(account: Account) -> None:
        account.notes.append("no event carries this")

    assert await accounts.execute("1", cheat) == ((), -1, False)
    assert (await accounts.load("1")).notes == []


async def test_an_unwritable_event_is_refused_whole(
    accounts: Repository[Account], store: Store
) -> None:
    def decide(account: Account) -> None:
        account.record(Noted(text="fine"))
        account.record(Withdrawn(amount=1, fee=float("nan")))

    with pytest.raises(InvalidPayload, match="fee: NaN"):
        await accounts.execute("1", decide)
    assert store.log() == []
    assert (await accounts.load("1")).balance == 0


async def test_a_decision_is_synchronous(accounts: Repository[Account]) -> None:
    async def decide(account: Account) -> None:
        account.deposit(1)

    with pytest.raises(UsageError, match="a decision is synchronous"):
        await accounts.execute("1", decide)


async def test_a_decision_fits_into_one_append(accounts: Repository[Account], store: Store) -> None:
    with pytest.raises(PayloadTooLarge, match="one append holds 1000000"):
        await accounts.execute("1", withdraw(0, "x" * 999_900))
    assert store.log() == []


@pytest.mark.parametrize("key", ["", "a\n", "x" * 401])
async def test_a_bad_key_is_refused(accounts: Repository[Account], key: str) -> None:
    with pytest.raises(UsageError, match="cannot be an idempotency key"):
        await accounts.execute("1", deposit(1), key=key)


async def test_bad_arguments_are_refused(accounts: Repository[Account], store: Store) -> None:
    with pytest.raises(UsageError, match="cannot be an id"):
        await accounts.load("")
    with pytest.raises(UsageError, match="attempts_max"):
        await accounts.execute("1", deposit(1), attempts_max=0)
    with pytest.raises(DefinitionError, match="Aggregate declares no events"):
        Repository(store, Aggregate)


async def test_metadata_says_where_an_event_comes_from(
    accounts: Repository[Account], store: Store
) -> None:
    await accounts.execute("1", deposit(1), key="t/1/3", correlation_id="t/1", causation_id="m")
    await accounts.execute("1", deposit(1))
    keyed, unkeyed = map(decode_metadata, store.log())
    assert keyed == {
        "$correlationId": "t/1",
        "$causationId": "m",
        "schema": 1,
        "idempotencyKey": "t/1/3",
    }
    assert unkeyed["$correlationId"] == unkeyed["$causationId"]
    assert "idempotencyKey" not in unkeyed


# --- exactly once ------------------------------------------------------------------------------


async def test_a_repeat_finds_its_own_events(accounts: Repository[Account], store: Store) -> None:
    await accounts.execute("1", deposit(10))
    first = await accounts.execute("1", withdraw(3, "a"), key="k")
    await accounts.execute("1", deposit(5), key="other")
    await accounts.execute("1", deposit(5))
    restarted = Repository(store.sibling(), Account)
    for again in (accounts, restarted):
        repeat = await again.execute("1", withdraw(3, "a"), key="k")
        assert repeat == (first.events, first.version, True)
        assert await again.recorded("1", "k") == repeat
        assert (await again.load("1")).balance == 17
    assert len(store.log()) == 5


async def test_a_repeat_does_not_decide(accounts: Repository[Account]) -> None:
    await accounts.execute("1", deposit(10))
    await accounts.execute("1", withdraw(10), key="k")
    repeat = await accounts.execute("1", withdraw(10), key="k")  # would be overdrawn
    assert repeat.one(Withdrawn).amount == 10


async def test_no_two_events_have_one_id(accounts: Repository[Account], store: Store) -> None:
    for id in ("1", "2"):
        await accounts.execute(id, withdraw(0, "a", "a"), key="k")
        await accounts.execute(id, deposit(1))
        await accounts.execute(id, deposit(1))
    ids = [event.id for event in await store.read_all()]
    assert len(set(ids)) == len(ids) == 10


async def test_a_key_counts_for_its_own_stream(accounts: Repository[Account]) -> None:
    one = await accounts.execute("1", deposit(1), key="k")
    two = await accounts.execute("2", deposit(1), key="k")
    assert (one.already, two.already) == (False, False)


async def test_a_refused_key_may_be_used_again(accounts: Repository[Account]) -> None:
    with pytest.raises(Overdrawn):
        await accounts.execute("1", withdraw(1), key="k")
    await accounts.execute("1", deposit(1))
    assert not (await accounts.execute("1", withdraw(1), key="k")).already


async def test_a_step_that_must_not_happen_any_more_is_stopped_by_its_own_key(
    accounts: Repository[Account], store: Store
) -> None:
    await accounts.execute("1", deposit(10))
    await accounts.execute("1", lambda it: it.record(Noted(text="cancelled")), key="t/1/3")
    late = await Repository(store.sibling(), Account).execute("1", withdraw(3), key="t/1/3")
    assert late.events == (Noted(text="cancelled"),)
    with pytest.raises(InvalidJournal, match=r"one Withdrawn was wanted of .* recorded Noted"):
        late.one(Withdrawn)
    assert (await accounts.load("1")).balance == 10


async def test_a_decision_of_many_pages_is_read_back_whole(
    accounts: Repository[Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_EVENTS_MAX", 3)
    await accounts.execute("1", deposit(10))
    for count in range(8):
        notes = [f"{count}/{number}" for number in range(count)]
        first = await accounts.execute("1", withdraw(0, *notes), key=f"k{count}")
        assert len(first.events) == count + 1
    again = Repository(accounts._store, Account)
    for count in range(8):
        repeat = await again.recorded("1", f"k{count}")
        assert repeat is not None
        assert [event.text for event in repeat.events[1:] if isinstance(event, Noted)] == [
            f"{count}/{number}" for number in range(count)
        ]


async def test_one_of_several_is_no_receipt() -> None:
    two = Recorded((Noted(text="a"), Noted(text="b")), 1, already=False)
    with pytest.raises(InvalidJournal, match="recorded Noted, Noted"):
        two.one(Noted)
    with pytest.raises(InvalidJournal, match="recorded no event"):
        Recorded((), 1, already=False).one(Noted)


async def test_deciding_otherwise_under_one_key_is_no_repeat(store: Store) -> None:
    """Two processes decide at the same version under one key, and not alike: the slower one must
    be told what the faster one recorded, not that its own decision stands."""
    slow, fast = Repository(store, Account), Repository(store.sibling(), Account)
    store.gate = asyncio.Event()
    late = asyncio.create_task(slow.execute("1", deposit(1), key="k"))
    await store.at_gate.wait()
    await fast.execute("1", deposit(2), key="k")
    store.gate.set()
    assert await late == ((Deposited(amount=2),), 0, True)
    assert (await slow.load("1")).balance == 2


# --- the cache ---------------------------------------------------------------------------------


async def test_a_cached_one_costs_its_tail(accounts: Repository[Account], store: Store) -> None:
    for _ in range(20):
        await accounts.execute("1", deposit(1))
    await Repository(store.sibling(), Account).execute("1", deposit(1))
    store.read_events = 0
    await accounts.execute("1", deposit(1))
    assert store.read_events == 1


async def test_the_cache_is_bounded_by_use(store: Store) -> None:
    accounts = Repository(store, Account, cache_max=2)
    for id in ("1", "2", "3", "1"):
        await accounts.execute(id, deposit(1))
    assert list(accounts._slots) == ["3", "1"]
    await accounts.load("3")
    await accounts.load("2")
    assert list(accounts._slots) == ["3", "2"]


async def test_what_is_in_use_is_not_dropped(store: Store) -> None:
    accounts = Repository(store, Account, cache_max=0)
    first, second = (
        asyncio.create_task(accounts.execute("1", deposit(1), attempts_max=1)) for _ in range(2)
    )
    await first
    assert not second.done()
    third = await accounts.execute("1", deposit(1), attempts_max=1)
    assert ((await second).version, third.version) == (1, 2)
    assert not accounts._slots


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "3"]),
            st.integers(-3, 5),
            st.none() | st.sampled_from(["k", "l"]),
            st.booleans(),
        ),
        max_size=20,
    )
)
async def test_a_cached_one_equals_one_that_is_loaded(
    calls: list[tuple[str, int, str | None, bool]],
) -> None:
    store = Store()
    cached, other = Repository(store, Account, cache_max=2), Repository(store, Account)
    for id, amount, key, by_other in calls:
        repository = other if by_other else cached
        decide = deposit(amount) if amount > 0 else withdraw(-amount, "note")
        with suppress(Overdrawn):
            await repository.execute(id, decide, key=key)
    for id in ("1", "2", "3"):
        known, fresh = await cached.load(id), await Repository(store, Account).load(id)
        assert (known.version, known.balance, known.notes) == (
            fresh.version,
            fresh.balance,
            fresh.notes,
        )
        assert known.balance >= 0

"""One decision, one effect: whatever happens on the way, and whoever else is at it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from amends.domain.envelope import decode_metadata
from amends.errors import (
    AppendOutcomeUnknown,
    DecodeError,
    InvalidJournal,
    StoreError,
    StoreUnavailable,
    UnknownEventType,
    WrongExpectedVersion,
)
from amends.stores import repository as module
from amends.stores.memory import MemoryStore
from amends.stores.repository import Recorded, Repository
from tests.unit.stores.accounts import (
    DOWN,
    STREAM,
    UNKNOWN,
    Account,
    Chaos,
    Deposited,
    Noted,
    Overdrawn,
    Store,
    deposit,
    opening,
    raises,
    withdraw,
)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def accounts(store: Store) -> Repository[Account]:
    return Repository(store, Account)


# --- races and faults --------------------------------------------------------------------------


async def test_a_lost_race_is_decided_again_on_the_tail(store: Store) -> None:
    ours, theirs = Repository(store, Account), Repository(store.sibling(), Account)
    for _ in range(50):
        await ours.execute("1", deposit(1))
    await theirs.load("1")
    store.read_events = 0
    seen: list[int] = []

    def decide(account: Account) -> None:
        seen.append(account.balance)
        account.withdraw(50)
        if len(seen) == 1:
            account.record(Noted(text="first try"))

    store.gate = asyncio.Event()
    race = asyncio.create_task(ours.execute("1", decide))
    await store.at_gate.wait()
    await theirs.execute("1", withdraw(10))
    store.gate.set()
    with pytest.raises(Overdrawn):
        await race
    assert seen == [50, 40]
    assert store.read_events == 1  # the tail, not the stream
    assert (await ours.load("1")).notes == []


async def test_attempts_are_bounded(accounts: Repository[Account], store: Store) -> None:
    lost = WrongExpectedVersion(STREAM, 0, 1)
    store.before_append = [raises(lost)] * 3
    with pytest.raises(WrongExpectedVersion):
        await accounts.execute("1", deposit(1), attempts_max=3)
    assert (await accounts.execute("1", deposit(1), attempts_max=1)).version == 0


async def test_calls_for_one_id_wait_for_each_other(
    accounts: Repository[Account],
) -> None:
    calls = [accounts.execute("1", deposit(1), attempts_max=1) for _ in range(50)]
    done = await asyncio.gather(*calls)
    assert [one.version for one in done] == list(range(50))
    assert (await accounts.load("1")).balance == 50


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [UNKNOWN]),  # it was written
        ([UNKNOWN], []),  # it was not
        ([UNKNOWN, UNKNOWN], [UNKNOWN]),
        ([UNKNOWN, DOWN], [UNKNOWN]),
    ],
)
async def test_an_unknown_outcome_is_found_out(
    accounts: Repository[Account],
    store: Store,
    key: str | None,
    before: list[Exception],
    after: list[Exception],
) -> None:
    store.before_append = [raises(error) for error in before]
    store.after_append = [raises(error) for error in after]
    done = await accounts.execute("1", deposit(1), key=key)
    assert done == ((Deposited(amount=1),), 0, False)
    assert len(store.log()) == 1
    assert (await accounts.load("1")).balance == 1


async def test_what_is_found_on_record_is_not_sent_again(
    accounts: Repository[Account], store: Store
) -> None:
    store.after_append = [raises(UNKNOWN), raises(AssertionError("sent again"))]
    assert (await accounts.execute("1", deposit(1))).version == 0


async def test_an_unknown_append_of_which_another_came_first_is_decided_again(
    store: Store,
) -> None:
    ours, theirs = Repository(store, Account), Repository(store.sibling(), Account)
    racing: list[asyncio.Task[Recorded]] = []

    def another_comes_first() -> None:
        racing.append(asyncio.create_task(theirs.execute("1", deposit(100))))
        raise UNKNOWN

    store.before_append = [another_comes_first]
    done = await ours.execute("1", deposit(1))
    await asyncio.gather(*racing)
    assert sorted(event.version for event in store.log()) == [0, 1]
    assert done.events == (Deposited(amount=1),)
    assert (await ours.load("1")).balance == 101


async def test_what_stays_unknown_is_said_and_a_repeat_finds_out(
    accounts: Repository[Account], store: Store
) -> None:
    store.before_append = [raises(UNKNOWN)] * 2 + [raises(DOWN)] * (module.APPEND_TRIES_MAX - 2)
    with pytest.raises(AppendOutcomeUnknown):
        await accounts.execute("1", deposit(1), key="k")
    assert not (await accounts.execute("1", deposit(1), key="k")).already
    assert len(store.log()) == 1


async def test_a_store_that_is_down_wrote_nothing(
    accounts: Repository[Account], store: Store
) -> None:
    store.before_append = [raises(DOWN)]
    with pytest.raises(StoreUnavailable):
        await accounts.execute("1", deposit(1))
    assert (await accounts.load("1")).version == -1


async def test_a_cancelled_call_may_have_happened_and_its_repeat_knows(
    accounts: Repository[Account], store: Store
) -> None:
    store.gate = asyncio.Event()
    running = asyncio.create_task(accounts.execute("1", deposit(1), key="k"))
    await store.at_gate.wait()
    running.cancel()
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    sent = Repository(store.sibling(), Account)
    await sent.execute("1", deposit(1), key="k")  # the request had left already
    assert (await accounts.execute("1", deposit(1), key="k")).already
    assert (await accounts.load("1")).balance == 1


async def until_done(
    processes: Sequence[Chaos],
    old: Sequence[Repository[Account]],
    rng: random.Random,
    key: str,
    receipts: dict[str, set[str]],
) -> None:
    """Redeliver one command to processes that crash, until one reports; then once more."""
    reports = 0
    while reports < 2:
        # A process that was just started, or one with whatever its cache has become.
        repository = rng.choice([Repository(rng.choice(processes), Account), *old])
        decide = withdraw(1, f"{key} by {rng.random()}")  # no two attempts decide alike
        call = asyncio.create_task(repository.execute("1", decide, key=key))
        if rng.random() < 0.3:
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0)
            call.cancel()
        try:
            done = await call
        except (asyncio.CancelledError, StoreError):
            continue
        reports += 1
        receipts.setdefault(key, set()).add(done.one(Noted).text)


@pytest.mark.parametrize("seed", range(40))
async def test_every_command_has_one_effect_in_a_bad_world(seed: int) -> None:
    rng = random.Random(seed)
    first = Chaos(rng)
    processes = [first, *(Chaos(rng).seen_by(first) for _ in range(2))]
    old = [Repository(process, Account, cache_max=1) for process in processes]
    await MemoryStore.append(first, opening())
    receipts: dict[str, set[str]] = {}
    keys = [f"transfer/{number}/1" for number in range(6)]
    await asyncio.gather(
        *(until_done(processes, old, rng, key, receipts) for key in [*keys, *keys])
    )
    for process in processes:
        await asyncio.gather(*process.late)

    under = [decode_metadata(event).get("idempotencyKey") for event in first.log()[1:]]
    assert sorted(map(str, under)) == sorted([*keys, *keys])  # two events each, of one append
    assert under[::2] == under[1::2]
    assert {key: len(texts) for key, texts in receipts.items()} == dict.fromkeys(keys, 1)
    loaded = await Repository(MemoryStore.reopened(first), Account).load("1")
    assert loaded.balance == 100 - len(keys)
    for repository in old:  # a cache agrees with the log, whatever it went through
        cached = await _load(repository)
        assert (cached.version, cached.balance) == (loaded.version, loaded.balance)
        assert cached.notes == loaded.notes
    assert {note for notes in receipts.values() for note in notes} == set(loaded.notes)


async def _load(repository: Repository[Account]) -> Account:
    while True:
        try:
            return await repository.load("1")
        except StoreUnavailable:
            continue


# --- streams that are not as they should be ----------------------------------------------------


def lose(store: Store, version: int) -> None:
    del store.log()[version]


async def test_a_gap_is_no_state(accounts: Repository[Account], store: Store) -> None:
    for _ in range(3):
        await accounts.execute("1", deposit(1), key="k")
        await accounts.execute("1", deposit(1))
    lose(store, 1)
    fresh = Repository(store, Account)
    for call in (fresh.load("1"), fresh.execute("1", deposit(1)), fresh.recorded("1", "k")):
        with pytest.raises(InvalidJournal, match="has version 2 where 1 should be"):
            await call
    assert (await accounts.load("2")).version == -1


async def test_a_gap_inside_a_decision_is_no_receipt(
    accounts: Repository[Account], store: Store
) -> None:
    await accounts.execute("1", withdraw(0, "a", "b"), key="k")
    lose(store, 1)
    store.log().insert(1, store.log()[0])
    with pytest.raises(InvalidJournal, match="has version 0 where 1 should be"):
        await accounts.recorded("1", "k")


async def test_an_event_of_a_newer_program_is_not_skipped(
    accounts: Repository[Account], store: Store
) -> None:
    await accounts.execute("1", deposit(1))
    store.log()[0] = store.log()[0]._replace(type="Frozen")
    for _ in range(2):
        with pytest.raises(UnknownEventType, match="'Frozen'"):
            await Repository(store, Account).load("1")


async def test_a_load_that_fails_half_way_begins_anew(
    accounts: Repository[Account], store: Store
) -> None:
    await accounts.execute("1", deposit(7), key="k")
    await Repository(store.sibling(), Account).execute("1", withdraw(0, "fine"))
    good = store.log()[2]
    store.log()[2] = good._replace(data=b'{"text":"poison"}')
    with pytest.raises(ZeroDivisionError):
        await accounts.load("1")
    store.log()[2] = good._replace(data=b"{")
    with pytest.raises(DecodeError):
        await accounts.load("1")
    store.log()[2] = good
    loaded = await accounts.load("1")
    assert (loaded.balance, loaded.notes) == (7, ["fine"])
    assert (await accounts.execute("1", deposit(7), key="k")).already


async def test_events_of_others_count_too(accounts: Repository[Account], store: Store) -> None:
    """A record without metadata, or with a key that is no text, is an event all the same."""
    await store.append(opening())
    await accounts.execute("1", deposit(1))
    store.log()[1] = store.log()[1]._replace(metadata=b'{"idempotencyKey":[5]}')
    assert (await Repository(store, Account).load("1")).balance == 101

"""Every inbox has one owner, the load is even, and all who heard the same agree."""

from __future__ import annotations

import random
from collections import Counter
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amends.broker.rabbitmq.ownership import GONE_AFTER_S, Members, Presence, carriers, owners
from amends.broker.topology import inbox_queue

quick = settings(max_examples=200, deadline=None, derandomize=True)

names = st.text("abcdef0123456789", min_size=1, max_size=8)
inboxes = st.frozensets(st.integers(0, 11).map(inbox_queue))
wants = st.dictionaries(names, inboxes, min_size=1, max_size=6)


def partitions(count: int) -> frozenset[str]:
    return frozenset(inbox_queue(n) for n in range(count))


@quick
@given(wants)
def test_every_queue_has_one_owner_who_wants_it(wanted: dict[str, frozenset[str]]) -> None:
    owner = owners(wanted)
    assert owner.keys() == frozenset[str]().union(*wanted.values())
    assert all(queue in wanted[member] for queue, member in owner.items())


@quick
@given(st.sets(names, min_size=1, max_size=9), st.integers(1, 40))
def test_members_that_want_the_same_have_the_same_load(members: set[str], count: int) -> None:
    loads = Counter(owners(dict.fromkeys(members, partitions(count))).values())
    assert {loads[member] for member in members} <= {
        count // len(members),
        -(-count // len(members)),
    }


@quick
@given(wants)
def test_what_the_same_members_want_is_spread_evenly(wanted: dict[str, frozenset[str]]) -> None:
    owner = owners(wanted)
    for queue in owner:
        wanting = {member for member in wanted if queue in wanted[member]}
        alike = {q for q in owner if {m for m in wanted if q in wanted[m]} == wanting}
        loads = Counter(owner[q] for q in alike)
        assert max(loads.values()) - min(loads[member] for member in wanting) <= 1


@quick
@given(wants, names, inboxes)
def test_a_deployment_with_other_inboxes_has_no_part_in_it(
    wanted: dict[str, frozenset[str]], stranger: str, others: frozenset[str]
) -> None:
    wanted.pop(stranger, None)
    before = owners(wanted)
    after = owners(wanted | {stranger: others - before.keys()})
    assert before.items() <= after.items()


@quick
@given(wants)
def test_what_goes_through_another_inbox_reaches_the_same_owner(
    wanted: dict[str, frozenset[str]],
) -> None:
    owner = owners(wanted)
    shares = [{queue for queue in owner if owner[queue] == member} for member in wanted]
    through = carriers(shares)
    assert through.keys() == owner.keys()
    assert all(owner[carrier] == owner[inbox] for inbox, carrier in through.items())
    assert len(set(through.values())) == len(set(owner.values()))


@quick
@given(wants, st.randoms(use_true_random=False))
def test_members_who_heard_the_same_agree_in_whatever_order(
    wanted: dict[str, frozenset[str]], rng: random.Random
) -> None:
    shares: dict[str, frozenset[str]] = {}
    for me, mine in wanted.items():
        members = Members(me)
        for name in rng.sample(sorted(wanted), len(wanted)):
            members.heard(Presence(name, partitions(20)), at=1.0)  # an older wish
        for name in rng.sample(sorted(wanted), len(wanted)):
            members.heard(Presence(name, wanted[name]), at=2.0)
        shares[me] = members.share(mine, at=5.9)
    assert {queue: me for me, share in shares.items() for queue in share} == owners(wanted)
    assert sum(map(len, shares.values())) == len(owners(wanted))


def test_it_is_the_same_in_every_process_and_version() -> None:
    # Engines of two versions run side by side while one replaces the other.
    wanted = dict.fromkeys(["one", "two", "three"], partitions(8))
    owned = {m: {int(q[6:]) for q, o in owners(wanted).items() if o == m} for m in wanted}
    assert owned == {"one": {2, 4, 7}, "two": {0, 1, 3}, "three": {5, 6}}


def test_a_member_that_is_silent_for_too_long_has_gone() -> None:
    members = Members("me")
    members.heard(Presence("other", partitions(4)), at=10.0)
    assert len(members.share(partitions(4), at=10.0)) == 2
    assert [other.member for other in members.living(at=13.99)] == ["other"]
    assert len(members.share(partitions(4), at=13.99)) == 2
    assert members.living(at=10 + GONE_AFTER_S) == []
    assert members.share(partitions(4), at=10 + GONE_AFTER_S) == partitions(4)
    members.heard(Presence("other", partitions(4)), at=20.0)
    assert len(members.share(partitions(4), at=20.0)) == 2


def test_each_word_of_a_member_counts_until_the_next() -> None:
    members = Members("me")
    for second in range(10):
        members.heard(Presence("other", partitions(second)), at=float(second))
        members.heard(Presence("third", frozenset()), at=float(second))
    assert members.living(at=10.0) == [
        Presence("other", partitions(9)),
        Presence("third", frozenset()),
    ]


def test_a_member_that_says_goodbye_has_gone_at_once() -> None:
    members = Members("me")
    members.heard(Presence("other", partitions(4)), at=10.0)
    members.left("other")
    members.left("somebody who was never here")
    assert members.share(partitions(4), at=10.0) == partitions(4)


def test_what_i_would_own_is_what_i_ask_for_and_not_an_echo_of_what_i_said() -> None:
    members = Members("me")
    members.heard(Presence("me", partitions(4)), at=0.0)
    assert members.living(at=0.0) == []
    assert members.share([], at=0.0) == frozenset()
    assert members.share(partitions(2), at=0.0) == partitions(2)


def test_those_who_have_gone_are_not_remembered() -> None:
    members = Members("me")
    for n in range(1000):
        members.heard(Presence(f"passer-by {n}", frozenset()), at=float(n))
    assert len(members._heard) == GONE_AFTER_S


@pytest.mark.parametrize(
    ("count", "members"),
    # How many move on average, of how many that would have to:
    [
        (8, 1),  # 4.0 of 4.0
        (8, 2),  # 3.1 of 2.7
        (8, 4),  # 2.0 of 1.6
        (8, 8),  # 1.4 of 0.9
        (64, 2),  # 22.4 of 21.3
        (64, 4),  # 15.2 of 12.8
        (64, 16),  # 6.6 of 3.8
        (256, 4),  # 57.0 of 51.2
        (256, 16),  # 24.9 of 15.1
    ],
)
def test_few_queues_move_when_a_member_comes_or_goes(count: int, members: int) -> None:
    moved = []
    for seed in range(20):
        rng = random.Random(seed)
        names = [f"{rng.getrandbits(64):x}" for _ in range(members + 1)]
        with_it = owners(dict.fromkeys(names, partitions(count)))
        without = owners(dict.fromkeys(names[1:], partitions(count)))
        moved.append(sum(with_it[queue] != without[queue] for queue in with_it))
    fair = count / (members + 1)
    assert mean(moved) <= 2 * fair, f"{mean(moved)} of {fair}"
    assert max(moved) <= 2 * fair + 3, f"{max(moved)} of {fair}"

"""Which member owns which inbox: from who lives and wants it, and from nothing else. Pure.

Every member decides alone, and all who have heard the same decide the same. While they have not,
an inbox may have two owners for a moment, or none: its single active consumer lets one of them in,
and the version that an append expects guards the journals. Ownership spreads load; nothing that
must be right rests on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

#: A member that was not heard for so long has gone.
GONE_AFTER_S: Final = 4.0


class Presence(NamedTuple):
    """What a member says of itself: a name that no other process ever has, and the (logical) names
    of the inboxes that it would own.
    """

    member: str
    inboxes: frozenset[str]


class Members:
    """The members that one of them has heard of.

    `at` is in seconds of its own clock, which never goes back.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self._heard: dict[str, tuple[float, Presence]] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        self._owners: dict[str, str] = {}

    def heard(self, presence: Presence, at: float) -> None:
        """A member says that it lives. What it said before does not count any more."""
        if presence.member != self._me:
            self._heard[presence.member] = (at, presence)
        living = {other.member for other in self.living(at)}
        self._heard = {name: told for name, told in self._heard.items() if name in living}

    def left(self, member: str) -> None:
        """A member says goodbye."""
        self._heard.pop(member, None)

    def living(self, at: float) -> list[Presence]:
        """The other members that live, by name."""
        told = [presence for when, presence in self._heard.values() if at - when < GONE_AFTER_S]
        return sorted(told, key=lambda presence: presence.member)

    def share(self, queues: Collection[str], at: float) -> frozenset[str]:
        """Which of `queues` are mine, when I would own all of them."""
        wanted = {presence.member: presence.inboxes for presence in self.living(at)}
        wanted[self._me] = frozenset(queues)
        if wanted != self._wanted:
            self._wanted, self._owners = wanted, owners(wanted)
        return frozenset(queue for queue in queues if self._owners[queue] == self._me)


def owners(wanted: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The owner of each queue, given what each member would own: always one of those who want it.

    The queues that the same members want are spread evenly: of these, no member has more than one
    more than another. Who wants none of them has no part in it.
    """
    wanting: dict[str, set[str]] = defaultdict(set)
    for member, queues in wanted.items():
        for queue in queues:
            wanting[queue].add(member)
    alike: dict[frozenset[str], list[str]] = defaultdict(list)
    for queue, members in wanting.items():
        alike[frozenset(members)].append(queue)
    return {
        queue: owner
        for members, queues in alike.items()
        for queue, owner in _spread(queues, members).items()
    }


def carriers(served: Iterable[Collection[str]]) -> dict[str, str]:
    """For each inbox that somebody serves, given what each member serves: the first of the same
    member's. What goes there reaches the same member, and all that goes there can go together.
    """
    return {inbox: min(share) for share in served for inbox in share}


def _spread(queues: Collection[str], members: Collection[str]) -> dict[str, str]:
    """Rendezvous hashing with room for so many: of all pairs of a queue and a member, the one with
    the lowest score comes together, then the next whose queue is free and whose member has room.

    A member that comes or goes is given, or leaves, its fair share. Others change too, because all
    must stay full: about as many again among many members, few among few (a test has the figures).
    """
    fair, left_over = divmod(len(queues), len(members))
    loads = dict.fromkeys(members, 0)
    owner: dict[str, str] = {}
    for _, queue, member in sorted((_score(q, m), q, m) for q in queues for m in members):
        room = loads[member] < fair or (loads[member] == fair and left_over > 0)
        if queue in owner or not room:
            continue
        left_over -= loads[member] == fair
        loads[member] += 1
        owner[queue] = member
    return owner


def _score(queue: str, member: str) -> bytes:
    """The same in every process, as Python's own hash is not."""
    return blake2b(f"{queue}\0{member}".encode(), digest_size=8).digest()

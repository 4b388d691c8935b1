"""How the protocol double misbehaves when it is told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum, auto
from random import Random


class Call(Enum):
    """What a fault can strike. EVENT is an event on its way to any subscription."""

    APPEND = auto()
    DELETE = auto()
    READ = auto()
    SUBSCRIBE = auto()
    EVENT = auto()
    GOSSIP = auto()


class Fault(Enum):
    """What can happen. Effects are those of appends, deletes and tombstones."""

    DROP_BEFORE = auto()  # the call fails as with a lost connection, and had no effect
    DROP_AFTER = auto()  # ... and had its effect
    STALL_BEFORE = auto()  # no answer before the deadline, no effect
    STALL_AFTER = auto()  # no answer before the deadline; the effect is there at once
    LATE = auto()  # no answer before the deadline; the effect comes after it
    NOT_READY = auto()  # "Server Is Not Ready", no effect
    TIMEOUT_AFTER = auto()  # the server says that it timed out; the effect is there
    NEW_LEADER = auto()  # another node leads from now on; this call finds that out
    CUT = auto()  # every connection of the node breaks; it listens again at once
    END = auto()  # a subscription ends as if it were finished
    ABORT = auto()  # a subscription fails
    TOO_SLOW = auto()  # a subscription is dropped: "Consumer too slow"


class Faults:
    """Which call meets which fault: said beforehand, by number or by chance.

    Calls are counted from the start, each kind apart. A node without a second one ignores
    NEW_LEADER.
    """

    def __init__(self) -> None:
        self.calls: Counter[Call] = Counter()
        self.happened: Counter[Fault] = Counter()
        self.unavailable = False
        #: How long after its call the effect of a LATE one comes, in seconds.
        self.late_after_s = 0.3
        self._planned: dict[tuple[Call, int], Fault] = {}
        self._random = Random(0)
        self._chances: dict[Call, Mapping[Fault, float]] = {}

    def next(self, call: Call, fault: Fault, *, skip: int = 0, times: int = 1) -> None:
        """Strike the next call of a kind, or `times` of them after `skip` more."""
        first = self.calls[call] + 1 + skip
        for number in range(first, first + times):
            self._planned[call, number] = fault

    def by_chance(self, seed: int, chances: Mapping[Call, Mapping[Fault, float]]) -> None:
        """Strike calls at random: per kind, each fault with its probability."""
        self._random = Random(seed)
        self._chances = dict(chances)

    def stop(self) -> None:
        """Behave from now on."""
        self._planned.clear()
        self._chances.clear()
        self.unavailable = False

    def draw(self, call: Call) -> Fault | None:
        """Count a call, and say what strikes it."""
        self.calls[call] += 1
        fault = self._planned.pop((call, self.calls[call]), None) or self._by_chance(call)
        if fault is not None:
            self.happened[fault] += 1
        return fault

    def _by_chance(self, call: Call) -> Fault | None:
        if not (chances := self._chances.get(call)):
            return None
        drawn = self._random.random()
        for fault, chance in chances.items():
            if (drawn := drawn - chance) < 0:
                return fault
        return None

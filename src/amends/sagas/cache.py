"""Which instances stay live between turns. Only a matter of cost: each can be read back at any time.

Keeping one costs memory; dropping one costs the replay of its journal when it is wanted again.
So it is the longer kept the longer its journal is, by the reasoning of the five-minute rule (Gray
and Putzolu, 1987): what is wanted less often than its memory is worth is not kept at all.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from amends.domain.ids import InstanceId

if TYPE_CHECKING:
    from amends.sagas.turn import Live

#: What an instance waits for takes memory too. One that waits for a signal takes 8 KB, each step
#: that it waits for 3.5 KB more, each timer 2 KB.
_WAITS_PER_PLACE: Final = 3
#: One instance takes this part of all places at most.
_SHARE_MAX: Final = 4
#: A journal of so many events gives a second chance before the instance is dropped, one of twice
#: as many a third, and so on.
_EVENTS_PER_CHANCE: Final = 32


class _Entry:
    __slots__ = ("chances", "live", "places")

    def __init__(self, live: Live, places: int, chances: int) -> None:
        self.live = live
        self.places = places
        self.chances = chances


class LiveCache:
    """Live instances between their turns.

    `places_max` bounds it: an instance takes one place, and one more for every three things
    that it waits for at once. The longest unused one is dropped first, but a long journal gives it
    second chances. An instance that waits for nothing but timers (or backoffs) is dropped at once
    when the next is due in more than `wait_s_per_event` seconds for each event of its journal.
    """

    def __init__(self, *, places_max: int, wait_s_per_event: float) -> None:
        self._places_max = places_max
        # Dropping a wide one that gets many reports would mean as many replays.
        self._places_each_max = max(1, places_max // _SHARE_MAX)
        self._wait_per_event = timedelta(seconds=wait_s_per_event)
        self._places = 0
        self._entries: OrderedDict[InstanceId, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, instance: InstanceId) -> Live | None:
        """Take an instance out for its turn, if it is here."""
        entry = self._entries.pop(instance, None)
        if entry is None:
            return None
        self._places -= entry.places
        return entry.live

    def put(self, live: Live) -> None:
        """Keep an instance after its turn, or drop it; others may be dropped for it."""
        if not self._is_worth_keeping(live):
            live.discard()
            return
        assert live.execution is not None
        places = min(1 + live.execution.waits // _WAITS_PER_PLACE, self._places_each_max)
        chances = (live.state.version // _EVENTS_PER_CHANCE).bit_length()
        self._entries[live.state.instance] = _Entry(live, places, chances)
        self._places += places
        while self._places > self._places_max:
            self._drop_one()

    def clear(self) -> None:
        """Drop them all."""
        for entry in self._entries.values():
            entry.live.discard()
        self._entries.clear()
        self._places = 0

    def _is_worth_keeping(self, live: Live) -> bool:
        if live.execution is None or live.is_done or live.state.version < 0:
            return False
        due = live.execution.next_due()
        if due is None:
            return True
        # The time of its last input is as good as now, and asks no clock.
        return due - live.state.at <= self._wait_per_event * (live.state.version + 1)

    def _drop_one(self) -> None:
        instance, entry = self._entries.popitem(last=False)
        if entry.chances:
            entry.chances -= 1
            self._entries[instance] = entry
            return
        self._places -= entry.places
        entry.live.discard()

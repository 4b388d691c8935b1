"""What this process knows of streams: where they begin and how far they go on the server."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

#: Streams that are known at once, some 250 bytes each. Of others, the tail is read before an append.
PLACES_MAX: Final = 8192


class Place(NamedTuple):
    """A stream on the server: the number of its version 0, and that of its last event, which is
    `base - 1` when it has none.
    """

    base: int
    last: int

    @property
    def version(self) -> int:
        """The version of its last event, or -1."""
        return self.last - self.base


#: What is assumed of a stream of which nothing is known: that there is none.
NOWHERE: Final = Place(0, -1)


class Places:
    """What was seen of streams, of those that were used latest. Streams may have moved on since;
    what was seen of one was true at some time.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Place] = OrderedDict()

    def get(self, stream: str) -> Place:
        """What is known of a stream."""
        return self._known.get(stream, NOWHERE)

    def learn(self, stream: str, place: Place) -> None:
        """Note what was seen, unless something later was."""
        if place < self._known.get(stream, NOWHERE):
            return
        self._known[stream] = place
        self._known.move_to_end(stream)
        if len(self._known) > PLACES_MAX:
            self._known.popitem(last=False)

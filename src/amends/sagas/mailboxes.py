"""Mailboxes: the messages in hand for each instance, and which instances want a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from amends.domain.ids import InstanceId
from amends.sagas.turn import Inbound


class Mailbox:
    """What one instance has in hand, in order of arrival.

    `failures` counts the turns in a row that a store or a broker refused. `may_be_new` is false
    once it is known that the instance has a journal.
    """

    __slots__ = ("failures", "instance", "mail", "may_be_new")

    def __init__(self, instance: InstanceId) -> None:
        self.instance = instance
        self.mail: deque[Inbound] = deque()
        self.failures = 0
        self.may_be_new = True

    def take(self, limit: int) -> list[Inbound]:
        """The messages for one turn."""
        return [self.mail.popleft() for _ in range(min(len(self.mail), limit))]


class Mailboxes:
    """All mailboxes that are not empty, or in use.

    A mailbox is handed out by `next` and is then in use, so that the turns of one instance
    follow one another, until `give_back` or `drop`.
    """

    def __init__(self) -> None:
        self._boxes: dict[InstanceId, Mailbox] = {}
        self._ready: deque[Mailbox] = deque()

    def put(self, instance: InstanceId, inbound: Inbound) -> None:
        """A message has come."""
        box = self._boxes.get(instance)
        if box is None:
            box = self._boxes[instance] = Mailbox(instance)
            self._ready.append(box)
        box.mail.append(inbound)

    def next(self, limit: int) -> list[Mailbox]:
        """Mailboxes that have mail and are not in use, those that have waited longest."""
        return [self._ready.popleft() for _ in range(min(len(self._ready), limit))]

    def give_back(self, box: Mailbox, left: Sequence[Inbound] = ()) -> None:
        """A turn is over; what it left wants another one, before all that has come meanwhile."""
        box.mail.extendleft(reversed(left))
        if box.mail:
            self._ready.append(box)
        else:
            del self._boxes[box.instance]

    def drop(self, box: Mailbox) -> None:
        """Forget a mailbox and its mail, which the broker will deliver again."""
        del self._boxes[box.instance]

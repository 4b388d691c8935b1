"""Committing a turn: append, then publish, then acknowledge.

The orchestrator hands over the whole turn and does not know which of two ways it takes: one
after another on separate servers (here), or all at once in one transaction (the embedded
database).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from amends.broker.port import Broker, Delivery, Message
from amends.stores.port import Append, EventStore


class TurnCommit(NamedTuple):
    """What one turn leaves behind; any part may be empty."""

    append: Append | None
    publish: Sequence[Message]
    acknowledge: Sequence[Delivery]


class Committer(Protocol):
    """Makes turns durable."""

    async def commit(self, turn: TurnCommit) -> None:
        """Append, publish, acknowledge, so that a crash anywhere leaves either the deliveries
        unacknowledged or everything done.

        Raises whatever the append raises, in which case nothing was published or acknowledged;
        and BrokerUnavailable after the append, in which case the deliveries come again.
        """
        ...


class SequentialCommitter:
    """Three steps on a store and a broker that know nothing of each other."""

    def __init__(self, store: EventStore, broker: Broker) -> None:
        self._store = store
        self._broker = broker

    async def commit(self, turn: TurnCommit) -> None:
        """See `Committer.commit`."""
        if turn.append is not None:
            await self._store.append(turn.append)
        if turn.publish:
            await self._broker.publish(turn.publish)
        if turn.acknowledge:
            await self._broker.ack(turn.acknowledge)

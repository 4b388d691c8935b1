"""Committing a turn: append, then publish, then acknowledge.

The orchestrator hands over the whole turn and does not know which of two ways it takes: one
after another on separate servers (here), or all at once in one transaction (the embedded
database).
"""

from __future__ import annotations

import asyncio
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

    async def commit(self, turns: Sequence[TurnCommit]) -> list[Exception | None]:
        """Append, publish, acknowledge: each turn for itself, so that a crash anywhere leaves
        either its deliveries unacknowledged or everything done.

        What went wrong with each turn is returned in their order, None for what succeeded:
        whatever its append raised, and then nothing of it was published or acknowledged; or,
        after its append, BrokerUnavailable, and then its deliveries come again.
        """
        ...


class SequentialCommitter:
    """Three steps on a store and a broker that know nothing of each other."""

    def __init__(self, store: EventStore, broker: Broker) -> None:
        self._store = store
        self._broker = broker

    async def commit(self, turns: Sequence[TurnCommit]) -> list[Exception | None]:
        """See `Committer.commit`. The turns do not wait for one another."""
        return await asyncio.gather(*map(self._outcome, turns))

    async def _outcome(self, turn: TurnCommit) -> Exception | None:
        try:
            await self.commit_one(turn)
        except Exception as error:
            return error
        return None

    async def commit_one(self, turn: TurnCommit) -> None:
        """Append, then publish, then acknowledge."""
        if turn.append is not None:
            await self._store.append(turn.append)
        if turn.publish:
            await self._broker.publish(turn.publish)
        if turn.acknowledge:
            await self._broker.ack(turn.acknowledge)

"""Committing a turn: append, then publish, then acknowledge.

The orchestrator hands over the whole turn and does not know which of two ways it takes: one
after another on separate servers (here), or all at once in one transaction (the embedded
database).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from amends.broker.port import Broker, Delivery, Message
from amends.errors import UsageError
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
        after its append, what its publishing or acknowledging raised (BrokerUnavailable,
        BrokerClosed, UsageError for a message that cannot be published), and then its deliveries
        come again.
        """
        ...


#: Turns of a round, or what went wrong with them, by their number in it.
_Turns: TypeAlias = dict[int, TurnCommit]
_Errors: TypeAlias = dict[int, Exception]


class SequentialCommitter:
    """Three steps on a store and a broker that know nothing of each other."""

    def __init__(self, store: EventStore, broker: Broker) -> None:
        self._store = store
        self._broker = broker

    async def commit(self, turns: Sequence[TurnCommit]) -> list[Exception | None]:
        """See `Committer.commit`. All turns take each step together, and those that fail in one
        take no other.

        When the broker cannot be reached, this fails whichever turn had something for it; a message
        that cannot be published fails its own turn only.
        """
        errors: _Errors = {}
        for step in (self._append, self._publish, self._acknowledge):
            errors |= await step({n: turn for n, turn in enumerate(turns) if n not in errors})
        return [errors.get(n) for n in range(len(turns))]

    async def _append(self, turns: _Turns) -> _Errors:
        appends = {n: turn.append for n, turn in turns.items() if turn.append is not None}
        outcomes = await asyncio.gather(*map(self._outcome, appends.values()))
        return {n: error for n, error in zip(appends, outcomes, strict=True) if error is not None}

    async def _outcome(self, append: Append) -> Exception | None:
        try:
            await self._store.append(append)
        except Exception as error:
            return error
        return None

    async def _publish(self, turns: _Turns) -> _Errors:
        publishing = {n: turn for n, turn in turns.items() if turn.publish}
        if not publishing:
            return {}
        try:
            await self._broker.publish(
                [message for turn in publishing.values() for message in turn.publish]
            )
        except UsageError as error:
            if len(publishing) == 1:
                return dict.fromkeys(publishing, error)
        except Exception as error:
            return dict.fromkeys(publishing, error)
        else:
            return {}
        # The message is wrong, and not the broker: find out whose it is. Others may go out twice.
        errors: _Errors = {}
        for n, turn in publishing.items():
            errors |= await self._publish({n: turn})
        return errors

    async def _acknowledge(self, turns: _Turns) -> _Errors:
        acknowledging = {n: turn for n, turn in turns.items() if turn.acknowledge}
        if not acknowledging:
            return {}
        try:
            await self._broker.ack(
                [delivery for turn in acknowledging.values() for delivery in turn.acknowledge]
            )
        except Exception as error:
            return dict.fromkeys(acknowledging, error)
        return {}

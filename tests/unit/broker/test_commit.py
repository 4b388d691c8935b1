"""Committing a round on a store and a broker of their own: what fails with what."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from amends.broker.commit import SequentialCommitter, TurnCommit
from amends.broker.memory import MemoryBroker
from amends.broker.port import Delivery, Message
from amends.domain.ids import NO_STREAM, StreamName
from amends.errors import BrokerUnavailable, WrongExpectedVersion
from amends.stores.memory import MemoryStore
from amends.stores.port import Append
from amends.testing.clock import ManualClock
from amends.testing.contracts.data import new_events, new_message, new_messages

QUEUE, OTHER = "inbox.0", "commands.ledger"


class FailingBroker(MemoryBroker):
    """A broker that takes note of what it is asked for, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.asked: list[tuple[str, int]] = []
        self.failing = ""

    async def publish(self, messages: Sequence[Message]) -> None:
        self._ask("publish", len(messages))
        await super().publish(messages)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._ask("ack", len(deliveries))
        await super().ack(deliveries)

    def _ask(self, what: str, count: int) -> None:
        self.asked.append((what, count))
        if what == self.failing:
            raise BrokerUnavailable(f"no {what} today")


@pytest.fixture
async def broker() -> FailingBroker:
    broker = FailingBroker()
    await broker.declare([QUEUE, OTHER])
    return broker


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(ManualClock())


@pytest.fixture
def committer(store: MemoryStore, broker: FailingBroker) -> SequentialCommitter:
    return SequentialCommitter(store, broker)


async def turns(broker: FailingBroker) -> list[TurnCommit]:
    """Four turns: with all three parts, without messages, without deliveries, with an append only."""
    await broker.publish(new_messages(QUEUE, 3))
    one, two, three = await broker.consume(QUEUE, limit=10).receive()
    broker.asked.clear()
    appends = [Append(StreamName.of("saga.a", str(n)), new_events(1), NO_STREAM) for n in range(4)]
    return [
        TurnCommit(appends[0], [new_message(OTHER), new_message(OTHER)], [one]),
        TurnCommit(appends[1], [], [two, three]),
        TurnCommit(appends[2], [new_message(OTHER)], []),
        TurnCommit(appends[3], [], []),
    ]


async def in_hand(broker: FailingBroker) -> int:
    return {depth.queue: depth.ready for depth in await broker.depths()}[QUEUE]


async def test_a_round_asks_the_broker_twice(
    broker: FailingBroker, committer: SequentialCommitter
) -> None:
    assert await committer.commit(await turns(broker)) == [None] * 4
    assert broker.asked == [("publish", 3), ("ack", 3)]


async def test_nothing_is_asked_for_nothing(
    broker: FailingBroker, committer: SequentialCommitter
) -> None:
    assert await committer.commit([(await turns(broker))[3]]) == [None]
    assert broker.asked == []


async def test_when_nothing_can_be_published_those_fail_that_had_something_to_publish(
    broker: FailingBroker, committer: SequentialCommitter
) -> None:
    some = await turns(broker)
    broker.failing = "publish"
    outcomes = await committer.commit(some)
    assert [type(outcome) for outcome in outcomes] == [
        BrokerUnavailable, type(None), BrokerUnavailable, type(None),
    ]  # fmt: skip
    assert broker.asked == [("publish", 3), ("ack", 2)]
    assert await in_hand(broker) == 1


async def test_when_nothing_can_be_acknowledged_those_fail_that_had_something_in_hand(
    broker: FailingBroker, committer: SequentialCommitter
) -> None:
    broker.failing = "ack"
    outcomes = await committer.commit(await turns(broker))
    assert [outcome is None for outcome in outcomes] == [False, False, True, True]
    assert await in_hand(broker) == 3


async def test_of_a_turn_that_lost_its_race_nothing_is_published_or_acknowledged(
    broker: FailingBroker, store: MemoryStore, committer: SequentialCommitter
) -> None:
    some = await turns(broker)
    assert some[0].append is not None
    await store.append(some[0].append._replace(events=new_events(1)))
    outcomes = await committer.commit(some)
    assert isinstance(outcomes[0], WrongExpectedVersion)
    assert outcomes[1:] == [None] * 3
    assert broker.asked == [("publish", 1), ("ack", 2)]


async def test_a_message_that_cannot_be_published_is_looked_for_turn_by_turn(
    broker: FailingBroker, committer: SequentialCommitter
) -> None:
    some = await turns(broker)
    some[2] = some[2]._replace(publish=[new_message("nowhere")])
    outcomes = await committer.commit(some)
    assert [outcome is None for outcome in outcomes] == [True, True, False, True]
    assert broker.asked == [("publish", 3), ("publish", 2), ("publish", 1), ("ack", 3)]

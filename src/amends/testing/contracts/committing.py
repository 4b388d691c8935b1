"""The committer contract: append, publish and acknowledge."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from amends.broker.commit import Committer, TurnCommit
from amends.broker.port import Broker
from amends.domain.ids import NO_STREAM, ExpectedVersion, StreamName
from amends.errors import BrokerClosed, StoreClosed, UsageError, WrongExpectedVersion
from amends.stores.port import Append, EventStore
from amends.testing.clock import ManualClock
from amends.testing.contracts.broker_base import (
    OTHER_QUEUE,
    QUEUE,
    after,
    consuming,
    depth_of,
    drain,
    messages_of,
    receive,
)
from amends.testing.contracts.data import as_new, new_events, new_message, new_messages, soon

STREAM = StreamName.of("saga.transfer", "1")


class Engine(NamedTuple):
    """The three ports that belong together."""

    store: EventStore
    broker: Broker
    committer: Committer


async def commit(committer: Committer, turn: TurnCommit) -> None:
    """Commit one turn. Raises what went wrong with it."""
    (error,) = await committer.commit([turn])
    if error is not None:
        raise error


class CommitterContractBase:
    """The fixtures that a backend supplies."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock that store and broker were given."""
        return ManualClock()

    @pytest.fixture
    async def engine(self, clock: ManualClock) -> Engine:
        """The committer under test with its store and its broker, to be overridden.

        The fixture closes them, and declares `commands.ledger` and `inbox.0`.
        """
        raise NotImplementedError("override the `engine` fixture")


class CommitContract(CommitterContractBase):
    """One turn, whole."""

    async def test_a_turn_appends_publishes_and_acknowledges(self, engine: Engine) -> None:
        store, broker, committer = engine
        events, messages = new_events(3), new_messages(OTHER_QUEUE, 3)
        await broker.publish(new_messages(QUEUE, 3))
        async with consuming(broker, QUEUE) as consumer:
            first, second, third = await receive(consumer, 3)
            append = Append(STREAM, events, NO_STREAM)
            await commit(committer, TurnCommit(append, messages, [first, third]))
        assert as_new(await store.read(STREAM)) == events
        assert messages_of(await drain(broker, OTHER_QUEUE)) == messages
        assert messages_of(await drain(broker, QUEUE)) == [second.message]

    async def test_every_part_may_be_empty(self, engine: Engine) -> None:
        store, broker, committer = engine
        (event,), message = new_events(1), new_message(QUEUE)
        await commit(committer, TurnCommit(None, [], []))
        await commit(committer, TurnCommit(Append(STREAM, [event], NO_STREAM), [], []))
        await commit(committer, TurnCommit(None, [message], []))
        assert as_new(await store.read(STREAM)) == [event]
        async with consuming(broker, QUEUE) as consumer:
            received = await receive(consumer, 1)
            assert messages_of(received) == [message]
            await commit(committer, TurnCommit(None, [], received))
        assert await drain(broker, QUEUE) == []

    async def test_a_conflict_leaves_nothing_published_or_acknowledged(
        self, engine: Engine
    ) -> None:
        store, broker, committer = engine
        cause = new_message(QUEUE)
        await store.append(Append(STREAM, new_events(2), NO_STREAM))
        await broker.publish([cause])
        async with consuming(broker, QUEUE) as consumer:
            deliveries = await receive(consumer, 1)
            turn = TurnCommit(
                Append(STREAM, new_events(1), ExpectedVersion(0)),
                new_messages(OTHER_QUEUE, 2),
                deliveries,
            )
            with pytest.raises(WrongExpectedVersion) as caught:
                await commit(committer, turn)
            assert caught.value.actual == 1
            assert (await depth_of(broker, QUEUE)).ready == 1
        assert len(await store.read(STREAM)) == 2
        assert await drain(broker, OTHER_QUEUE) == []
        assert messages_of(await drain(broker, QUEUE)) == [cause]

    async def test_a_turn_may_be_committed_again(self, engine: Engine) -> None:
        store, broker, committer = engine
        events, messages = new_events(2), new_messages(OTHER_QUEUE, 2)
        await broker.publish([new_message(QUEUE)])
        async with consuming(broker, QUEUE) as consumer:
            turn = TurnCommit(
                Append(STREAM, events, NO_STREAM), messages, await receive(consumer, 1)
            )
            await commit(committer, turn)
            await commit(committer, turn)
        assert as_new(await store.read(STREAM)) == events
        assert set(messages_of(await drain(broker, OTHER_QUEUE))) == set(messages)
        assert await drain(broker, QUEUE) == []

    async def test_a_retry_publishes_what_may_have_been_lost(self, engine: Engine) -> None:
        store, broker, committer = engine
        events, messages = new_events(2), new_messages(OTHER_QUEUE, 2)
        # A crash after the append left this; the turn is then driven again.
        await store.append(Append(STREAM, events, NO_STREAM))
        await broker.publish([new_message(QUEUE)])
        async with consuming(broker, QUEUE) as consumer:
            deliveries = await receive(consumer, 1)
            append = Append(STREAM, events, NO_STREAM)
            await commit(committer, TurnCommit(append, messages, deliveries))
        assert as_new(await store.read(STREAM)) == events
        assert messages_of(await drain(broker, OTHER_QUEUE)) == messages
        assert await drain(broker, QUEUE) == []

    async def test_a_message_to_nowhere_acknowledges_nothing(self, engine: Engine) -> None:
        _, broker, committer = engine
        cause = new_message(QUEUE)
        await broker.publish([cause])
        async with consuming(broker, QUEUE) as consumer:
            deliveries = await receive(consumer, 1)
            with pytest.raises(UsageError):
                await commit(committer, TurnCommit(None, [new_message("nowhere")], deliveries))
        assert messages_of(await drain(broker, QUEUE)) == [cause]

    async def test_a_message_to_nowhere_fails_its_own_turn_only(self, engine: Engine) -> None:
        store, broker, committer = engine
        messages = [*new_messages(OTHER_QUEUE, 2), new_message("nowhere")]
        streams = [StreamName.of("saga.transfer", str(n)) for n in range(3)]
        await broker.publish(new_messages(QUEUE, 3))
        async with consuming(broker, QUEUE) as consumer:
            deliveries = await receive(consumer, 3)
            turns = [
                TurnCommit(Append(stream, new_events(1), NO_STREAM), [message], [delivery])
                for stream, message, delivery in zip(streams, messages, deliveries, strict=True)
            ]
            outcomes = await committer.commit([turns[0], turns[2], turns[1]])
        assert isinstance(outcomes[1], UsageError)
        assert [outcomes[0], outcomes[2]] == [None, None]
        for stream in streams[:2]:
            assert len(await store.read(stream)) == 1
        # A broker that has to find out which message it was may publish the others again.
        assert set(messages_of(await drain(broker, OTHER_QUEUE))) == set(messages[:2])
        assert messages_of(await drain(broker, QUEUE)) == [deliveries[2].message]

    async def test_delays_and_consumers_wait_alike(
        self, engine: Engine, clock: ManualClock
    ) -> None:
        _, broker, committer = engine
        delayed, at_once = new_message(QUEUE, due=after(clock, 60)), new_message(QUEUE)
        async with consuming(broker, QUEUE) as consumer:
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await asyncio.sleep(0)
            await commit(committer, TurnCommit(None, [delayed, at_once], []))
            assert messages_of(await waiting) == [at_once]
            waiting = asyncio.ensure_future(receive(consumer, 1))
            await clock.advance(60)
            assert messages_of(await waiting) == [delayed]

    async def test_a_subscription_sees_what_is_committed(self, engine: Engine) -> None:
        store, _, committer = engine
        subscription = store.subscribe(None)
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        events = new_events(1)
        await commit(committer, TurnCommit(Append(STREAM, events, NO_STREAM), [], []))
        assert as_new([await soon(waiting)]) == events


class RaceContract(CommitterContractBase):
    """Many turns at a time."""

    async def test_one_of_many_turns_wins_and_only_it_publishes(self, engine: Engine) -> None:
        store, broker, committer = engine
        messages = new_messages(OTHER_QUEUE, 20)
        await broker.publish(new_messages(QUEUE, 20))
        async with consuming(broker, QUEUE, limit=20) as consumer:
            deliveries = await receive(consumer, 20)
            turns = [
                TurnCommit(Append(STREAM, new_events(2), NO_STREAM), [message], [delivery])
                for message, delivery in zip(messages, deliveries, strict=True)
            ]
            outcomes = await committer.commit(turns)
        (won,) = [n for n, outcome in enumerate(outcomes) if outcome is None]
        conflicts = [n for n, outcome in enumerate(outcomes) if n != won]
        assert all(isinstance(outcomes[n], WrongExpectedVersion) for n in conflicts)
        append = turns[won].append
        assert append is not None
        assert as_new(await store.read(STREAM)) == append.events
        assert messages_of(await drain(broker, OTHER_QUEUE)) == [messages[won]]
        unacknowledged = {delivery.message.id for delivery in await drain(broker, QUEUE)}
        assert unacknowledged == {deliveries[n].message.id for n in conflicts}

    async def test_turns_of_different_streams_do_not_disturb_each_other(
        self, engine: Engine
    ) -> None:
        store, broker, committer = engine
        # Every fourth turn loses; those that are committed together with it do not.
        streams = [StreamName.of("saga.transfer", str(n)) for n in range(100)]
        for stream in streams[::4]:
            await store.append(Append(stream, new_events(1), NO_STREAM))
        messages = new_messages(OTHER_QUEUE, 100)
        outcomes = await committer.commit(
            [
                TurnCommit(Append(stream, new_events(3), NO_STREAM), [m], [])
                for stream, m in zip(streams, messages, strict=True)
            ]
        )
        for n, outcome in enumerate(outcomes):
            assert isinstance(outcome, WrongExpectedVersion) == (n % 4 == 0)
            assert len(await store.read(streams[n])) == (1 if n % 4 == 0 else 3)
        published = {message.id for message in messages_of(await drain(broker, OTHER_QUEUE))}
        assert published == {message.id for n, message in enumerate(messages) if n % 4}

    async def test_turns_that_are_committed_together_publish_in_their_order(
        self, engine: Engine
    ) -> None:
        _, broker, committer = engine
        messages = new_messages(OTHER_QUEUE, 30)
        turns = [TurnCommit(None, messages[n : n + 3], []) for n in range(0, 30, 3)]
        assert await committer.commit(turns) == [None] * 10
        assert messages_of(await drain(broker, OTHER_QUEUE)) == messages

    async def test_no_turns_are_nothing(self, engine: Engine) -> None:
        assert await engine.committer.commit([]) == []

    async def test_turns_of_one_stream_follow_each_other(self, engine: Engine) -> None:
        store, broker, committer = engine
        messages = new_messages(OTHER_QUEUE, 30)
        for n, message in enumerate(messages):
            append = Append(STREAM, new_events(2), ExpectedVersion(2 * n - 1))
            await commit(committer, TurnCommit(append, [message], []))
        assert [event.version for event in await store.read(STREAM)] == list(range(60))
        assert messages_of(await drain(broker, OTHER_QUEUE)) == messages

    async def test_nothing_is_committed_to_a_closed_store(self, engine: Engine) -> None:
        store, _, committer = engine
        await store.close()
        with pytest.raises(StoreClosed):
            await commit(
                committer,
                TurnCommit(Append(STREAM, new_events(1), NO_STREAM), [new_message(QUEUE)], []),
            )

    async def test_nothing_is_committed_to_a_closed_broker(self, engine: Engine) -> None:
        _, broker, committer = engine
        await broker.close()
        with pytest.raises(BrokerClosed):
            await commit(committer, TurnCommit(None, [new_message(QUEUE)], []))

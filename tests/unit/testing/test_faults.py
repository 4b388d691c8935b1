import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from amends.broker.commit import SequentialCommitter, TurnCommit
from amends.broker.memory import MemoryBroker
from amends.broker.port import Broker, Delivery
from amends.domain.ids import ANY, NO_STREAM, START, StreamName
from amends.errors import AppendOutcomeUnknown, BrokerUnavailable, StoreUnavailable
from amends.stores.memory import MemoryStore
from amends.stores.port import Append, EventStore
from amends.testing.broker_contract import BrokerContract
from amends.testing.clock import ManualClock, VirtualClock, run_virtual
from amends.testing.committer_contract import OTHER_QUEUE, QUEUE, CommitterContract, Engine
from amends.testing.contracts.committing import commit
from amends.testing.contracts.data import as_new, new_event, new_events, new_message, new_messages
from amends.testing.crashes import CrashPoints, SimulatedCrash, crash_at_every_point
from amends.testing.faults import FaultRates, Faults, FaultyBroker, FaultyCommitter, FaultyStore
from amends.testing.store_contract import EventStoreContract

STREAM = StreamName.of("saga.transfer", "1")


class TestStoreWithoutFaults(EventStoreContract):
    @pytest.fixture
    async def inner(self, clock: ManualClock) -> MemoryStore:
        return MemoryStore(clock)

    @pytest.fixture
    async def store(self, inner: MemoryStore, clock: ManualClock) -> AsyncIterator[FaultyStore]:
        store = FaultyStore(inner, Faults(clock))
        yield store
        await store.close()

    @pytest.fixture
    def reopen(self, inner: MemoryStore) -> Callable[[], Awaitable[EventStore]]:
        async def open_again() -> EventStore:
            return inner.reopened()

        return open_again


class TestBrokerWithoutFaults(BrokerContract):
    @pytest.fixture
    async def inner(self, clock: ManualClock) -> MemoryBroker:
        return MemoryBroker(clock)

    @pytest.fixture
    async def broker(self, inner: MemoryBroker, clock: ManualClock) -> AsyncIterator[FaultyBroker]:
        broker = FaultyBroker(inner, Faults(clock))
        yield broker
        await broker.close()

    @pytest.fixture
    def reopen(self, inner: MemoryBroker) -> Callable[[], Awaitable[Broker]]:
        async def open_again() -> Broker:
            inner.crash_consumers()
            return inner.reopened()

        return open_again


class TestCommitterWithoutFaults(CommitterContract):
    @pytest.fixture
    async def engine(self, clock: ManualClock) -> Engine:
        faults = Faults(clock)
        store = FaultyStore(MemoryStore(clock), faults)
        broker = FaultyBroker(MemoryBroker(clock), faults)
        await broker.declare([QUEUE, OTHER_QUEUE])
        return Engine(store, broker, FaultyCommitter(SequentialCommitter(store, broker), faults))


class TestCrashes:
    async def test_the_dead_do_nothing_more(self) -> None:
        clock, points = ManualClock(), CrashPoints(crash_at=2)
        faults = Faults(clock, points=points)
        inner_store, inner_broker = MemoryStore(clock), MemoryBroker(clock)
        store, broker = FaultyStore(inner_store, faults), FaultyBroker(inner_broker, faults)
        await broker.declare([QUEUE])
        consumer = broker.consume(QUEUE, limit=1)
        (event,) = new_events(1)
        dying = asyncio.ensure_future(points.crashed())
        await asyncio.sleep(0)
        with pytest.raises(SimulatedCrash, match="point 2: after append"):
            await store.append(Append(STREAM, [event], NO_STREAM))
        await dying
        await points.crashed()
        posthumous: list[Callable[[], Awaitable[object]]] = [
            lambda: store.append(Append(STREAM, new_events(1), ANY)),
            lambda: store.read(STREAM),
            lambda: store.read_backwards(STREAM),
            store.read_all,
            store.read_all_backwards,
            store.end,
            lambda: anext(store.subscribe(START)),
            consumer.receive,
            lambda: broker.declare([OTHER_QUEUE]),
            lambda: broker.publish([new_message(QUEUE)]),
            lambda: broker.ack([]),
            lambda: broker.release([]),
            broker.dead_letters,
            lambda: broker.redrive([]),
            lambda: broker.discard([]),
            broker.depths,
        ]
        for act in posthumous:
            with pytest.raises(SimulatedCrash):
                await act()
        await consumer.stop()
        await consumer.close()
        await broker.close()
        await store.close()
        assert as_new(await inner_store.read(STREAM)) == [event]
        assert [depth.ready for depth in await inner_broker.depths()] == [0]

    async def test_a_dead_consumer_hands_nothing_back_by_itself(self) -> None:
        clock, points = ManualClock(), CrashPoints()
        inner = MemoryBroker(clock)
        broker = FaultyBroker(inner, Faults(clock, points=points))
        await broker.declare([QUEUE])
        await broker.publish(new_messages(QUEUE, 1))
        consumer = broker.consume(QUEUE, limit=1)
        await consumer.receive()
        points.kill()
        await consumer.close()
        successor = inner.consume(QUEUE, limit=1)
        waiting = asyncio.ensure_future(successor.receive())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        inner.crash_consumers()
        with pytest.raises(BrokerUnavailable):
            await waiting
        (delivery,) = await inner.consume(QUEUE, limit=1).receive()
        assert delivery.count == 2

    def test_every_crash_of_a_turn_leaves_it_undone_or_driven_again(self) -> None:
        """The five rules' third: append, then publish, then acknowledge."""
        outcomes: set[tuple[int, int, int]] = set()

        async def turn(points: CrashPoints, clock: VirtualClock) -> None:
            faults = Faults(clock, points=points)
            inner_store, inner_broker = MemoryStore(clock), MemoryBroker(clock)
            await inner_broker.declare([QUEUE, OTHER_QUEUE])
            await inner_broker.publish([new_message(QUEUE)])
            store, broker = FaultyStore(inner_store, faults), FaultyBroker(inner_broker, faults)
            committer = SequentialCommitter(store, broker)
            try:
                received = await broker.consume(QUEUE, limit=1).receive()
                append = Append(STREAM, new_events(2), NO_STREAM)
                await commit(committer, TurnCommit(append, new_messages(OTHER_QUEUE, 2), received))
            except SimulatedCrash:
                assert points.is_dead
            depths = {depth.queue: depth.ready for depth in await inner_broker.depths()}
            outcomes.add((len(await inner_store.read(STREAM)), depths[OTHER_QUEUE], depths[QUEUE]))

        def run(points: CrashPoints) -> None:
            clock = VirtualClock()
            run_virtual(turn(points, clock), clock=clock)

        # Around receive, append, publish and acknowledge; and between the two that are published.
        assert crash_at_every_point(run) == 9
        assert outcomes == {(0, 0, 1), (2, 0, 1), (2, 1, 1), (2, 2, 1), (2, 2, 0)}

    def test_a_failing_point_is_named(self) -> None:
        def run(points: CrashPoints) -> None:
            for point in ("first", "second"):
                try:
                    points.reach(point)
                except SimulatedCrash:
                    assert point != "second"
                    return

        with pytest.raises(AssertionError) as caught:
            crash_at_every_point(run)
        assert caught.value.__notes__ == ["CrashPoints(crash_at=2) crashed at second"]

    def test_a_scenario_without_end_is_given_up(self) -> None:
        def run(points: CrashPoints) -> None:
            points.kill()

        with pytest.raises(AssertionError, match="more than 3 points"):
            crash_at_every_point(run, points_max=3)


class TestErrors:
    async def test_before_an_operation_there_is_no_effect_and_after_it_there_is(self) -> None:
        clock = ManualClock()
        inner = MemoryStore(clock)
        append = Append(STREAM, new_events(1), NO_STREAM)
        early = FaultyStore(inner, Faults(clock, rates=FaultRates(error_before=1)))
        with pytest.raises(StoreUnavailable):
            await early.append(append)
        assert await inner.read(STREAM) == []
        late = FaultyStore(inner, Faults(clock, rates=FaultRates(error_after=1)))
        with pytest.raises(AppendOutcomeUnknown):
            await late.append(append)
        assert len(await inner.read(STREAM)) == 1

    async def test_publishing_may_fail_halfway(self) -> None:
        clock = ManualClock()
        inner = MemoryBroker(clock)
        await inner.declare([QUEUE])
        seen = set()
        for seed in range(30):
            rates = FaultRates(error_after=0.4)
            broker = FaultyBroker(inner, Faults(clock, seed=seed, rates=rates))
            before = (await inner.depths())[0].ready
            try:
                await broker.publish(new_messages(QUEUE, 3))
                outcome = "published"
            except BrokerUnavailable:
                outcome = "failed"
            seen.add((outcome, (await inner.depths())[0].ready - before))
        assert seen == {("published", 3), ("failed", 1), ("failed", 2), ("failed", 3)}

    async def test_acknowledging_may_fail_halfway(self) -> None:
        clock = ManualClock()
        inner = MemoryBroker(clock)
        await inner.declare([QUEUE])
        await inner.publish(new_messages(QUEUE, 3))
        deliveries = await inner.consume(QUEUE, limit=3).receive()
        points = CrashPoints(crash_at=3)
        broker = FaultyBroker(inner, Faults(clock, points=points))
        with pytest.raises(SimulatedCrash):
            await broker.ack(deliveries)
        assert points.log == ["before ack", "after ack RunStep", "after ack RunStep"]
        assert (await inner.depths())[0].ready == 1

    async def test_a_commit_fails_before_or_after(self) -> None:
        clock = ManualClock()
        store, broker = MemoryStore(clock), MemoryBroker(clock)
        inner = SequentialCommitter(store, broker)
        turn = TurnCommit(Append(STREAM, new_events(1), NO_STREAM), [], [])
        early = FaultyCommitter(inner, Faults(clock, rates=FaultRates(error_before=1)))
        with pytest.raises(StoreUnavailable):
            await commit(early, turn)
        assert await store.read(STREAM) == []
        late = FaultyCommitter(inner, Faults(clock, rates=FaultRates(error_after=1)))
        with pytest.raises(AppendOutcomeUnknown):
            await commit(late, turn)
        assert len(await store.read(STREAM)) == 1

    async def test_a_lost_connection_hands_back_what_was_in_hand(self) -> None:
        clock = ManualClock()
        inner = MemoryBroker(clock)
        faults = Faults(clock)
        broker = FaultyBroker(inner, faults)
        await broker.declare([QUEUE])
        await broker.publish(new_messages(QUEUE, 1))
        consumer = broker.consume(QUEUE, limit=1)
        await consumer.receive()
        faults.rates = FaultRates(error_before=1)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await consumer.receive()
            faults.rates = FaultRates()
        (again,) = await broker.consume(QUEUE, limit=1).receive()
        assert again.count == 2


async def receive_all(rates: FaultRates, seed: int, clock: VirtualClock) -> list[Delivery]:
    """Thirty messages through a faulty consumer that acknowledges them."""
    broker = MemoryBroker(clock)
    await broker.declare([QUEUE])
    messages = new_messages(QUEUE, 30)
    for message in messages:
        await broker.publish([message])
    faulty = FaultyBroker(broker, Faults(clock, seed=seed, rates=rates))
    consumer = faulty.consume(QUEUE, limit=4)
    received: list[Delivery] = []
    while (await broker.depths())[0].ready:
        deliveries = await consumer.receive()
        received += deliveries
        await faulty.ack(deliveries)
    assert {delivery.message for delivery in received} == set(messages)
    return received


def keys(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.message.key.rpartition("/")[2]) for delivery in deliveries]


class TestDeliveries:
    def run(self, rates: FaultRates, seed: int = 1) -> tuple[list[Delivery], float]:
        clock = VirtualClock()
        return run_virtual(receive_all(rates, seed, clock), clock=clock), clock.elapsed_s

    def test_repeated(self) -> None:
        received, _ = self.run(FaultRates(duplicate=0.5))
        repeated = [n for n, delivery in enumerate(received) if delivery.count > 1]
        assert len(received) == 30 + len(repeated) > 32
        # Some of them long after the message was done with: four are received at a time.
        assert max(n - keys(received).index(keys(received)[n]) for n in repeated) > 8

    def test_handed_back(self) -> None:
        received, _ = self.run(FaultRates(redeliver=0.5))
        assert len(received) == 30
        assert max(delivery.count for delivery in received) > 1

    def test_shuffled(self) -> None:
        received, _ = self.run(FaultRates(reorder=0.5))
        assert keys(received) != sorted(keys(received))
        assert sorted(keys(received)) == list(range(30))

    def test_late(self) -> None:
        received, elapsed_s = self.run(FaultRates(delay=0.5, delay_s_max=100))
        assert keys(received) == list(range(30))
        assert elapsed_s > 100

    def test_lost(self) -> None:
        async def publish() -> int:
            clock = ManualClock()
            inner = MemoryBroker(clock)
            broker = FaultyBroker(inner, Faults(clock, rates=FaultRates(lose=0.5)))
            await broker.declare([QUEUE])
            await broker.publish(new_messages(QUEUE, 100))
            return (await inner.depths())[0].ready

        assert 20 < asyncio.run(publish()) < 80

    def test_a_seed_gives_the_same_again_and_another_one_something_else(self) -> None:
        rates = FaultRates(duplicate=0.3, redeliver=0.3, reorder=0.3, delay=0.3)

        def seen(seed: int) -> list[tuple[int, int]]:
            received, _ = self.run(rates, seed)
            return [(n, d.count) for n, d in zip(keys(received), received, strict=True)]

        assert seen(1) == seen(1)
        assert seen(1) != seen(2)


def test_overtaken_appends_lose_their_race() -> None:
    """A delay lets others go first, which is what races are made of."""
    clock = VirtualClock()

    async def race() -> list[object]:
        faults = Faults(clock, seed=3, rates=FaultRates(delay=1.0))
        store = FaultyStore(MemoryStore(clock), faults)
        appends = (store.append(Append(STREAM, [new_event()], NO_STREAM)) for _ in range(10))
        return await asyncio.gather(*appends, return_exceptions=True)

    outcomes = run_virtual(race(), clock=clock)
    won = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
    assert len(won) == 1
    assert won != [0]

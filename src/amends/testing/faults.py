"""Faults on demand: wrappers around the ports that crash, fail, delay, repeat and reorder.

Every operation with an effect is a numbered point before it and one after it, where the process
can die (see `amends.testing.crashes`). All else is drawn from one seeded source, so that under
virtual time a seed that fails fails again.

Without rates and without a point the wrappers change nothing: they keep the ports' contracts.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from amends.broker.commit import Committer, TurnCommit
from amends.broker.merged import merged
from amends.broker.port import Broker, Consumer, DeadLetter, Delivery, Message, Process, QueueDepth
from amends.domain.clock import Clock
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START, Position, StreamName
from amends.errors import AppendOutcomeUnknown, BrokerUnavailable, StoreUnavailable
from amends.stores.port import EVERYTHING, Append, Appended, EventFilter, EventStore, Removal
from amends.testing.crashes import CrashPoints

#: How many deliveries a consumer remembers, to repeat one of them later.
REMEMBERED_MAX = 50


@dataclass(frozen=True, kw_only=True)
class FaultRates:
    """How often which fault happens, as probabilities from 0 to 1; nothing happens by default."""

    error_before: float = 0.0
    """An operation fails, and had no effect."""
    error_after: float = 0.0
    """An operation fails, and had its effect."""
    read_error: float = 0.0
    """A store cannot be read."""
    delay: float = 0.0
    """An operation takes up to `delay_s_max` seconds, while others overtake it."""
    delay_s_max: float = 5.0
    duplicate: float = 0.0
    """A message that was delivered is delivered once more, then or later, even when it is done."""
    redeliver: float = 0.0
    """A delivery is handed back before the consumer sees it, and comes again."""
    reorder: float = 0.0
    """What is received together comes in another order."""
    lose: float = 0.0
    """A published message is never delivered. No broker may do that: it stands for lost disks,
    after which only the journal knows what is outstanding."""


class Faults:
    """What happens to one process: its crash point, and its share of bad luck."""

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 0,
        rates: FaultRates | None = None,
        points: CrashPoints | None = None,
    ) -> None:
        self.points = points or CrashPoints()
        self.rates = rates or FaultRates()
        self.rng = random.Random(seed)
        self._clock = clock

    def happens(self, rate: float) -> bool:
        """Draw, unless it cannot happen: a rate of 0 leaves the other draws as they are."""
        return rate > 0 and self.rng.random() < rate

    async def before(self, what: str, error: type[Exception]) -> None:
        """Crash, delay or fail before an operation."""
        self.points.reach(f"before {what}")
        if self.happens(self.rates.delay):
            delay = timedelta(seconds=self.rng.uniform(0, self.rates.delay_s_max))
            await self._clock.sleep_until(self._clock.now() + delay)
            # Others may have died meanwhile, and with them the whole process.
            self.points.check_alive()
        if self.happens(self.rates.error_before):
            raise error(f"simulated before {what}: nothing was done")

    def after(self, what: str, error: type[Exception]) -> None:
        """Crash or fail after an operation."""
        self.points.reach(f"after {what}")
        if self.happens(self.rates.error_after):
            raise error(f"simulated after {what}: it was done")

    def before_read(self) -> None:
        """Fail before a read. A crash there is the same as one before the next effect."""
        self.points.check_alive()
        if self.happens(self.rates.read_error):
            raise StoreUnavailable("simulated before a read: nothing was read")


class FaultyStore:
    """An `EventStore` whose appends and removals suffer from faults, and the reading of streams from errors."""

    def __init__(self, store: EventStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`."""
        await self._faults.before("append", StoreUnavailable)
        appended = await self._store.append(append)
        self._faults.after("append", AppendOutcomeUnknown)
        return appended

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read`."""
        self._faults.before_read()
        return await self._store.read(stream, start=start, limit=limit)

    async def read_backwards(
        self, stream: StreamName, *, start: int | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        """See `EventStore.read_backwards`."""
        self._faults.before_read()
        return await self._store.read_backwards(stream, start=start, limit=limit)

    async def read_all(
        self, after: Position = START, *, filter: EventFilter = EVERYTHING, limit: int = 1000
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all`."""
        self._faults.points.check_alive()
        return await self._store.read_all(after, filter=filter, limit=limit)

    async def read_all_backwards(
        self,
        before: Position | None = None,
        *,
        filter: EventFilter = EVERYTHING,
        limit: int = 1000,
    ) -> list[RecordedEvent]:
        """See `EventStore.read_all_backwards`."""
        self._faults.points.check_alive()
        return await self._store.read_all_backwards(before, filter=filter, limit=limit)

    async def subscribe(
        self, after: Position | None = None, *, filter: EventFilter = EVERYTHING
    ) -> AsyncIterator[RecordedEvent]:
        """See `EventStore.subscribe`."""
        subscription = self._store.subscribe(after, filter=filter)
        try:
            async for event in subscription:
                self._faults.points.check_alive()
                yield event
        finally:
            aclose = getattr(subscription, "aclose", None)
            if aclose is not None:
                await aclose()

    async def end(self) -> Position:
        """See `EventStore.end`."""
        self._faults.points.check_alive()
        return await self._store.end()

    async def remove(self, removals: Sequence[Removal]) -> list[StreamName]:
        """See `EventStore.remove`."""
        await self._faults.before("remove", StoreUnavailable)
        removed = await self._store.remove(removals)
        self._faults.after("remove", StoreUnavailable)
        return removed

    async def close(self) -> None:
        """See `EventStore.close`. The dead close nothing."""
        if not self._faults.points.is_dead:
            await self._store.close()


class FaultyConsumer:
    """A `Consumer` whose deliveries are repeated, shuffled and handed back."""

    def __init__(self, consumer: Consumer, broker: Broker, faults: Faults) -> None:
        self._consumer = consumer
        self._broker = broker
        self._faults = faults
        self._remembered: list[Delivery] = []
        self._is_lost = False

    async def receive(self) -> list[Delivery]:
        """See `Consumer.receive`."""
        while True:
            await self._connect()
            received = await self._consumer.receive()
            self._faults.points.reach("after receive")
            if not received:
                return []
            if deliveries := await self._spoil(received):
                return deliveries

    async def _connect(self) -> None:
        if self._is_lost:
            raise BrokerUnavailable("the simulated connection is lost: subscribe again")
        try:
            await self._faults.before("receive", BrokerUnavailable)
        except BrokerUnavailable:
            # The port promises that what was not acknowledged comes again.
            self._is_lost = True
            await self._consumer.close()
            raise

    async def _spoil(self, received: list[Delivery]) -> list[Delivery]:
        faults, rates = self._faults, self._faults.rates
        handed_back = [delivery for delivery in received if faults.happens(rates.redeliver)]
        if handed_back:
            await self._broker.release(handed_back)
        deliveries = [delivery for delivery in received if delivery not in handed_back]
        self._remembered = (self._remembered + deliveries)[-REMEMBERED_MAX:]
        if self._remembered and faults.happens(rates.duplicate):
            again = faults.rng.choice(self._remembered)
            deliveries.append(again._replace(count=again.count + 1))
        if faults.happens(rates.reorder):
            faults.rng.shuffle(deliveries)
        return deliveries

    async def stop(self) -> None:
        """See `Consumer.stop`. The dead stop nothing."""
        if not self._faults.points.is_dead:
            await self._consumer.stop()

    async def close(self) -> None:
        """See `Consumer.close`. The dead hand nothing back."""
        if not self._faults.points.is_dead:
            await self._consumer.close()


class FaultyBroker:
    """A `Broker` that suffers from faults. There is a point after each message of those that are
    published or acknowledged together, because the port lets a broker fail halfway.
    """

    def __init__(self, broker: Broker, faults: Faults) -> None:
        self._broker = broker
        self._faults = faults

    async def declare(self, queues: Sequence[str]) -> None:
        """See `Broker.declare`."""
        self._faults.points.check_alive()
        await self._broker.declare(queues)

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Broker.publish`."""
        await self._faults.before("publish", BrokerUnavailable)
        published: list[Message] = []
        try:
            for message in messages:
                if not self._faults.happens(self._faults.rates.lose):
                    published.append(message)
                self._faults.after(f"publish {message.type} {message.key}", BrokerUnavailable)
        finally:
            await self._broker.publish(published)

    async def request(self, message: Message) -> None:
        """See `Broker.request`."""
        await self.publish([message])

    def consume(self, queue: str, *, limit: int) -> Consumer:
        """See `Broker.consume`."""
        self._faults.points.check_alive()
        consumer = self._broker.consume(queue, limit=limit)
        return FaultyConsumer(consumer, self._broker, self._faults)

    def own(self, queues: Sequence[str], *, limit: int) -> Consumer:
        """See `Broker.own`. All of them, each with faults of its own."""
        return merged([self.consume(queue, limit=limit) for queue in queues])

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        await self._faults.before("ack", BrokerUnavailable)
        acknowledged: list[Delivery] = []
        try:
            for delivery in deliveries:
                acknowledged.append(delivery)
                self._faults.after(f"ack {delivery.message.type}", BrokerUnavailable)
        finally:
            await self._broker.ack(acknowledged)

    async def reply(self, delivery: Delivery, message: Message) -> None:
        """See `Broker.reply`."""
        await self._faults.before("reply", BrokerUnavailable)
        await self._broker.reply(delivery, message)
        self._faults.after(f"reply {message.type} {message.key}", BrokerUnavailable)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.release`."""
        await self._faults.before("release", BrokerUnavailable)
        await self._broker.release(deliveries)
        self._faults.after("release", BrokerUnavailable)

    async def dead_letter(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """See `Broker.dead_letter`."""
        await self._faults.before("dead letter", BrokerUnavailable)
        await self._broker.dead_letter(delivery, reason=reason, detail=detail)
        self._faults.after("dead letter", BrokerUnavailable)

    async def dead_letters(self, *, queue: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `Broker.dead_letters`."""
        self._faults.points.check_alive()
        return await self._broker.dead_letters(queue=queue, limit=limit)

    async def redrive(self, ids: Sequence[UUID]) -> int:
        """See `Broker.redrive`."""
        self._faults.points.check_alive()
        return await self._broker.redrive(ids)

    async def discard(self, ids: Sequence[UUID]) -> int:
        """See `Broker.discard`."""
        self._faults.points.check_alive()
        return await self._broker.discard(ids)

    async def depths(self, queues: Sequence[str] = ()) -> list[QueueDepth]:
        """See `Broker.depths`."""
        self._faults.points.check_alive()
        return await self._broker.depths(queues)

    async def processes(self) -> list[Process]:
        """See `Broker.processes`."""
        self._faults.points.check_alive()
        return await self._broker.processes()

    async def close(self) -> None:
        """See `Broker.close`. The dead close nothing."""
        if not self._faults.points.is_dead:
            await self._broker.close()


class FaultyCommitter:
    """A `Committer` that suffers from faults around a commit, for those that commit all at once.

    A `SequentialCommitter` over a `FaultyStore` and a `FaultyBroker` has faults inside as well.
    """

    def __init__(self, committer: Committer, faults: Faults) -> None:
        self._committer = committer
        self._faults = faults

    async def commit(self, turns: Sequence[TurnCommit]) -> list[Exception | None]:
        """See `Committer.commit`. Each turn has its own faults."""
        return [await self._outcome(turn) for turn in turns]

    async def _outcome(self, turn: TurnCommit) -> Exception | None:
        try:
            await self._faults.before("commit", StoreUnavailable)
            (error,) = await self._committer.commit([turn])
            if error is None:
                self._faults.after("commit", AppendOutcomeUnknown)
        except Exception as fault:
            return fault
        return error

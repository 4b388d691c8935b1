"""The broker in memory: the reference for what the port means, and the broker of tests."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from uuid import UUID

from amends.broker.merged import merged
from amends.broker.port import Consumer, DeadLetter, Delivery, Message, Process, QueueDepth
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.errors import BrokerClosed, BrokerUnavailable, UsageError


@dataclass(eq=False)
class _Entry:
    """A message in its queue. `place` is its turn there, which it keeps when it is handed back."""

    message: Message
    since: datetime
    place: int = 0
    deliveries: int = 0


@dataclass(eq=False)
class _Queue:
    """One queue: heaps of what may be delivered, by place, and of what is not due, by due time."""

    name: str
    ready: list[tuple[int, _Entry]] = field(default_factory=list)
    delayed: list[tuple[datetime, int, _Entry]] = field(default_factory=list)
    changed: Bell = field(default_factory=Bell)

    def put(self, entry: _Entry) -> None:
        heapq.heappush(self.ready, (entry.place, entry))
        self.changed.ring()


@dataclass(eq=False)
class _Lease:
    """A message in a consumer's hands."""

    token: int
    entry: _Entry
    queue: _Queue
    consumer: MemoryConsumer


class _Memory:
    """What a real broker would hold on its own: it outlives the broker objects that use it."""

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}
        self.leases: dict[int, _Lease] = {}
        self.dead: list[DeadLetter] = []
        self.numbers = count(1)

    def queue(self, name: str) -> _Queue:
        if name not in self.queues:
            raise UsageError(
                f"queue {name!r} was never declared; nothing was published. Declare it first."
            )
        return self.queues[name]

    def put(self, message: Message, now: datetime, *, deliveries: int = 0) -> None:
        """`deliveries` is how often it was delivered before."""
        queue = self.queue(message.queue)
        if message.due is not None and message.due > now:
            entry = _Entry(message, since=message.due, deliveries=deliveries)
            heapq.heappush(queue.delayed, (message.due, next(self.numbers), entry))
            queue.changed.ring()
        else:
            place = next(self.numbers)
            queue.put(_Entry(message, since=now, place=place, deliveries=deliveries))

    def mature(self, queue: _Queue, now: datetime) -> None:
        """Let in what has become due, earliest first, behind what is there already."""
        while queue.delayed and queue.delayed[0][0] <= now:
            entry = heapq.heappop(queue.delayed)[2]
            entry.place = next(self.numbers)
            queue.put(entry)

    def take(self, consumer: MemoryConsumer, queue: _Queue, room: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while queue.ready and len(taken) < room:
            entry = heapq.heappop(queue.ready)[1]
            entry.deliveries += 1
            token = next(self.numbers)
            self.leases[token] = _Lease(token, entry, queue, consumer)
            taken.append(Delivery(entry.message, entry.deliveries, token))
        return taken

    def done(self, delivery: Delivery) -> _Lease | None:
        """Take a message out of its consumer's hands; None if it is not in them any more."""
        lease = self.leases.pop(delivery.token, None)
        if lease is not None:
            # The consumer may be waiting for room.
            lease.queue.changed.ring()
        return lease

    def hand_back(self, held: Callable[[_Lease], bool]) -> None:
        """Put back whatever is in the hands that `held` describes."""
        for token in [token for token, lease in self.leases.items() if held(lease)]:
            lease = self.leases.pop(token)
            lease.queue.put(lease.entry)


class MemoryConsumer:
    """Implements `Consumer`. It fetches nothing ahead, so its buffer is what it has handed out."""

    def __init__(self, broker: MemoryBroker, queue: str, limit: int) -> None:
        self._broker = broker
        self._queue = queue
        self._limit = limit
        self._stopped = False
        self._lost = False

    async def receive(self) -> list[Delivery]:
        """See `Consumer.receive`."""
        # Let others run first, as a server would, even when there is always something to receive.
        await asyncio.sleep(0)
        memory, clock = self._broker._memory, self._broker._clock
        queue = memory.queue(self._queue)
        while not self._stopped:
            self._check_connected()
            memory.mature(queue, clock.now())
            held = sum(lease.consumer is self for lease in memory.leases.values())
            if taken := memory.take(self, queue, self._limit - held):
                return taken
            if queue.delayed:
                await queue.changed.wait_until(clock, queue.delayed[0][0])
            else:
                await queue.changed.wait()
        return []

    def _check_connected(self) -> None:
        self._broker._check_open()
        if self._lost:
            raise BrokerUnavailable(
                f"the connection of the consumer of {self._queue!r} is lost; what it had not "
                "acknowledged comes again. Subscribe again."
            )

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        self._stopped = True
        self._broker._memory.queue(self._queue).changed.ring()

    async def close(self) -> None:
        """See `Consumer.close`."""
        await self.stop()
        self._broker._forget([self])

    def _crash(self) -> None:
        self._lost = True
        self._broker._memory.queue(self._queue).changed.ring()


class MemoryBroker:
    """Implements `Broker` for one process, without durability and without threads.

    Everything happens in a fixed order, and nothing runs in the background: a delayed message
    costs a timer only while a consumer waits on its queue. Copies of a message are all delivered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._memory = _Memory()
        self._consumers: list[MemoryConsumer] = []
        self._closed = False

    def reopened(self) -> MemoryBroker:
        """Another broker over the same messages: what a restarted engine or a client sees."""
        other = MemoryBroker(self._clock)
        other._memory = self._memory
        return other

    def crash_consumers(self) -> None:
        """Lose the connection of every consumer of this broker, as a killed process does.

        What they had not acknowledged is delivered again, to anyone, with a higher count; what
        the dead still acknowledge is ignored; their `receive` raises BrokerUnavailable.
        """
        for consumer in self._consumers:
            consumer._crash()
        self._forget(list(self._consumers))

    def lose_everything(self) -> None:
        """Lose every message, those in hand too, as a broker does whose disks are gone.

        The queues stay and are empty; what is still acknowledged is ignored.
        """
        memory = self._memory
        memory.leases.clear()
        memory.dead.clear()
        for queue in memory.queues.values():
            queue.ready.clear()
            queue.delayed.clear()
            queue.changed.ring()

    def _forget(self, consumers: Sequence[MemoryConsumer]) -> None:
        self._consumers = [known for known in self._consumers if known not in consumers]
        self._memory.hand_back(lambda lease: lease.consumer in consumers)

    async def declare(self, queues: Sequence[str]) -> None:
        """See `Broker.declare`."""
        self._check_open()
        for name in queues:
            self._memory.queues.setdefault(name, _Queue(name))

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Broker.publish`."""
        await asyncio.sleep(0)
        self._check_open()
        for message in messages:
            self._memory.queue(message.queue)
        for message in messages:
            self._memory.put(message, self._clock.now())

    async def request(self, message: Message) -> None:
        """See `Broker.request`. No less durable than any other message."""
        await self.publish([message])

    def consume(self, queue: str, *, limit: int) -> Consumer:
        """See `Broker.consume`."""
        self._check_open()
        self._memory.queue(queue)
        if limit < 1:
            raise UsageError(f"a consumer that may hold {limit} messages never receives one")
        consumer = MemoryConsumer(self, queue, limit)
        self._consumers.append(consumer)
        return consumer

    def own(self, queues: Sequence[str], *, limit: int) -> Consumer:
        """See `Broker.own`. Owners compete for every message, which is the worst that may happen."""
        return merged([self.consume(queue, limit=limit) for queue in queues])

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        await asyncio.sleep(0)
        self._check_open()
        for delivery in deliveries:
            self._memory.done(delivery)

    async def reply(self, delivery: Delivery, message: Message) -> None:
        """See `Broker.reply`. Between the two halves there is no moment to crash in."""
        await self.publish([message])
        self._memory.done(delivery)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.release`."""
        await asyncio.sleep(0)
        self._check_open()
        tokens = {delivery.token for delivery in deliveries}
        self._memory.hand_back(lambda lease: lease.token in tokens)

    async def dead_letter(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """See `Broker.dead_letter`."""
        await asyncio.sleep(0)
        self._check_open()
        if self._memory.done(delivery) is not None:
            died_at = self._clock.now()
            letter = DeadLetter(delivery.message, reason, detail, died_at, delivery.count)
            self._memory.dead.append(letter)

    async def dead_letters(self, *, queue: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `Broker.dead_letters`."""
        self._check_open()
        return [dead for dead in self._memory.dead if queue in (None, dead.message.queue)][:limit]

    async def redrive(self, ids: Sequence[UUID]) -> int:
        """See `Broker.redrive`."""
        await asyncio.sleep(0)
        letters = self._take_dead(ids)
        for letter in letters:
            self._memory.put(letter.message, self._clock.now(), deliveries=1)
        return len(letters)

    async def discard(self, ids: Sequence[UUID]) -> int:
        """See `Broker.discard`."""
        return len(self._take_dead(ids))

    def _take_dead(self, ids: Sequence[UUID]) -> list[DeadLetter]:
        self._check_open()
        taken = [letter for letter in self._memory.dead if letter.message.id in ids]
        self._memory.dead = [letter for letter in self._memory.dead if letter.message.id not in ids]
        return taken

    async def depths(self, queues: Sequence[str] = ()) -> list[QueueDepth]:
        """See `Broker.depths`."""
        self._check_open()
        return [self._depth(queue) for _, queue in sorted(self._memory.queues.items())]

    async def processes(self) -> list[Process]:
        """See `Broker.processes`. There is only this one."""
        self._check_open()
        return []

    def _depth(self, queue: _Queue) -> QueueDepth:
        self._memory.mature(queue, self._clock.now())
        held = [lease.entry for lease in self._memory.leases.values() if lease.queue is queue]
        ready = held + [entry for _, entry in queue.ready]
        return QueueDepth(
            queue=queue.name,
            ready=len(ready),
            delayed=len(queue.delayed),
            dead=sum(letter.message.queue == queue.name for letter in self._memory.dead),
            oldest=min((entry.since for entry in ready), default=None),
        )

    async def close(self) -> None:
        """See `Broker.close`. What its consumers had not acknowledged is handed back."""
        self._closed = True
        self.crash_consumers()

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerClosed("the broker is closed; nothing was published or acknowledged")

"""The broker in the embedded database: queues are rows of the file that holds the journals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar
from uuid import UUID

from amends.broker import embedded_rows as rows
from amends.broker.commit import TurnCommit
from amends.broker.embedded_errors import broker_words
from amends.broker.embedded_queue import NO_ROW, Hands, Held, Queue, State, columns_of
from amends.broker.embedded_time import Timekeeper
from amends.broker.merged import merged
from amends.broker.port import Consumer, DeadLetter, Delivery, Message, Process, QueueDepth
from amends.errors import BrokerClosed, StoreClosed, StoreError, UsageError
from amends.stores.checks import check_append
from amends.stores.port import Append
from amends.stores.sqlite.batch import Outgoing, Write
from amends.stores.sqlite.commit import Task, Transaction
from amends.stores.sqlite.database import SqliteDatabase
from amends.stores.sqlite.moments import to_us
from amends.stores.sqlite.schema import DELAYED, LATE_MESSAGE, MESSAGE

T = TypeVar("T")


class EmbeddedConsumer:
    """Implements `Consumer`. Holds at most `limit` messages, received or not."""

    def __init__(self, broker: EmbeddedBroker, queue: Queue, limit: int) -> None:
        self._broker = broker
        self._queue = queue
        self._hands = Hands(limit, queue)
        self._stopped = False
        queue.join(self._hands)

    async def receive(self) -> list[Delivery]:
        """See `Consumer.receive`."""
        # Let others run first, even when there is always something to receive.
        await asyncio.sleep(0)
        await self._broker._prepare(self._queue, self._hands.limit)
        while not self._stopped:
            await self._broker._fill(self._queue, self._hands)
            if self._stopped:
                break
            if self._hands.buffer:
                return self._hands.receive()
            await self._queue.bell.wait()
        return []

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        if not self._stopped:
            self._stopped = True
            if orphans := self._queue.leave(self._hands):
                await self._broker._hand_back(orphans, received=False)

    async def close(self) -> None:
        """See `Consumer.close`."""
        await self.stop()
        if self._hands.received:
            # A request that is being acknowledged has no row that would tell: wait for the writer.
            with suppress(StoreError):
                await self._broker._database.writer.perform(lambda transaction: None)
            await self._broker._hand_back(list(self._hands.received), received=True)
        self._broker._left(self)


class EmbeddedBroker:
    """Implements `Broker` and `Committer` on an open database, which it does not close.

    Publishing, acknowledging and the append of a turn are one transaction, and what is published
    here is handed to a consumer here as soon as it is durable. Publishing an id that is waiting
    already makes no second copy. A reply is not written at all as long as its receiver is in this
    process: the message that it answers stays in its queue until the reply is acknowledged.

    Other processes may publish on the same file; only one may consume, which
    `SqliteDatabase.acquire_engine_lock` is there to make sure of. `Delivery.count` is kept over a
    clean end; after a crash, one delivery is counted for as many messages of each queue as its
    first consumer may hold.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._queues: dict[str, Queue] = {}
        self._consumers: list[EmbeddedConsumer] = []
        self._prepared: set[str] = set()
        self._preparing = asyncio.Lock()
        self._was_killed: bool | None = None
        self._timekeeper = Timekeeper(database, self._move, self._look_everywhere)
        self._closed = False

    # --- publishing

    async def declare(self, queues: Sequence[str]) -> None:
        """See `Broker.declare`."""
        self._check_open()
        if missing := [name for name in queues if not self._find(name)]:
            await self._perform(rows.declare(missing))

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Broker.publish`. All are published, or none."""
        if messages:
            await self._write(messages=messages)

    async def request(self, message: Message) -> None:
        """See `Broker.request`. In memory while an engine in this process takes it."""
        queue = self._queue(message.queue)
        if message.due is not None or not queue.has_room_in_memory():
            await self.publish([message])
            return
        self._check_open()
        queue.put(Held(message, NO_ROW, queue))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`. All are acknowledged, or none."""
        await self._write(acknowledged=[delivery.token for delivery in deliveries])

    async def commit(self, turns: Sequence[TurnCommit]) -> list[Exception | None]:
        """See `Committer.commit`. A turn is written in one transaction, never in part."""
        planned = [self._plan_turn(turn) for turn in turns]
        await self._submit([write for write in planned if isinstance(write, Write)])
        return [write.error if isinstance(write, Write) else write for write in planned]

    async def _submit(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if write.is_empty:
                # At the most, what is acknowledged was in memory only.
                write.finish()
        await self._database.writer.submit_all([write for write in writes if not write.is_empty])

    def _plan_turn(self, turn: TurnCommit) -> Write | Exception:
        try:
            self._database.check_open()
            if turn.append is not None:
                check_append(turn.append)
            acknowledged = [delivery.token for delivery in turn.acknowledge]
            return self._plan(turn.publish, acknowledged, turn.append)
        except Exception as error:  # also a bug must not reach the other turns
            return error

    async def reply(self, delivery: Delivery, message: Message) -> None:
        """See `Broker.reply`. In memory, until the receiver's own commit acknowledges both."""
        held: Held = delivery.token
        queue = self._queue(message.queue)
        if (
            held.state is not State.HELD
            or message.due is not None
            or not queue.has_room_in_memory()
        ):
            await self._write(messages=[message], acknowledged=[held])
            return
        self._check_open()
        origin = held.origin or held
        held.settle(State.REPLIED)
        queue.put(Held(message, held.row, queue, origin=origin))

    async def _write(
        self, *, messages: Sequence[Message] = (), acknowledged: Sequence[Held] = ()
    ) -> None:
        write = self._plan(messages, acknowledged)
        with broker_words():
            await self._submit([write])
            if write.error is not None:
                raise write.error

    def _plan(
        self,
        messages: Sequence[Message],
        acknowledged: Sequence[Held],
        append: Append | None = None,
    ) -> Write:
        self._check_open()
        now = self._database.now_us()
        outgoing = [self._outgoing(message, now) for message in messages]
        # What is in nobody's hands any more was acknowledged before, or was handed back.
        held = [item for item in acknowledged if item.state is State.HELD]
        rows = [item.row for item in held if item.row != NO_ROW]
        write = Write(now, append, outgoing, rows)
        write.finished = partial(self._written, messages, held)
        return write

    def _outgoing(self, message: Message, now: int) -> Outgoing:
        kind, moment = MESSAGE, now
        if message.due is not None:
            moment = to_us(message.due)
            kind = DELAYED if moment > now else LATE_MESSAGE
        return Outgoing(kind, self._queue(message.queue).base, moment, columns_of(message))

    def _written(self, messages: Sequence[Message], held: Sequence[Held], write: Write) -> None:
        if write.error is not None:
            return
        for item in held:
            item.settle(State.DONE)
        place = write.first_place
        for message, out in zip(messages, write.outgoing, strict=True):
            if out.kind == DELAYED:
                self._timekeeper.expect(out.moment)
            elif place is None:
                self._queue(message.queue).look_again()
            else:
                self._queue(message.queue).hand_over(out.base + place, message)
            if place is not None:
                place += 1

    # --- consuming

    def consume(self, queue: str, *, limit: int) -> Consumer:
        """See `Broker.consume`."""
        self._check_open()
        if limit < 1:
            raise UsageError(f"a consumer that may hold {limit} messages never receives one")
        consumer = EmbeddedConsumer(self, self._queue(queue), limit)
        self._consumers.append(consumer)
        if len(self._consumers) == 1:
            self._database.writer.watch()
            self._database.writer.on_foreign.append(self._look_everywhere)
            self._database.on_close.append(self._look_everywhere)
        return consumer

    def own(self, queues: Sequence[str], *, limit: int) -> Consumer:
        """See `Broker.own`. All of them: one process consumes."""
        return merged([self.consume(queue, limit=limit) for queue in queues])

    def _left(self, consumer: EmbeddedConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            if not self._consumers:
                self._database.writer.unwatch()
                self._database.writer.on_foreign.remove(self._look_everywhere)
                self._database.on_close.remove(self._look_everywhere)

    def _look_everywhere(self) -> None:
        for queue in self._queues.values():
            queue.look_again()
        self._timekeeper.expect_anything()

    async def _prepare(self, queue: Queue, limit: int) -> None:
        """Before anything of a queue is received here for the first time."""
        if queue.name in self._prepared:
            return
        async with self._preparing:
            if self._was_killed is None:
                self._was_killed = await self._perform(rows.begin_consuming)
            if self._was_killed and queue.name not in self._prepared:
                await self._perform(rows.count_lost(queue, limit))
            self._prepared.add(queue.name)
            self._timekeeper.start()

    async def _fill(self, queue: Queue, hands: Hands) -> None:
        self._check_open()
        self._timekeeper.check()
        with broker_words():
            await self._database.patiently(lambda: queue.fill(hands, self._database.query))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.release`. All are handed back and counted, or none is."""
        self._check_open()
        with broker_words():
            await self._return([delivery.token for delivery in deliveries], received=True)

    async def _hand_back(self, held: Sequence[Held], *, received: bool) -> None:
        """When a consumer ends. If this fails rows come again, uncounted; senders of requests wait."""
        try:
            await self._return(held, received=received)
        except StoreError:
            for item in held:
                item.settle(State.RETURNED)

    async def _return(self, held: Sequence[Held], *, received: bool) -> None:
        held = [item for item in held if item.state is State.HELD]
        if not held:
            return
        task = Task(rows.hand_back(held, self._database.now_us(), received=received))

        def finished(task: Task) -> None:
            for item in held if task.error is None else ():
                item.settle(State.RETURNED)

        task.finished = finished
        await self._database.writer.submit(task)

    async def dead_letter(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """See `Broker.dead_letter`."""
        self._check_open()
        held: Held = delivery.token
        if held.state is not State.HELD:
            return
        task = Task(rows.bury(held, self._database.now_us(), reason, detail))

        def finished(task: Task) -> None:
            if task.error is None:
                held.settle(State.DONE)

        task.finished = finished
        with broker_words():
            await self._database.writer.submit(task)

    async def dead_letters(self, *, queue: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `Broker.dead_letters`."""
        self._check_open()
        with broker_words():
            found = await self._database.read(rows.SELECT_DEAD, [queue, limit])
        return [rows.read_dead(row) for row in found]

    async def redrive(self, ids: Sequence[UUID]) -> int:
        """See `Broker.redrive`. All of them, or none."""
        self._check_open()
        with broker_words():
            return await self._move(rows.redrive(ids, self._database.now_us()))

    async def discard(self, ids: Sequence[UUID]) -> int:
        """See `Broker.discard`."""
        return await self._perform(rows.discard(ids))

    async def depths(self, queues: Sequence[str] = ()) -> list[QueueDepth]:
        """See `Broker.depths`. Counts every waiting message: not for a busy loop."""
        self._check_open()
        ready_sql, delayed_sql = rows.DEPTH_QUERIES
        with broker_words():
            ready, delayed = await self._database.count(
                (ready_sql, []), (delayed_sql, [self._database.now_us()])
            )
        return rows.read_depths(ready, delayed)

    async def processes(self) -> list[Process]:
        """See `Broker.processes`. The file does not tell."""
        self._check_open()
        return []

    # --- the rest

    async def close(self) -> None:
        """See `Broker.close`. What its consumers had not acknowledged is handed back."""
        if self._closed:
            return
        self._closed = True
        self._timekeeper.stop()
        # All at once: while one hands back what it has, none of the others may receive.
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        if self._was_killed is not None:
            try:
                await self._database.writer.perform(rows.end_consuming)
            except StoreClosed:
                return

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerClosed("the broker is closed; nothing was published or acknowledged")

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name) or self._find(name)
        if queue is None:
            raise UsageError(
                f"queue {name!r} was never declared; nothing was published. Declare it first."
            )
        return queue

    def _find(self, name: str) -> Queue | None:
        """A queue by name, which may have been declared by another process."""
        if name not in self._queues:
            with broker_words():
                found = self._database.query("SELECT id FROM queues WHERE name = ?", [name])
            if not found:
                return None
            self._queues[name] = Queue(name, found[0][0])
        return self._queues[name]

    async def _move(self, run: Callable[[Transaction], int]) -> int:
        """Make messages ready that were not; how many.

        The queues are told in commit order, like those that messages are handed to: told any
        later, they might have handed on what was published behind these, and never look back.
        """
        task = Task(run)

        task.finished = lambda _: self._look_everywhere()
        await self._database.writer.submit(task)
        moved: int = task.result
        return moved

    async def _perform(self, run: Callable[[Transaction], T]) -> T:
        self._check_open()
        with broker_words():
            return await self._database.writer.perform(run)

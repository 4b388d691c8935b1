"""The orchestrator: takes deliveries from the inboxes, and turns from them.

The turns of one instance follow one another; different instances go on side by side, so that
their commits can share a sync. The cache of live instances is only a cache: whatever it holds
can be thrown away and read back from the journal, and is, when a commit does not succeed.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import timedelta

import structlog

from amends.broker.commit import Committer
from amends.broker.port import Broker, Consumer, Delivery
from amends.broker.topology import inbox_queue
from amends.domain.clock import Clock
from amends.domain.ids import InstanceId
from amends.domain.messages import StartSaga, decode_message
from amends.errors import (
    BrokerClosed,
    BrokerUnavailable,
    DecodeError,
    InvalidJournal,
    InvalidMessage,
    StoreClosed,
    StoreError,
    WrongExpectedVersion,
)
from amends.sagas.dispatch import Dispatcher
from amends.sagas.execution import ActivityMap
from amends.sagas.outside import outside_tasks
from amends.sagas.turn import Inbound, Live, SagaMap, Turn, TurnTaker
from amends.stores.port import EventStore

log = structlog.get_logger("amends.orchestrator")

#: Wait before a commit that failed for reasons of the store or broker is tried again.
BACKOFF_INITIAL_S = 0.05
BACKOFF_MAX_S = 5.0


class Orchestrator:
    """Runs the sagas of one application over the inboxes of a broker.

    `inbox_limit` bounds the messages in hand for each partition, `cache_max` the instances kept
    live, `turn_messages_max` the messages that one turn takes.
    """

    def __init__(
        self,
        *,
        sagas: SagaMap,
        activities: ActivityMap,
        store: EventStore,
        broker: Broker,
        committer: Committer,
        clock: Clock,
        partitions: int = 1,
        inbox_limit: int = 1000,
        cache_max: int = 4096,
        turn_messages_max: int = 100,
    ) -> None:
        self._store = store
        self._broker = broker
        self._committer = committer
        self._clock = clock
        self._partitions = partitions
        self._inbox_limit = inbox_limit
        self._cache_max = cache_max
        self._turn_messages_max = turn_messages_max
        self._turns = TurnTaker(sagas, activities, Dispatcher(partitions))
        self._cache: OrderedDict[InstanceId, Live] = OrderedDict()
        self._mail: dict[InstanceId, deque[Inbound]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._consumers: list[Consumer] = []

    async def run(self) -> None:
        """Work until `stop` is called; returns when everything in hand is done."""
        self._consumers = [
            self._broker.consume(inbox_queue(partition), limit=self._inbox_limit)
            for partition in range(self._partitions)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for consumer in self._consumers:
                    group.create_task(self._receive(consumer))
            await self._drain()
        finally:
            for task in self._working:
                task.cancel()
            for consumer in self._consumers:
                await consumer.close()
            for live in self._cache.values():
                live.discard()
            self._cache.clear()

    async def stop(self) -> None:
        """Take no more messages; `run` then finishes those in hand and returns."""
        for consumer in self._consumers:
            await consumer.stop()

    async def _drain(self) -> None:
        while self._working:
            await asyncio.wait(self._working)

    # --- messages

    async def _receive(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive():
            for delivery in deliveries:
                try:
                    message = decode_message(delivery.message.type, delivery.message.body)
                except InvalidMessage as error:
                    await self._put_aside(delivery, "unreadable", str(error))
                    continue
                self._deliver(message.instance, Inbound(delivery, message))

    def _deliver(self, instance: InstanceId, inbound: Inbound) -> None:
        mail = self._mail.get(instance)
        if mail is not None:
            mail.append(inbound)
            return
        self._mail[instance] = deque((inbound,))
        task = asyncio.create_task(self._work(instance))
        self._working.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("turn_crashed", exc_info=task.exception())

    async def _put_aside(self, delivery: Delivery, reason: str, detail: str) -> None:
        log.warning("dead_letter", reason=reason, detail=detail, key=delivery.message.key)
        await self._broker.dead_letter(delivery, reason=reason, detail=detail)

    # --- turns

    async def _work(self, instance: InstanceId) -> None:
        """Take turns until the instance has no mail."""
        mail = self._mail[instance]
        failures = 0
        may_be_new = True
        try:
            while mail:
                inbound = [mail.popleft() for _ in range(min(len(mail), self._turn_messages_max))]
                left: Sequence[Inbound] = inbound
                try:
                    left = await self._turn(instance, inbound, may_be_new=may_be_new)
                    failures = 0
                except WrongExpectedVersion:
                    # Somebody else took a turn: read what they wrote, and decide again.
                    may_be_new = False
                except (StoreClosed, BrokerClosed):
                    return
                except (StoreError, BrokerUnavailable) as error:
                    failures += 1
                    await self._back_off(instance, failures, error)
                    left = [_again(item) for item in inbound]
                except Exception:
                    await self._put_all_aside(inbound, "engine error", traceback.format_exc())
                    left = []
                mail.extendleft(reversed(left))
        finally:
            del self._mail[instance]

    async def _back_off(self, instance: InstanceId, failures: int, error: Exception) -> None:
        delay_s = min(BACKOFF_MAX_S, BACKOFF_INITIAL_S * 2.0 ** min(failures, 20))
        log.warning("turn_retried", instance=str(instance), delay_s=delay_s, error=str(error))
        await self._clock.sleep_until(self._clock.now() + timedelta(seconds=delay_s))

    async def _turn(
        self, instance: InstanceId, inbound: list[Inbound], *, may_be_new: bool
    ) -> Sequence[Inbound]:
        """Take one turn and commit it; what it left over comes back."""
        live = await self._live(instance, inbound, may_be_new=may_be_new)
        if live is None:
            return []
        try:
            turn = await outside_tasks(lambda: self._turns.take(live, inbound, self._clock.now()))
            await self._committer.commit(turn.commit)
        except BaseException:
            live.discard()
            raise
        self._committed(instance, live, turn)
        return inbound[turn.taken :]

    def _committed(self, instance: InstanceId, live: Live, turn: Turn) -> None:
        live.state.version += len(turn.events)
        if live.bug is not None:
            log.error(
                "saga_stalled",
                instance=str(instance),
                error=f"{type(live.bug).__name__}: {live.bug}",
            )
        if live.execution is None or live.is_done or live.state.version < 0:
            live.discard()
            return
        self._cache[instance] = live
        while len(self._cache) > self._cache_max:
            _, oldest = self._cache.popitem(last=False)
            oldest.discard()

    async def _live(
        self, instance: InstanceId, inbound: list[Inbound], *, may_be_new: bool
    ) -> Live | None:
        """The instance, live: from the cache, new, or from its journal. While it works, it is
        out of the cache. None if its messages had to be put aside.
        """
        cached = self._cache.pop(instance, None)
        if cached is not None:
            return cached
        if may_be_new and isinstance(inbound[0].message, StartSaga):
            # Most probably new: the append at "no stream" finds out for less than a read.
            return self._turns.begin(instance)
        records = await self._store.read(instance.stream)
        if records:
            try:
                return await outside_tasks(lambda: self._turns.load(instance, records))
            except (InvalidJournal, DecodeError) as error:
                await self._put_all_aside(inbound, "unreadable journal", str(error))
                return None
        if any(isinstance(item.message, StartSaga) for item in inbound):
            inbound.sort(key=lambda item: not isinstance(item.message, StartSaga))
            return self._turns.begin(instance)
        await self._put_all_aside(inbound, "no such instance", f"{instance} was never started")
        return None

    async def _put_all_aside(self, inbound: list[Inbound], reason: str, detail: str) -> None:
        for item in inbound:
            await self._put_aside(item.delivery, reason, detail)


def _again(item: Inbound) -> Inbound:
    """The append may have happened: if so, this duplicate must re-drive."""
    delivery = item.delivery
    return Inbound(delivery._replace(count=delivery.count + 1), item.message)

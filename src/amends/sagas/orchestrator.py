"""The orchestrator: takes deliveries from the inboxes, and turns from them.

The turns of one instance follow one another; different instances go on side by side, so that
their commits can share a sync. The cache of live instances is only a cache: whatever it holds
can be thrown away and read back from the journal, and is, when a commit does not succeed.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Sequence
from functools import partial

import structlog

from amends.broker.commit import Committer
from amends.broker.port import Broker, Delivery
from amends.broker.subscription import Subscription
from amends.broker.topology import inbox_queue
from amends.domain.backoff import back_off, backoff_s
from amends.domain.clock import Clock
from amends.domain.events import SagaStalled
from amends.domain.ids import ExpectedVersion, InstanceId
from amends.domain.messages import OF_THE_ENGINE, StartSaga, decode_message
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
from amends.sagas.cache import LiveCache
from amends.sagas.dispatch import Dispatcher
from amends.sagas.execution import ActivityMap, SagaMap
from amends.sagas.outside import outside_tasks
from amends.sagas.turn import Inbound, Live, Turn, TurnTaker
from amends.stores.port import EventStore

log = structlog.get_logger("amends.orchestrator")


class Orchestrator:
    """Runs the sagas of one application over the inboxes of a broker.

    `inbox_limit` bounds the messages in hand for each partition, `turn_messages_max` those that
    one turn takes. `cache` keeps instances live between turns.
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
        cache: LiveCache,
        turn_messages_max: int = 100,
    ) -> None:
        self._store = store
        self._broker = broker
        self._committer = committer
        self._clock = clock
        self._partitions = partitions
        self._inbox_limit = inbox_limit
        self._turn_messages_max = turn_messages_max
        self._turns = TurnTaker(sagas, activities, Dispatcher(partitions, activities))
        self._cache = cache
        self._mail: dict[InstanceId, deque[Inbound]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._inboxes: list[Subscription] = []

    async def run(self) -> None:
        """Work until `stop` is called; returns when everything in hand is done."""
        self._inboxes = [
            Subscription(
                self._broker, inbox_queue(number), limit=self._inbox_limit, clock=self._clock
            )
            for number in range(self._partitions)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for inbox in self._inboxes:
                    group.create_task(self._receive(inbox))
            await self._drain()
        finally:
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
            for inbox in self._inboxes:
                await inbox.close()
            self._cache.clear()

    async def stop(self) -> None:
        """Take no more messages; `run` then finishes those in hand and returns."""
        for inbox in self._inboxes:
            await inbox.stop()

    async def _drain(self) -> None:
        while self._working:
            await asyncio.wait(self._working)

    # --- messages

    async def _receive(self, inbox: Subscription) -> None:
        while deliveries := await inbox.receive():
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
        failures = 0
        while True:
            try:
                return await self._broker.dead_letter(delivery, reason=reason, detail=detail)
            except BrokerUnavailable:
                failures += 1
                await back_off(self._clock, failures)

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
                    log.warning(
                        "turn_retried",
                        instance=str(instance),
                        delay_s=backoff_s(failures),
                        error=str(error),
                    )
                    await back_off(self._clock, failures)
                    left = [_again(item) for item in inbound]
                except Exception:
                    await self._put_all_aside(inbound, "engine error", traceback.format_exc())
                    left = []
                mail.extendleft(reversed(left))
        finally:
            del self._mail[instance]

    async def _turn(
        self, instance: InstanceId, inbound: list[Inbound], *, may_be_new: bool
    ) -> Sequence[Inbound]:
        """Take one turn and commit it; what it left over comes back."""
        live = self._cache.take(instance)
        was_cached = live is not None
        if live is None:
            live = await self._load(instance, inbound, may_be_new=may_be_new)
        if live is None:
            return []
        taker = partial(self._turns.take, live, inbound, self._clock.now())
        try:
            turn = await outside_tasks(taker)
            if was_cached and turn.commit.append is None:
                await self._check_current(live)
            await self._committer.commit(turn.commit)
        except BaseException:
            live.discard()
            raise
        self._committed(instance, live, turn)
        for delivery, why in turn.refused:
            await self._put_aside(delivery, "refused", why)
        return inbound[turn.taken :]

    def _committed(self, instance: InstanceId, live: Live, turn: Turn) -> None:
        live.state.version += len(turn.events)
        if live.bug is not None and any(isinstance(e, SagaStalled) for e in turn.events):
            log.error(
                "saga_stalled",
                instance=str(instance),
                error=f"{type(live.bug).__name__}: {live.bug}",
            )
        self._cache.put(live)

    async def _check_current(self, live: Live) -> None:
        """Raise WrongExpectedVersion if somebody else took a turn since the cache was filled.

        An append finds that out by itself. Without one, a message could pass for a duplicate
        only because the cache knows too little, and would be lost.
        """
        last = await self._store.read_backwards(live.state.instance.stream, limit=1)
        actual = last[0].version if last else -1
        known = live.state.version
        if actual != known:
            raise WrongExpectedVersion(live.state.instance.stream, ExpectedVersion(known), actual)

    async def _load(
        self, instance: InstanceId, inbound: list[Inbound], *, may_be_new: bool
    ) -> Live | None:
        """The instance, live: new, or from its journal. None if its messages were put aside."""
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
        await self._refuse_all(instance, inbound)
        return None

    async def _refuse_all(self, instance: InstanceId, inbound: list[Inbound]) -> None:
        """There is no such instance. Of what the engine sent itself nobody need hear: it can only
        be left over from an instance that has ended and whose journal was removed since.
        """
        left_over = [item.delivery for item in inbound if isinstance(item.message, OF_THE_ENGINE)]
        if left_over:
            log.info("message_left_over", instance=str(instance), count=len(left_over))
            await self._broker.ack(left_over)
        others = [item for item in inbound if not isinstance(item.message, OF_THE_ENGINE)]
        await self._put_all_aside(
            others,
            "no such instance",
            f"{instance} was never started, or its journal was removed since",
        )

    async def _put_all_aside(self, inbound: list[Inbound], reason: str, detail: str) -> None:
        for item in inbound:
            await self._put_aside(item.delivery, reason, detail)


def _again(item: Inbound) -> Inbound:
    """The append may have happened: if so, this duplicate must re-drive."""
    delivery = item.delivery
    return Inbound(delivery._replace(count=delivery.count + 1), item.message)

"""The orchestrator: takes deliveries from the inboxes, and turns from them.

The turns of one instance follow one another; those of different instances are taken in rounds,
so that their commits share a sync. The cache of live instances is only a cache: whatever it holds
can be thrown away and read back from the journal, and is, when a commit does not succeed.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

from amends.broker.commit import Committer
from amends.broker.port import Broker, Delivery
from amends.broker.subscription import Subscription
from amends.broker.topology import inbox_queue
from amends.domain.backoff import back_off, backoff_s
from amends.domain.clock import Clock
from amends.domain.events import SagaStalled
from amends.domain.messages import OF_THE_ENGINE, decode_message
from amends.errors import (
    BrokerClosed,
    BrokerUnavailable,
    InvalidMessage,
    StoreClosed,
    StoreError,
    WrongExpectedVersion,
)
from amends.sagas.cache import LiveCache
from amends.sagas.dispatch import Dispatcher
from amends.sagas.execution import ActivityMap, SagaMap
from amends.sagas.mailboxes import Mailbox, Mailboxes
from amends.sagas.rounds import NoSuchInstance, NoTurn, Part, RoundTaker
from amends.sagas.turn import Inbound, TurnTaker
from amends.stores.port import EventStore
from amends.telemetry import Log

log = Log("amends.orchestrator")

#: Instances that take their turns in one go, during which the event loop does nothing else.
ROUND_INSTANCES_MAX: Final = 64


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
        self._broker = broker
        self._clock = clock
        self._partitions = partitions
        self._inbox_limit = inbox_limit
        self._cache = cache
        turns = TurnTaker(sagas, activities, Dispatcher(partitions, activities))
        self._rounds = RoundTaker(
            turns, store, committer, cache, clock, turn_messages_max=turn_messages_max
        )
        self._mail = Mailboxes()
        self._working: set[asyncio.Task[None]] = set()
        self._inboxes: Subscription | None = None

    async def run(self) -> None:
        """Work until `stop` is called; returns when everything in hand is done."""
        queues = [inbox_queue(number) for number in range(self._partitions)]
        subscribe = partial(self._broker.own, queues, limit=self._inbox_limit)
        inboxes = self._inboxes = Subscription(subscribe, clock=self._clock)
        try:
            while deliveries := await inboxes.receive():
                await self._accept(deliveries)
            await self._drain()
        finally:
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
            await inboxes.close()
            self._cache.clear()

    async def stop(self) -> None:
        """Take no more messages; `run` then finishes those in hand and returns."""
        if self._inboxes is not None:
            await self._inboxes.stop()

    async def _drain(self) -> None:
        while self._working:
            await asyncio.wait(self._working)

    def _spawn(self, work: Coroutine[Any, Any, None], box: Mailbox | None = None) -> None:
        """Run something beside; it gives `box` back in the end."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(partial(self._worked, box))

    def _worked(self, box: Mailbox | None, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        log.error("turn_crashed", exc_info=error)
        if box is not None and not isinstance(error, BrokerClosed):
            # Its messages stay in hand, and come again when this orchestrator is gone. Those that
            # came meanwhile need not wait for that.
            self._give_back(box)

    # --- messages

    async def _accept(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            try:
                message = decode_message(delivery.message.type, delivery.message.body)
            except InvalidMessage as error:
                await self._put_aside([delivery], "unreadable", str(error))
                continue
            self._mail.put(message.instance, Inbound(delivery, message))
        self._begin_rounds()

    async def _put_aside(self, deliveries: Sequence[Delivery], reason: str, detail: str) -> None:
        for delivery in deliveries:
            log.warning("dead_letter", reason=reason, detail=detail, key=delivery.message.key)
            failures = 0
            while True:
                try:
                    await self._broker.dead_letter(delivery, reason=reason, detail=detail)
                    break
                except BrokerUnavailable:
                    failures += 1
                    await back_off(self._clock, failures)

    # --- turns

    def _begin_rounds(self) -> None:
        while boxes := self._mail.next(ROUND_INSTANCES_MAX):
            self._spawn(self._round(boxes))

    async def _round(self, boxes: Sequence[Mailbox]) -> None:
        try:
            parts = await self._rounds.take(boxes)
        except BaseException:
            for box in boxes:
                self._mail.drop(box)
            raise
        for part in parts:
            if part.error is None:
                self._committed(part)
            else:
                self._failed(part, part.error)
        self._begin_rounds()

    def _committed(self, part: Part) -> None:
        turn, live = part.turn, part.live
        assert turn is not None
        assert live is not None
        part.box.failures = 0
        part.box.may_be_new = part.box.may_be_new and turn.commit.append is None
        if live.bug is not None and any(isinstance(e, SagaStalled) for e in turn.events):
            log.error(
                "saga_stalled",
                instance=str(part.box.instance),
                error=f"{type(live.bug).__name__}: {live.bug}",
            )
        left = part.inbound[turn.taken :]
        if turn.refused:
            self._spawn(self._refuse(part.box, turn.refused, left), part.box)
        else:
            self._mail.give_back(part.box, left)

    def _failed(self, part: Part, error: Exception) -> None:
        box = part.box
        if isinstance(error, WrongExpectedVersion):
            # Somebody else took a turn: read what they wrote, and decide again.
            log.info("turn_overtaken", instance=str(box.instance))
            box.may_be_new = False
            self._mail.give_back(box, part.inbound)
        elif isinstance(error, StoreClosed | BrokerClosed):
            self._mail.drop(box)
        elif isinstance(error, StoreError | BrokerUnavailable):
            box.failures += 1
            log.warning(
                "turn_retried",
                instance=str(box.instance),
                delay_s=backoff_s(box.failures),
                error=str(error),
            )
            self._spawn(self._try_again_later(box, part.inbound), box)
        elif isinstance(error, NoSuchInstance):
            self._spawn(self._refuse_all(box, part.inbound), box)
        elif isinstance(error, NoTurn):
            self._spawn(self._give_up(box, part.inbound, error.reason, error.detail), box)
        else:
            trace = "".join(traceback.format_exception(error))
            self._spawn(self._give_up(box, part.inbound, "engine error", trace), box)

    async def _refuse(
        self, box: Mailbox, refused: Sequence[tuple[Delivery, str]], left: Sequence[Inbound]
    ) -> None:
        for delivery, why in refused:
            await self._put_aside([delivery], "refused", why)
        self._give_back(box, left)

    async def _try_again_later(self, box: Mailbox, inbound: Sequence[Inbound]) -> None:
        await back_off(self._clock, box.failures)
        self._give_back(box, [_again(item) for item in inbound])

    async def _refuse_all(self, box: Mailbox, inbound: Sequence[Inbound]) -> None:
        """There is no such instance. Of what the engine sent itself nobody need hear: it can only
        be left over from an instance that has ended and whose journal was removed since.
        """
        left_over = [item.delivery for item in inbound if isinstance(item.message, OF_THE_ENGINE)]
        if left_over:
            log.info("message_left_over", instance=str(box.instance), count=len(left_over))
            try:
                await self._broker.ack(left_over)
            except BrokerUnavailable:
                box.failures += 1
                return await self._try_again_later(box, inbound)
        others = [item for item in inbound if not isinstance(item.message, OF_THE_ENGINE)]
        detail = f"{box.instance} was never started, or its journal was removed since"
        return await self._give_up(box, others, "no such instance", detail)

    async def _give_up(
        self, box: Mailbox, inbound: Sequence[Inbound], reason: str, detail: str
    ) -> None:
        await self._put_aside([item.delivery for item in inbound], reason, detail)
        self._give_back(box)

    def _give_back(self, box: Mailbox, left: Sequence[Inbound] = ()) -> None:
        self._mail.give_back(box, left)
        self._begin_rounds()


def _again(item: Inbound) -> Inbound:
    """The append may have happened: if so, this duplicate must re-drive."""
    delivery = item.delivery
    return Inbound(delivery._replace(count=delivery.count + 1), item.message)

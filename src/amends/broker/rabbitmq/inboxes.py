"""This process's share of the inboxes, as one consumer.

Every inbox of the share has a consumer of its own. When an inbox is another's from now on, what is
in hand of it is finished first, and then its channel is closed: the server then gives the new owner
what was not begun, in order, before all else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from amends.broker.port import Delivery
from amends.broker.rabbitmq.consumer import RabbitConsumer
from amends.broker.rabbitmq.members import Membership
from amends.domain.backoff import back_off
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.errors import BrokerUnavailable, UsageError
from amends.telemetry import Log

log = Log("amends.broker")

#: How long what is in hand may take to be finished before an inbox is handed over all the same.
HANDOVER_S: Final = 10.0


class Inboxes:
    """Implements `Consumer`. `make` makes a consumer of one queue that rings the given bell;
    `prepare` raises UsageError for a queue that is not there and was never declared. `on_first_taken`
    is called when this process has taken the first of all inboxes, which one process has.
    """

    def __init__(
        self,
        queues: Sequence[str],
        membership: Membership,
        clock: Clock,
        *,
        make: Callable[[str, Bell], RabbitConsumer],
        prepare: Callable[[str], Awaitable[None]],
        on_first_taken: Callable[[], None],
    ) -> None:
        self.queues = frozenset(queues)
        self._membership = membership
        self._clock = clock
        self._make = make
        self._prepare = prepare
        self._on_first_taken = on_first_taken
        self._bell = Bell()
        self._consumers: dict[str, RabbitConsumer] = {}
        self._serving: list[asyncio.Task[None]] = []
        self._beginning: asyncio.Task[None] | None = None
        self._stopped = False

    # --- the port

    async def receive(self) -> list[Delivery]:
        """See `Consumer.receive`. Connections that are lost are no concern of the receiver's."""
        await asyncio.sleep(0)
        if self._beginning is None and not self._stopped:
            self._beginning = asyncio.create_task(self._begin())
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
            if not self._beginning.cancelled():
                self._beginning.result()
        while not self._stopped:
            if taken := list(self._take()):
                return taken
            await self._bell.wait()
        return []

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        self._stopped = True
        self._wake()
        self._membership.say_hello()

    async def close(self) -> None:
        """See `Consumer.close`."""
        await self.stop()
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.gather(self._beginning, return_exceptions=True)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for consumer in self.consumers():
            await consumer.close()
        self._consumers.clear()
        self._membership.note_change()

    # --- for reports

    def consumers(self) -> list[RabbitConsumer]:
        """Those of the inboxes that this process serves now."""
        return list(self._consumers.values())

    @property
    def wanted(self) -> frozenset[str]:
        """The inboxes that this process would own."""
        return frozenset() if self._stopped else self.queues

    # --- serving

    def _take(self) -> Iterator[Delivery]:
        for consumer in self._consumers.values():
            with suppress(BrokerUnavailable):  # whoever serves it sees that for itself
                yield from consumer.take()

    async def _begin(self) -> None:
        for queue in sorted(self.queues):
            await self._prepare(queue)
        self._membership.start()
        await self._membership.joined()
        self._membership.say_hello()
        self._serving = [asyncio.create_task(self._serve(queue)) for queue in sorted(self.queues)]

    def _is_mine(self, queue: str) -> bool:
        if self._stopped:
            return False
        if self._membership.blocked_since is not None and queue in self._consumers:
            return True  # nobody is heard now, which says nothing about who is there
        return queue in self._membership.share(self.queues)

    async def _serve(self, queue: str) -> None:
        """Consume an inbox whenever it is this process's."""
        failures = 0
        while not self._stopped:
            if not self._is_mine(queue):
                await self._membership.changed.wait()
                continue
            consumer = self._make(queue, self._bell)
            try:
                await consumer.subscribe()
                failures = 0
                self._consumers[queue] = consumer
                log.info("inbox_taken", queue=queue)
                self._wake()
                if queue == min(self.queues):
                    self._on_first_taken()
                await self._while_mine(consumer)
                await self._finish(consumer)
            except (BrokerUnavailable, UsageError) as error:
                failures += 1
                log.warning("inbox_not_taken", queue=queue, error=str(error))
            except Exception as error:
                # A mistake of ours. Without this task, nobody would serve the inbox ever again.
                failures += 1
                log.error("inbox_not_taken", queue=queue, exc_info=error)
            finally:
                self._consumers.pop(queue, None)
                self._membership.note_change()
                await consumer.close()
            log.info("inbox_left", queue=queue)
            if failures:
                await back_off(self._clock, failures)

    async def _while_mine(self, consumer: RabbitConsumer) -> None:
        while self._is_mine(consumer.queue) and not consumer.is_lost:
            await self._membership.changed.wait()

    async def _finish(self, consumer: RabbitConsumer) -> None:
        consumer.drain()
        self._membership.note_change()
        self._membership.say_here()  # or they send through it what is for others of mine
        try:
            async with asyncio.timeout(HANDOVER_S):
                await consumer.drained()
        except TimeoutError:
            log.warning("inbox_left_unfinished", queue=consumer.queue, held=consumer.held)

    def _wake(self) -> None:
        self._bell.ring()
        self._membership.note_change()

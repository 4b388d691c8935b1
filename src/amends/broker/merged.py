"""Several consumers as one, for brokers whose queues never change hands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from amends.broker.port import Consumer, Delivery


def merged(consumers: Sequence[Consumer]) -> Consumer:
    """One consumer of all that these consume."""
    return consumers[0] if len(consumers) == 1 else MergedConsumer(consumers)


class MergedConsumer:
    """Implements `Consumer` over consumers of several queues."""

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        self._receiving: dict[asyncio.Task[list[Delivery]], Consumer] = {}
        self._begun = False

    async def receive(self) -> list[Delivery]:
        """See `Consumer.receive`."""
        if not self._begun:
            self._begun = True
            for consumer in self._consumers:
                self._begin(consumer)
        while self._receiving:
            done, _ = await asyncio.wait(self._receiving, return_when=asyncio.FIRST_COMPLETED)
            received = [
                delivery
                # In their own order, so that the same happens again under the same seed.
                for task in [task for task in self._receiving if task in done]
                for delivery in self._end(task)
            ]
            if received:
                return received
        return []

    def _begin(self, consumer: Consumer) -> None:
        task = asyncio.create_task(consumer.receive())
        # Of several that fail at once, the first one is told.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._receiving[task] = consumer

    def _end(self, task: asyncio.Task[list[Delivery]]) -> list[Delivery]:
        consumer = self._receiving.pop(task)
        received = task.result()
        if received:
            self._begin(consumer)
        return received

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        for consumer in self._consumers:
            await consumer.stop()

    async def close(self) -> None:
        """See `Consumer.close`."""
        for consumer in self._consumers:
            await consumer.close()
        await asyncio.gather(*self._receiving, return_exceptions=True)

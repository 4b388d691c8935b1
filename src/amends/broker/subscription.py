"""A subscription that outlives its connections: when one is lost, it subscribes again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from amends.broker.port import Consumer, Delivery
from amends.domain.backoff import backoff_s
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.errors import BrokerUnavailable
from amends.telemetry import Log

log = Log("amends.broker")


class Subscription:
    """Implements `Consumer`, except that a lost connection is not the receiver's concern.

    What was in hand when a connection was lost comes again, as a copy.
    """

    def __init__(self, subscribe: Callable[[], Consumer], *, clock: Clock) -> None:
        self._subscribe = subscribe
        self._clock = clock
        self._stopped = False
        self._stopping = Bell()
        self._consumer = subscribe()

    async def receive(self) -> list[Delivery]:
        """Wait for messages and take what is there, at least one; [] once stopped."""
        failures = 0
        while not self._stopped:
            try:
                if failures:
                    self._consumer = self._subscribe()
                return await self._consumer.receive()
            except BrokerUnavailable as error:
                failures += 1
                await self._consumer.close()
                if not self._stopped:
                    log.warning("subscribing_again", error=str(error))
                    delay = timedelta(seconds=backoff_s(failures))
                    await self._stopping.wait_until(self._clock, self._clock.now() + delay)
        return []

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        self._stopped = True
        self._stopping.ring()
        await self._consumer.stop()

    async def close(self) -> None:
        """See `Consumer.close`."""
        self._stopped = True
        self._stopping.ring()
        await self._consumer.close()

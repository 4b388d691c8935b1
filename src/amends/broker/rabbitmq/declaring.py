"""What a process has declared, and declares again when somebody deletes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from amends.broker.rabbitmq import topology
from amends.broker.rabbitmq.connection import Connection
from amends.broker.rabbitmq.names import Names
from amends.errors import UsageError
from amends.telemetry import Log

log = Log("amends.broker")

#: A queue that was deleted is not declared again at once: RabbitMQ 3.10 would take the consumers of
#: the old one for those of the new one, and give them messages that never reach them, until their
#: channels are closed.
VANISHED_S: Final = 1.0


class Declarations:
    """Of one process. Queues go by their logical names. `on_made` hears of those that were missing,
    and were made anew.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        partitions: int,
        *,
        on_made: Callable[[Sequence[str]], None],
    ) -> None:
        self._connection = connection
        self._names = names
        self._partitions = partitions
        self._on_made = on_made
        self._declared: set[str] = set()
        self._known: set[str] = set()
        self._declaring_delays = asyncio.Lock()
        self._repairing = asyncio.Lock()
        self._repaired_at = float("-inf")
        self.has_base = False
        self.has_delays = False

    @property
    def queues(self) -> set[str]:
        """Those that it has to do with."""
        return self._declared | self._known

    async def declare(self, queues: Sequence[str]) -> None:
        """Make sure that they exist. Raises BrokerRefused for one that exists otherwise."""
        await self._declare(queues, queues)
        self._declared.update(queues)

    async def set_up(self, queues: Sequence[str]) -> list[topology.Finding]:
        """Declare all there is, with these queues, and say what was missing and what differs."""
        names = self._names
        parts = topology.base(names, self._partitions) + topology.delays(names)
        parts += [part for queue in queues for part in topology.parts_of(names, queue)]
        return await topology.set_up(self._connection, parts)

    async def declare_delays(self) -> None:
        """Make sure that messages can be delayed."""
        async with self._declaring_delays:
            if not self.has_delays:
                await topology.declare(self._connection, topology.delays(self._names))
                self.has_delays = True

    async def check(self, queues: Iterable[str]) -> None:
        """Raise UsageError for one that is not there. One that was declared here may be gone at the
        moment: whoever publishes there finds out, and has it made again.
        """
        for queue in queues:
            if queue in self._declared or queue in self._known:
                continue
            physical = self._names.queue(queue)
            if not await topology.exists(self._connection, topology.Queue(physical, {})):
                raise UsageError(
                    f"queue {queue!r} was never declared; nothing was published. Declare it first: "
                    "`amends broker setup APP`, or start a process of the application that has it"
                )
            self._known.add(queue)

    # --- what was deleted

    async def prepare(self, queue: str) -> None:
        """Before a queue is consumed: it may have been deleted meanwhile, and all else with it."""
        if queue not in self._declared:
            await self.check([queue])
            return
        if missing := await self._missing([queue]):
            await asyncio.sleep(VANISHED_S)
            missing = await self._missing([queue])
        await self.restore([queue], missing)

    async def repair(self, queue: str) -> None:
        """A message to a queue (or, for "", to no queue of these) came back: that is gone, or an
        exchange. Others may be, too.
        """
        loop = asyncio.get_running_loop()
        async with self._repairing:
            if loop.time() - self._repaired_at > VANISHED_S:  # or it was just done, for another one
                await asyncio.sleep(VANISHED_S)
                self._known = set()
                declared = sorted(self._declared)
                await self.restore(declared, await self._missing(declared))
                if self.has_delays:
                    await topology.declare(self._connection, topology.delays(self._names))
                self._repaired_at = loop.time()
            if queue:
                await self.check([queue])

    async def restore(self, queues: Sequence[str], missing: Sequence[str]) -> None:
        """Declare again whatever is gone. Of the queues, only what is missing: one that is deleted
        at this moment would be there again at once.
        """
        self.has_base = False
        await self._declare(queues, missing)
        if missing:
            # Whether in time or not: somebody may have made it and deleted it again meanwhile.
            log.info("made_anew", queues=list(missing))
            self._on_made(missing)

    async def _missing(self, queues: Sequence[str]) -> list[str]:
        """Those that are not there. Raises BrokerRefused when one is otherwise than it should be."""
        return [
            queue
            for queue in queues
            if not await topology.exists(
                self._connection, topology.queue_of(self._names, queue), alike=True
            )
        ]

    async def _declare(self, queues: Sequence[str], missing: Sequence[str]) -> None:
        """Declare what leads to these queues, and those of them that are missing."""
        names = self._names
        parts: list[topology.Part] = [topology.queue_of(names, queue) for queue in missing]
        parts += [part for queue in queues for part in topology.ways_to(names, queue)]
        if not self.has_base:
            parts = topology.base(names, self._partitions) + parts
        await topology.declare(self._connection, parts)
        self.has_base = True

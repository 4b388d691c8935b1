"""The broker port: partitioned inboxes, command queues, delays and dead letters.

Delivery is at least once. Messages of one queue are delivered in the order in which they were
published as long as none is handed back; nothing above this port relies on that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID


class Message(NamedTuple):
    """One message. `body` is JSON whose meaning `type` names; `key` says for a person what it
    is about (an instance, and the step where there is one). Messages with one id are copies of
    one another. `due` is when it may be delivered (None: at once; decades ahead are fine).
    """

    id: UUID
    queue: str
    type: str
    key: str
    body: bytes
    correlation_id: str
    causation_id: str
    trace_parent: str | None = None
    due: datetime | None = None


class Delivery(NamedTuple):
    """A message in a consumer's hands. `token` belongs to the broker.

    `count` is 1 for the first delivery. A message that was delivered before comes with more, so
    that a duplicate which may hide an unfinished turn is told from one which cannot. Only a
    broker that commits whole turns in one transaction may lose count in a crash: there, no turn
    is ever unfinished.

    A count of 1 proves nothing about whether a command has begun: such a broker may have lost
    count, and what `amends reconcile` publishes again after a loss of the broker begins at 1.
    """

    message: Message
    count: int  # type: ignore[assignment] # a tuple's own count() has no use here
    token: Any


class DeadLetter(NamedTuple):
    """A message that nobody could handle, kept until it is redriven or discarded."""

    message: Message
    reason: str
    detail: str
    died_at: datetime
    deliveries: int


class QueueDepth(NamedTuple):
    """How full a queue is. `ready` counts what is in a consumer's hands too; `oldest` is when
    its oldest ready message was published or became due. `consumers` are those of all processes,
    and `owner` is the process that an inbox is served by.

    A broker that cannot tell leaves `oldest`, `consumers` and `owner` None.
    """

    queue: str
    ready: int
    delayed: int
    dead: int
    oldest: datetime | None
    consumers: int | None = None
    owner: str | None = None


class Process(NamedTuple):
    """A process that consumes, as it describes itself.

    `name` is its host and process id; `queues` are those it consumes, `owns` the inboxes among
    them that it serves now. `held` counts the messages in its hands. `blocked_since` is set while
    the broker takes nothing from it, because of an alarm (memory, disk). The counters are since it
    began.
    """

    name: str
    queues: tuple[str, ...]
    owns: tuple[str, ...]
    held: int
    blocked_since: datetime | None
    published: int
    delivered: int
    reconnects: int


class Consumer(Protocol):
    """One subscription to a queue, which holds at most `limit` unacknowledged messages."""

    async def receive(self) -> list[Delivery]:
        """Wait for messages and take what is there, at least one; [] once stopped.

        Raises BrokerUnavailable when the connection is lost: what was received and not
        acknowledged will come again.
        """
        ...

    async def stop(self) -> None:
        """Take no more; what was not yet received goes back. Received messages may still be
        acknowledged. Idempotent.
        """
        ...

    async def close(self) -> None:
        """Stop, and hand back whatever was received and not acknowledged. Idempotent."""
        ...


class Broker(Protocol):
    """Carries messages from one part of the engine to another."""

    async def declare(self, queues: Sequence[str]) -> None:
        """Make sure that the queues exist. Idempotent."""
        ...

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish durably, in order: when this returns, a crash keeps them.

        Publishing a message again under its id is safe: at the worst it is delivered again.
        Raises BrokerUnavailable (some may have been published; publish all again), BrokerClosed,
        UsageError for a queue that was never declared.
        """
        ...

    async def request(self, message: Message) -> None:
        """Publish a message whose sender waits for what becomes of it, and knows what to do when
        nothing does.

        A broker that has a consumer of the queue in this process may keep it in memory until it is
        acknowledged or handed back, so a crash of the process may lose it. Raises what `publish`
        raises.
        """
        ...

    def consume(self, queue: str, *, limit: int) -> Consumer:
        """Subscribe to a queue. Several consumers of one queue share its messages."""
        ...

    def own(self, queues: Sequence[str], *, limit: int) -> Consumer:
        """Subscribe to this process's share of the queues, as one consumer.

        Each queue is served by one of those who want to own it. Shares move when one of them
        joins, stops or dies, within seconds, and for a moment two may be served from one queue:
        nothing above this port relies on an owner being alone. `limit` bounds what is in hand of
        each queue.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """The messages are done with. Acknowledging twice is harmless."""
        ...

    async def reply(self, delivery: Delivery, message: Message) -> None:
        """Acknowledge a delivery by publishing what it led to.

        Until somebody has acknowledged `message`, a crash leaves either it or the delivery in
        the broker, so that the pair is never lost; the broker chooses which.
        """
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Hand messages back; they are delivered again, to anyone, their count one higher."""
        ...

    async def dead_letter(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """Put a message aside for a person, with a short reason and the whole detail."""
        ...

    async def dead_letters(self, *, queue: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """The messages put aside, oldest first."""
        ...

    async def redrive(self, ids: Sequence[UUID]) -> int:
        """Publish dead letters again into the queue they came from; how many there were.

        They were delivered before, and count so: what a letter led to may be on record already, and
        what should have followed never published.
        """
        ...

    async def discard(self, ids: Sequence[UUID]) -> int:
        """Delete dead letters for good; how many there were."""
        ...

    async def depths(self, queues: Sequence[str] = ()) -> list[QueueDepth]:
        """How full each declared queue is, by name. Makes none.

        A broker that cannot list what was declared knows the queues of the processes that run,
        and those of these `queues` that exist.
        """
        ...

    async def processes(self) -> list[Process]:
        """The processes that consume now, by name; [] from a broker that cannot tell."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and release everything. Idempotent."""
        ...

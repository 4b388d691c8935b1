"""What the contract suites have in common: sample events and messages, and bounded waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, TypeVar
from uuid import uuid4

from amends.broker.port import Message
from amends.domain.envelope import NewEvent, RecordedEvent

T = TypeVar("T")

PATIENCE_S: Final = 20.0
"""How long, in real seconds, a contract test waits for what must come. Never waited for in vain
by a backend that keeps the contract."""


def new_event(
    type: str = "SomethingHappened", data: bytes = b'{"n":1}', metadata: bytes = b"{}"
) -> NewEvent:
    """An event with an id of its own."""
    return NewEvent(uuid4(), type, data, metadata)


def new_events(count: int, type: str = "SomethingHappened") -> list[NewEvent]:
    """Several events whose data say which is which."""
    return [new_event(type, b'{"n":%d}' % n) for n in range(count)]


def as_new(events: list[RecordedEvent]) -> list[NewEvent]:
    """Recorded events as they were before they were recorded, for comparison."""
    return [NewEvent(event.id, event.type, event.data, event.metadata) for event in events]


def new_message(queue: str, key: str = "transfer/1", *, due: datetime | None = None) -> Message:
    """A message with an id of its own."""
    return Message(
        id=uuid4(),
        queue=queue,
        type="RunStep",
        key=key,
        body=b'{"seq":1}',
        correlation_id="transfer/1",
        causation_id="cause",
        due=due,
    )


def new_messages(queue: str, count: int) -> list[Message]:
    """Several messages whose keys say which is which."""
    return [new_message(queue, f"transfer/{n}") for n in range(count)]


async def soon(what: Awaitable[T]) -> T:
    """What must come, or TimeoutError instead of a test that hangs."""
    async with asyncio.timeout(PATIENCE_S):
        return await what


async def take(subscription: AsyncIterator[RecordedEvent], count: int) -> list[RecordedEvent]:
    """The next events of a subscription."""
    return [await soon(anext(subscription)) for _ in range(count)]


@asynccontextmanager
async def closing(
    subscription: AsyncIterator[RecordedEvent],
) -> AsyncIterator[AsyncIterator[RecordedEvent]]:
    """A subscription that is ended at the end of the block."""
    try:
        yield subscription
    finally:
        aclose = getattr(subscription, "aclose", None)
        if aclose is not None:
            await aclose()

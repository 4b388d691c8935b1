"""Reconcile: set every open saga going again, from the event store alone.

After a loss of the broker, or of anything in it, the journals still say what each instance waits
for. Publishing that again is always safe: message ids are deterministic, and whoever gets a copy
of what is done already drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from amends.broker.port import Broker, Message
from amends.domain.envelope import RecordedEvent
from amends.domain.events import SagaStarted
from amends.domain.ids import JOURNAL_PREFIX, START, InstanceId
from amends.errors import DecodeError, InvalidJournal
from amends.sagas.dispatch import Dispatcher
from amends.sagas.replay import fold
from amends.stores.port import EventFilter, EventStore
from amends.telemetry import Log

log = Log("amends.reconcile")

#: Instances whose journals are in memory at a time.
INSTANCES_PAGE: Final = 64

_STARTS: Final = EventFilter((JOURNAL_PREFIX,), (SagaStarted.__name__,))


class Reconciled(NamedTuple):
    """What was found and done.

    `instances` were looked at; `waiting` of them wait for a message, and `messages` were
    published for these. The journals of `unreadable` could not be understood (the log says
    which): nothing was published for them.
    """

    instances: int = 0
    waiting: int = 0
    messages: int = 0
    unreadable: int = 0


async def reconcile(store: EventStore, broker: Broker, *, partitions: int = 1) -> Reconciled:
    """Publish whatever is outstanding by the journals, for all instances that are not done.

    An attempt whose report was on its way meanwhile may run once more, with the same idempotency
    key. It may run beside a working engine, and be repeated: it changes no journal.

    Raises what the store raises when it is read, BrokerUnavailable and BrokerClosed.
    """
    dispatcher = Dispatcher(partitions)
    after = START
    total = Reconciled()
    while page := await store.read_all(after, filter=_STARTS, limit=INSTANCES_PAGE):
        after = page[-1].position
        found = await asyncio.gather(*(_outstanding(store, dispatcher, first) for first in page))
        messages = [message for outstanding in found for message in outstanding or ()]
        await _publish(broker, messages)
        total = Reconciled(
            instances=total.instances + len(page),
            waiting=total.waiting + sum(bool(outstanding) for outstanding in found),
            messages=total.messages + len(messages),
            unreadable=total.unreadable + sum(outstanding is None for outstanding in found),
        )
    return total


async def _outstanding(
    store: EventStore, dispatcher: Dispatcher, first: RecordedEvent
) -> list[Message] | None:
    """What an instance waits for, caused by its last event; None if its journal is unreadable."""
    instance = InstanceId.of_stream(first.stream)
    if instance is None:
        return []
    records = await store.read(instance.stream)
    if not records:
        return []  # its journal was removed since: it had ended
    try:
        state = fold(instance, records)
    except (DecodeError, InvalidJournal) as error:
        log.error("journal_unreadable", instance=str(instance), error=str(error))
        return None
    return dispatcher.outstanding(state, str(records[-1].id))


async def _publish(broker: Broker, messages: Sequence[Message]) -> None:
    """The queues may be gone together with what was in them."""
    if messages:
        await broker.declare(sorted({message.queue for message in messages}))
        await broker.publish(messages)

"""A log of all golden journals, for the built-in projections."""

from __future__ import annotations

from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import ANY, InstanceId
from amends.stores.memory import MemoryStore
from amends.stores.port import Append
from amends.testing.clock import ManualClock
from tests.replay import golden

STORIES = sorted(path.stem for path in golden.FOLDER.glob("*.json"))


async def store_of_stories() -> MemoryStore:
    """All golden journals in one log, one after the other, an hour between them; each instance has
    the name of its story for its id.
    """
    clock = ManualClock()
    store = MemoryStore(clock)
    for story in STORIES:
        kept = golden.read(story)
        for record in kept.records:
            await append(store, InstanceId(kept.instance.saga, story), record)
        await clock.advance(3600)
    return store


async def append(store: MemoryStore, instance: InstanceId, record: RecordedEvent) -> None:
    """Put an event of another journal into the journal of an instance."""
    event = NewEvent(record.id, record.type, record.data, record.metadata)
    await store.append(Append(instance.stream, [event], ANY))

"""One subscription to the log, shared by everybody who waits for an instance to start or end."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from amends.domain.bell import Bell
from amends.domain.envelope import RecordedEvent
from amends.domain.events import FINAL_EVENTS, SagaStarted
from amends.domain.ids import JOURNAL_PREFIX, InstanceId, Position
from amends.stores.port import EventFilter, EventStore

_FINAL_TYPES: Final = frozenset(cls.__name__ for cls in FINAL_EVENTS)
_STARTED_TYPE: Final = SagaStarted.__name__
_FILTER: Final = EventFilter((JOURNAL_PREFIX,), (_STARTED_TYPE, *sorted(_FINAL_TYPES)))


class Watch:
    """What was seen of one instance since somebody began to watch it; shared by all who do."""

    def __init__(self) -> None:
        self._started: RecordedEvent | None = None
        self._ended: RecordedEvent | None = None
        self._error: BaseException | None = None
        self._seen = Bell()

    @property
    def has_failed(self) -> bool:
        """Whether waiting on it was in vain, so that it will see nothing more."""
        return self._error is not None and self._ended is None

    @property
    def is_over(self) -> bool:
        """Whether it has nothing more to see."""
        return self._ended is not None or self._error is not None

    async def started(self) -> RecordedEvent:
        """The first event of the instance."""
        while self._started is None:
            await self._more()
        return self._started

    async def ended(self) -> RecordedEvent:
        """The final event of the instance."""
        while self._ended is None:
            await self._more()
        return self._ended

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        await self._seen.wait()

    def see(self, event: RecordedEvent) -> None:
        """Called with each event of the instance that starts or ends it."""
        if event.type in _FINAL_TYPES:
            self._ended = self._ended or event
        else:
            self._started = self._started or event
        self._seen.ring()

    def fail(self, error: BaseException) -> None:
        """The subscription is over; waiting on would be in vain."""
        self._error = self._error or error
        self._seen.ring()


class Watcher:
    """Hands the events that start and end instances to those who watch these instances."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        # A watch lasts as long as somebody holds it.
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._following: asyncio.Task[None] | None = None

    async def watch(self, instance: InstanceId) -> Watch:
        """Watch an instance for as long as the watch is held.

        It sees everything that is appended from now on, and may have seen what came before.
        """
        await self._follow()
        stream = instance.stream
        watch = self._watches.get(stream)
        if watch is None or watch.is_over:
            # Of one that ended, the journal tells; or it was removed, and another may begin.
            watch = self._watches[stream] = Watch()
        return watch

    async def close(self) -> None:
        """Stop following the log."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        if self._following is not None and not self._following.done():
            return
        after = await self._store.end()
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._run(after))

    async def _run(self, after: Position) -> None:
        error: BaseException = RuntimeError("the subscription to the log ended")
        try:
            async for event in self._store.subscribe(after, filter=_FILTER):
                watch = self._watches.get(event.stream)
                if watch is not None:
                    watch.see(event)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.fail(error)

    def fail_instance(self, instance: InstanceId, error: BaseException) -> None:
        """Waiting for one instance is in vain: tell everybody who does."""
        watch = self._watches.pop(instance.stream, None)
        if watch is not None:
            watch.fail(error)

    def fail(self, error: BaseException) -> None:
        """Waiting is in vain from now on: tell everybody who does."""
        for watch in self._watches.values():
            watch.fail(error)
        self._watches.clear()

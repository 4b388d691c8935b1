"""One subscription to the log, shared by everybody who waits for an instance to start or end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final
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
        self._traceback: TracebackType | None = None
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
        """The first event of the instance. Raises what it failed with."""
        while self._started is None:
            await self._more()
        return self._started

    async def ended(self) -> RecordedEvent:
        """The final event of the instance. Raises what it failed with."""
        while self._ended is None:
            await self._more()
        return self._ended

    def check(self) -> None:
        """Raise what it failed with, if it has."""
        if self._error is not None:
            # Without those who were told before, or it would grow with each.
            raise self._error.with_traceback(self._traceback)

    async def _more(self) -> None:
        self.check()
        await self._seen.wait()

    def see(self, event: RecordedEvent) -> None:
        """Called with each event of the instance that starts or ends it."""
        if event.type in _FINAL_TYPES:
            self._ended = self._ended or event
        else:
            self._started = self._started or event
        self._seen.ring()

    def fail(self, error: BaseException) -> None:
        """Waiting on would be in vain."""
        if self._error is None:
            self._error, self._traceback = error, error.__traceback__
        self._seen.ring()


class Watcher:
    """Hands the events that start and end instances to those who watch these instances."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        # A watch lasts as long as somebody holds it.
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._following: asyncio.Task[None] | None = None
        #: Given to everybody while there is nothing to wait for.
        self._given_up: Watch | None = None

    async def watch(self, instance: InstanceId) -> Watch:
        """Watch an instance for as long as the watch is held.

        It sees everything that is appended from now on, and may have seen what came before. Once
        the watcher has given up, it has failed already.
        """
        await self._follow()
        if self._given_up is not None:
            return self._given_up
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

    def watch_engine(self, failed: Callable[[], Awaitable[None]]) -> Coroutine[Any, Any, None]:
        """Give up when the engine has failed; until then there is something to wait for (again)."""
        # At once: who waits from now on is not to hear of an engine before this one.
        self._given_up = None
        return self._watch_engine(failed)

    async def _watch_engine(self, failed: Callable[[], Awaitable[None]]) -> None:
        try:
            await failed()
        except Exception as error:
            error.add_note(
                "The engine of this process has failed with it, and does nothing more. What is in "
                "the journals and queues stays, and goes on when an engine runs again"
            )
            self._given_up = Watch()
            self._given_up.fail(error)
            self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """Waiting was in vain: tell everybody who does. Who begins to wait later may see more."""
        for watch in self._watches.values():
            watch.fail(error)
        self._watches.clear()

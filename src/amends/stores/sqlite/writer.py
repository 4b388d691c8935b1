"""The one writer thread: it commits whatever many callers have asked for, together.

One fsync serves all that waited while the one before was under way (group commit). The thread
tells the event loop about a whole batch with one call.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from amends.domain.bell import Bell
from amends.errors import StoreClosed, StoreUnavailable
from amends.stores.sqlite.batch import Ticket, Work, Write
from amends.stores.sqlite.commit import BatchCommitter, Task, Transaction
from amends.stores.sqlite.tail import LogTail

T = TypeVar("T")

#: What may wait for the writer before callers have to wait with it.
PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
#: A batch ends at these, so that the first in it does not wait for too many others.
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
BATCH_WORKS_MAX: Final = 1024
#: How soon commits of other processes are noticed while somebody watches.
POLL_S: Final = 0.015


class Writer:
    """Bounded submission to the writer thread. Belongs to the event loop that it was made in.

    `changed` rings after commits that appended events, and after those of other processes;
    `on_foreign` are called (in the loop) after the latter, before anything of the same batch is
    reported.
    """

    def __init__(self, committer: BatchCommitter, close: Callable[[], None]) -> None:
        self._committer = committer
        self._close_connection = close
        self._loop = asyncio.get_running_loop()
        #: What was submitted in this pass of the event loop; the thread is woken once for all.
        self._outbox: list[Work] = []
        #: For the thread: works, or None for the end. An empty list only wakes it.
        self._queue: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watchers = 0
        self._closing = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._version = committer.data_version()
        self._polled_at = time.monotonic()
        self.changed = Bell()
        self.tail = LogTail()
        self.on_foreign: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="amends-writer", daemon=True)
        self._thread.start()

    # --- in the event loop

    async def submit(self, work: Work) -> None:
        """Wait until the work is durable. Raises what went wrong with it, and StoreClosed.

        Cancelling the wait does not take back what has been handed to the thread.
        """
        await self.submit_all([work])
        if work.error is not None:
            raise work.error

    async def submit_all(self, works: Sequence[Work]) -> None:
        """Wait until each of the works is durable, or has an `error`: StoreClosed, too."""
        if not works:
            return
        ticket = Ticket(len(works), self._loop.create_future())
        for work in works:
            work.ticket = ticket
            if self._waiting or self._pending_bytes > PENDING_BYTES_MAX:
                await self._wait_for_room()
            if self._closing:
                work.error = self._is_closed()
                ticket.one_is_done()
                continue
            self._pending_bytes += work.bytes
            if not self._outbox:
                self._loop.call_soon(self._hand_over)
            self._outbox.append(work)
        await ticket.future

    def _hand_over(self) -> None:
        works, self._outbox = self._outbox, []
        self._queue.put(works)

    async def perform(self, run: Callable[[Transaction], T]) -> T:
        """Run an administrative task in a transaction of its own, in the thread."""
        task = Task(run)
        await self.submit(task)
        result: Any = task.result
        return result  # type: ignore[no-any-return]

    async def _wait_for_room(self) -> None:
        if self._closing:
            return
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._admit()
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _admit(self) -> None:
        """Wake one who waits for room; that one's own end wakes the next."""
        while self._waiting and self._pending_bytes <= PENDING_BYTES_MAX:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                # Each woken may add what it has: several at once could be too many.
                self._loop.call_soon(self._admit)
                return

    @property
    def is_busy(self) -> bool:
        """Whether the thread does something, or has done it, that the event loop will hear of."""
        return self._pending_bytes > 0 or (self._closing and not self._ended.done())

    def _is_closed(self) -> StoreClosed:
        return StoreClosed("the database is closed; nothing was written. Open it again.")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While in here, commits of other processes are noticed within some 15 ms."""
        self.watch()
        try:
            yield
        finally:
            self.unwatch()

    def watch(self) -> None:
        """Notice the commits of other processes until as many `unwatch` have followed."""
        self._watchers += 1
        if self._watchers == 1 and not self._closing:
            self._queue.put([])

    def unwatch(self) -> None:
        """See `watch`."""
        self._watchers -= 1

    async def close(self) -> None:
        """Commit what was accepted, then end the thread. Idempotent."""
        if not self._closing:
            self._closing = True
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_result(None)
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _report(self, works: Sequence[Work], foreign: bool) -> None:
        if foreign:
            self.tail.forget()
            for listener in self.on_foreign:
                listener()
        appended = foreign
        for work in works:
            self._pending_bytes -= work.bytes
            work.finish()
            if isinstance(work, Write) and work.append is not None:
                self.tail.add(work)
                appended = True
            if work.ticket is not None:
                work.ticket.one_is_done()
        if appended:
            self.changed.ring()
        if self._waiting:
            self._admit()

    def _report_end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # --- in the thread

    def _run(self) -> None:
        try:
            ending = False
            while not ending:
                works, ending = self._take()
                self._committer.locked_out = False
                for batch in _batches(works):
                    if self._committer.locked_out:
                        # They have waited as long as the one that was locked out.
                        self._do(batch, _refuse)
                    else:
                        is_task = isinstance(batch[0], Task)
                        self._do(batch, self._perform if is_task else self._committer.write)
                self._poll()
        finally:
            self._close_connection()
            self._tell(self._report_end)

    def _take(self) -> tuple[list[Work], bool]:
        """Everything that waits, and whether that is all there will ever be."""
        taken: list[Work] = []
        try:
            works = self._queue.get(timeout=POLL_S if self._watchers else None)
            while works is not None:
                taken += works
                works = self._queue.get_nowait()
        except queue.Empty:
            return taken, False
        return taken, True

    def _perform(self, tasks: list[Any]) -> list[Any]:
        for task in tasks:
            self._committer.perform(task)
        return tasks

    def _do(self, works: list[Any], do: Callable[[list[Any]], Sequence[Work]]) -> None:
        done: Sequence[Work] = works
        try:
            done = do(works)
        except BaseException as error:
            # A bug of ours: whoever waits must learn of it, and the thread must go on.
            for work in works:
                work.error = StoreUnavailable(f"the writer failed ({error!r})")
        foreign, self._committer.foreign = self._committer.foreign, False
        self._tell(lambda: self._report(done, foreign))

    def _poll(self) -> None:
        """Notice the commits of others, at most every few milliseconds."""
        now = time.monotonic()
        if not self._watchers or now - self._polled_at < POLL_S / 2:
            return
        self._polled_at = now
        try:
            version = self._committer.data_version()
        except sqlite3.Error:
            return
        if version != self._version:
            self._version = version
            self._tell(lambda: self._report((), True))

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop is gone, and with it everybody who could be told. What was accepted is
            # committed all the same.
            return


def _refuse(works: list[Any]) -> list[Any]:
    for work in works:
        work.error = StoreUnavailable(
            "the file is locked by another process; nothing was written. Try again."
        )
    return works


def _batches(works: Sequence[Work]) -> Iterator[list[Any]]:
    """In order: writes that follow one another, within the bounds of a batch, and single tasks."""
    batch: list[Work] = []
    bytes = 0
    for work in works:
        is_task = isinstance(work, Task)
        if batch and (is_task or bytes >= BATCH_BYTES_MAX or len(batch) >= BATCH_WORKS_MAX):
            yield batch
            batch, bytes = [], 0
        if is_task:
            yield [work]
        else:
            batch.append(work)
            bytes += work.bytes
    if batch:
        yield batch

"""Delayed messages of the embedded broker: one timer, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from amends.broker import embedded_rows as rows
from amends.domain.bell import Bell
from amends.errors import BrokerUnavailable, StoreClosed, StoreError
from amends.stores.sqlite.commit import Transaction
from amends.stores.sqlite.database import SqliteDatabase
from amends.stores.sqlite.moments import from_us

#: Before letting in due messages is tried again, when the file refused it.
_RETRY_S: Final = 0.5

Move = Callable[[Callable[[Transaction], int]], Awaitable[int]]


class Timekeeper:
    """Lets in what is due, and waits for what is due next. Nothing is scanned to find it."""

    def __init__(self, database: SqliteDatabase, move: Move, failed: Callable[[], None]) -> None:
        self._database = database
        self._move = move
        self._failed = failed
        self._next_due: int | None = None
        self._look_again = Bell()
        self._keeping: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._keeping is None:
            self._keeping = asyncio.ensure_future(self._keep())
            self._keeping.add_done_callback(self._stopped)

    def stop(self) -> None:
        """Let nothing in any more."""
        if self._keeping is not None:
            self._keeping.cancel()

    def expect(self, due: int) -> None:
        """A delayed message was committed; `due` is in microseconds."""
        if self._next_due is None or due < self._next_due:
            self._look_again.ring()

    def expect_anything(self) -> None:
        """Somebody else committed: who knows what."""
        self._look_again.ring()

    def check(self) -> None:
        """Raise BrokerUnavailable if it broke: delayed messages would never come."""
        if self._broken is not None:
            raise BrokerUnavailable("nothing waits for delayed messages any more") from self._broken

    def _stopped(self, keeping: asyncio.Task[None]) -> None:
        if not keeping.cancelled():
            self._broken = keeping.exception()
            self._failed()

    async def _keep(self) -> None:
        clock = self._database.clock
        while True:
            try:
                self._next_due = await self._database.patiently(self._find_next)
                if self._next_due is None:
                    await self._look_again.wait()
                elif self._next_due > self._database.now_us():
                    await self._look_again.wait_until(clock, from_us(self._next_due))
                else:
                    await self._move(rows.let_in_due(self._database.now_us()))
            except StoreClosed:
                return
            except StoreError:
                # Full, or locked: the messages are late, but there.
                await asyncio.sleep(_RETRY_S)

    def _find_next(self) -> int | None:
        due: int | None = self._database.query("SELECT min(due) FROM delayed")[0][0]
        return due

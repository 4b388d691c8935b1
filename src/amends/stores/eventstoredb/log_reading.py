"""Reading and following the log of all streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import grpc

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START, Position
from amends.errors import StoreError, StoreUnavailable
from amends.stores.eventstoredb.calling import call
from amends.stores.eventstoredb.connection import Connection, log, pause
from amends.stores.eventstoredb.errors import Refused, is_link_lost, is_passing, leader_of, of_call
from amends.stores.eventstoredb.link import Link
from amends.stores.eventstoredb.reading import PAGE
from amends.stores.eventstoredb.wire import end_request, is_wanted, log_request, read_event
from amends.stores.port import EventFilter

#: A filter may have the server look through all there is for one event: then this many times the
#: usual time is allowed.
_PATIENCE: Final = 30


class LogReader:
    """Reads the log at the leader, and follows it at the node that is preferred for that."""

    def __init__(self, reading: Connection, following: Connection, timeout_s: float) -> None:
        self._reading = reading
        self._following = following
        self._timeout_s = timeout_s

    async def end(self) -> Position:
        """See `EventStore.end`."""

        async def ask(link: Link, _: float) -> Position:
            found = START
            async for answer in link.read(end_request(), self._timeout_s * _PATIENCE):
                found = read_event(answer.event).record.position
            return found

        return await call(self._reading, self._timeout_s, ask)

    async def read(
        self, bound: Position | None, filter: EventFilter, *, limit: int, backwards: bool = False
    ) -> list[RecordedEvent]:
        """At most `limit` events beyond a position; None is where there is nothing before."""
        scan = _Scan(bound, filter, backwards)
        while len(scan.records) < limit:
            count = min(PAGE, limit - len(scan.records)) + 1  # one may be the bound itself

            async def ask(link: Link, _: float, count: int = count) -> int:
                return await scan.page(link, count, self._timeout_s * _PATIENCE)

            reached = scan.bound
            try:
                if await call(self._reading, self._timeout_s, ask) < count:
                    break
            except StoreUnavailable:
                if scan.bound == reached:
                    raise
        return scan.records[:limit]

    async def follow(
        self,
        after: Position | None,
        filter: EventFilter,
        now: Callable[[], Awaitable[Position]],
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Everything beyond a position, for ever; None is for where the log ends `now`. Resumes
        behind the last event whenever the subscription ends, even if it ends as if that were right.
        Raises StoreClosed, and StoreUnavailable for what will not pass.
        """
        seen = await now() if after is None else after
        failures = 0
        while True:
            error: StoreError | None = None
            try:
                link = await self._following.link(self._timeout_s)
                try:
                    # Not in functions of their own: each event would pay for each of them.
                    async with aclosing(link.read(log_request(seen, filter), None)) as answers:
                        async with asyncio.timeout(self._timeout_s):
                            await anext(answers, None)  # the confirmation
                        async for answer in answers:
                            if answer.WhichOneof("content") != "event":
                                continue
                            record = read_event(answer.event).record
                            if record.position > seen and is_wanted(record, filter):
                                seen, failures = record.position, 0
                                yield record
                except (grpc.aio.AioRpcError, TimeoutError) as caught:
                    error = self._trouble(link, caught)
            except Refused:
                raise
            except StoreUnavailable as caught:
                error = caught
            log.info("store subscription resumes", position=seen, error=str(error))
            await pause(failures, float("inf"))
            failures += 1

    def _trouble(self, link: Link, caught: Exception) -> StoreError:
        if not isinstance(caught, grpc.aio.AioRpcError):
            self._following.drop(link)
            return StoreUnavailable(f"{link.target} did not begin to show the log in time")
        if is_link_lost(caught):
            self._following.drop(link, leader_of(caught))
        error = of_call(caught, link.target)
        if not is_passing(caught):
            raise error from caught
        return error


class _Scan:
    """A read of the log that goes on where it was interrupted."""

    def __init__(self, bound: Position | None, filter: EventFilter, backwards: bool) -> None:
        self.bound = bound
        self.records: list[RecordedEvent] = []
        self._filter = filter
        self._backwards = backwards

    async def page(self, link: Link, count: int, timeout_s: float) -> int:
        """Take in what one call gives; how many events it gave."""
        request = log_request(self.bound, self._filter, backwards=self._backwards, count=count)
        given = 0
        async with aclosing(link.read(request, timeout_s)) as answers:
            async for answer in answers:
                if answer.WhichOneof("content") != "event":
                    continue
                given += 1
                record = read_event(answer.event).record
                if self._is_beyond(record.position):
                    self.bound = record.position
                    if is_wanted(record, self._filter):
                        self.records.append(record)
        return given

    def _is_beyond(self, position: Position) -> bool:
        if self.bound is None:
            return True
        return position < self.bound if self._backwards else position > self.bound

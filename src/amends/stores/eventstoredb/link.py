"""A connection to one node: reads, and appends that share one call.

All appends go through one call that stays open (BatchAppend), each with a number of its own, and are
answered in any order. A call of its own for each costs three times the CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final, TypeAlias
from uuid import uuid4

import grpc

from amends.domain.bell import Bell
from amends.stores.eventstoredb.client import StreamsStub
from amends.stores.eventstoredb.errors import NotWritten, doubt, leader_of

Headers: TypeAlias = tuple[tuple[str, str], ...]

_COUNTED_BITS: Final = 48


class _Entry:
    """An append on its way."""

    __slots__ = ("answer", "request", "sent")

    def __init__(self, request: Any, answer: asyncio.Future[Any]) -> None:
        self.request = request
        self.answer = answer
        self.sent = False


class Link:
    """One channel. A link that failed is replaced by another, never mended."""

    def __init__(self, channel: Any, target: str, headers: Headers) -> None:
        self.target = target
        self.is_lost = False
        self.leader: str | None = None
        """The node that leads, if this one said that it does not."""
        self._channel = channel
        self._streams = StreamsStub(channel)
        self._headers = headers
        self._following: set[Any] = set()
        self._calls = 0
        self._quiet = Bell()
        self._appender: _Appender | None = None

    async def read(self, request: Any, timeout_s: float | None) -> AsyncGenerator[Any, None]:
        """The answers to a Read, one by one. Without a timeout it is a subscription, which ends
        when the link is lost. Raises gRPC's errors.
        """
        if self.is_lost:
            raise _ended("the connection was replaced by another")
        call = self._streams.Read(request, timeout=timeout_s, metadata=self._headers)
        if timeout_s is None:
            self._following.add(call)
        self._calls += 1
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                yield answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.is_lost and task is not None and not task.cancelling():
                # Not this task was cancelled, but the call, by who took the link for lost.
                raise _ended("the connection was replaced by another") from None
            raise
        finally:
            self._following.discard(call)
            call.cancel()
            self._done()

    async def append(self, stream: str, request: Any, timeout_s: float) -> Any:
        """The answer to one append. Raises NotWritten, Doubt."""
        if self.is_lost:
            raise _not_sent(stream, "the connection was replaced by another")
        if self._appender is None:
            self._appender = _Appender(self._streams.BatchAppend(metadata=self._headers))
        self._calls += 1
        try:
            return await self._appender.append(stream, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            self.leader = leader_of(error)
            raise doubt(stream, f"{error.code().name}, {error.details()}") from error
        finally:
            self._done()

    def _done(self) -> None:
        self._calls -= 1
        self._quiet.ring()

    async def retire(self, within_s: float) -> None:
        """Use it no more: end its subscriptions at once, let other calls come to their end for so
        many seconds, and release everything.
        """
        self.is_lost = True
        for call in list(self._following):
            call.cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while self._calls:
                        await self._quiet.wait()
        finally:  # also when the store is closed meanwhile
            if self._appender is not None:
                await self._appender.close()
            await self._channel.close(None)


class _Appender:
    """One call of BatchAppend. Its two tasks are never cancelled while it is used: gRPC would take
    that for the cancellation of the call, and so of everybody's appends.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._outbox: asyncio.Queue[_Entry] = asyncio.Queue()
        self._waiting: dict[str, _Entry] = {}
        self._error: grpc.aio.AioRpcError | None = None
        # Numbers, so that they cost nothing, that no other process has.
        self._number = uuid4().int >> _COUNTED_BITS << _COUNTED_BITS
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def append(self, stream: str, request: Any, timeout_s: float) -> Any:
        """Raises NotWritten, Doubt, and gRPC's error when the call ended meanwhile."""
        if self._error is not None:
            raise _not_sent(stream, "the connection is lost")
        self._number += 1
        key = correlation(self._number)
        request.correlation_id.string = key
        entry = _Entry(request, asyncio.get_running_loop().create_future())
        self._waiting[key] = entry
        self._outbox.put_nowait(entry)
        try:
            async with asyncio.timeout(timeout_s):
                return await entry.answer
        except TimeoutError:
            if entry.sent:
                raise doubt(stream, f"no answer in {timeout_s:.3g} s") from None
            raise _not_sent(stream, "there was no time left") from None
        except grpc.aio.AioRpcError as error:
            if entry.sent:
                raise
            raise _not_sent(stream, error.code().name) from error
        finally:
            # Also when it was not sent yet: it is left out then.
            del self._waiting[key]
            entry.answer.cancel()

    async def _write(self) -> None:
        try:
            while True:
                entry = await self._outbox.get()
                if not entry.answer.done():
                    entry.sent = True
                    await self._call.write(entry.request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            return  # the reader hears of it

    async def _read(self) -> None:
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                entry = self._waiting.get(answer.correlation_id.string)
                if entry is not None and not entry.answer.done():
                    entry.answer.set_result(answer)
            error = _ended("the server ended the call")
        except grpc.aio.AioRpcError as caught:
            error = caught
        except asyncio.CancelledError:
            error = _ended("the connection was closed")
        self._error = error
        for entry in self._waiting.values():
            if not entry.answer.done():
                entry.answer.set_exception(error)

    async def close(self) -> None:
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def correlation(number: int) -> str:
    """A number in the form of a UUID."""
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _not_sent(stream: str, why: str) -> NotWritten:
    return NotWritten(
        f"an append to {stream!r} was not sent: {why}. Nothing was written; try again."
    )


def _ended(why: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, why)

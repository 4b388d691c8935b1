"""The call that appends share: what was not sent is not written, whoever gives up waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from amends.stores.eventstoredb import wire
from amends.stores.eventstoredb.client import streams
from amends.stores.eventstoredb.errors import Doubt, NotWritten
from amends.stores.eventstoredb.link import Link, _Appender, correlation
from amends.testing.contracts.data import new_events, soon


def lost() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "Socket closed")


class Call:
    """A BatchAppend whose writes may be held up."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.flows = asyncio.Event()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def write(self, request: Any) -> None:
        self.written.append(request)
        await self.flows.wait()

    async def read(self) -> Any:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, request: Any) -> None:
        self.answers.put_nowait(
            streams.BatchAppendResp(correlation_id=request.correlation_id, success={})
        )

    def cancel(self) -> None:
        self.answers.put_nowait(asyncio.CancelledError())


@pytest.fixture
async def call() -> Call:
    return Call()


@pytest.fixture
async def appender(call: Call) -> AsyncIterator[_Appender]:
    appender = _Appender(call)
    yield appender
    await appender.close()


def a_request() -> Any:
    return wire.append_request("s-1", new_events(1), at=-1, base=0, timeout_s=1)


async def test_what_could_not_be_sent_in_time_never_is(call: Call, appender: _Appender) -> None:
    first = asyncio.ensure_future(appender.append("s-1", a_request(), 10))
    while not call.written:  # noqa: ASYNC110
        await asyncio.sleep(0)
    with pytest.raises(NotWritten):
        await appender.append("s-1", a_request(), 0.05)
    cancelled = asyncio.ensure_future(appender.append("s-1", a_request(), 10))
    await asyncio.sleep(0)
    cancelled.cancel()
    last = asyncio.ensure_future(appender.append("s-1", a_request(), 10))
    await asyncio.sleep(0)
    call.flows.set()
    while len(call.written) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert cancelled.cancelled()
    for request in reversed(call.written):
        call.answer(request)
    for waiting, request in zip((first, last), call.written, strict=True):
        assert (await soon(waiting)).correlation_id == request.correlation_id
    assert len({request.correlation_id.string for request in call.written}) == 2


async def test_what_was_sent_and_not_answered_is_in_doubt(call: Call, appender: _Appender) -> None:
    call.flows.set()
    with pytest.raises(Doubt, match=r"no answer in 0\.05 s"):
        await appender.append("s-1", a_request(), 0.05)
    call.answer(call.written[0])  # nobody waits for it any more
    again = asyncio.ensure_future(appender.append("s-1", a_request(), 10))
    while len(call.written) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    call.answer(call.written[1])
    assert (await soon(again)).WhichOneof("result") == "success"


async def test_a_broken_call_tells_who_was_sent_from_who_was_not(
    call: Call, appender: _Appender
) -> None:
    waiting = [asyncio.ensure_future(appender.append("s-1", a_request(), 10)) for _ in range(2)]
    while not call.written:  # noqa: ASYNC110
        await asyncio.sleep(0)
    error = lost()
    call.answers.put_nowait(error)
    sent, unsent = await soon(asyncio.gather(*waiting, return_exceptions=True))
    assert sent is error
    assert isinstance(unsent, NotWritten)
    with pytest.raises(NotWritten):
        await appender.append("s-1", a_request(), 10)
    assert len(call.written) == 1


async def test_the_end_of_a_call_is_no_answer(call: Call, appender: _Appender) -> None:
    waiting = asyncio.ensure_future(appender.append("s-1", a_request(), 10))
    while not call.written:  # noqa: ASYNC110
        await asyncio.sleep(0)
    call.answers.put_nowait(grpc.aio.EOF)
    ended = await soon(asyncio.gather(waiting, return_exceptions=True))
    assert isinstance(ended[0], grpc.aio.AioRpcError)


async def test_a_link_says_what_it_does_not_know(call: Call) -> None:
    link = Link(grpc.aio.insecure_channel("127.0.0.1:1"), "127.0.0.1:1", ())
    link._appender = _Appender(call)
    waiting = asyncio.ensure_future(link.append("s-1", a_request(), 10))
    while not call.written:  # noqa: ASYNC110
        await asyncio.sleep(0)
    call.answers.put_nowait(lost())
    with pytest.raises(Doubt, match="UNAVAILABLE, Socket closed"):
        await soon(waiting)
    await link.retire(0)


def test_a_number_in_the_form_of_a_uuid() -> None:
    assert correlation(0x1234) == "00000000-0000-0000-0000-000000001234"
    assert correlation(2**128 - 1) == "ffffffff-ffff-ffff-ffff-ffffffffffff"

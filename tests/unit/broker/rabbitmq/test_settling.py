"""Whatever is settled in whatever order, the server is told that and nothing else."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest
from aiormq.channel import Channel as Wire
from aiormq.exceptions import ChannelInvalidStateError

from amends.broker.rabbitmq.settling import Settling


class Server:
    """The server's side of a channel, behind a wire that is slow at random moments."""

    def __init__(self, seed: int = 0, *, slow: bool = True) -> None:
        self.random = Random(seed)
        self.slow = slow
        self.unsettled: dict[int, None] = {}
        self.done: list[int] = []
        self.returned: list[int] = []
        self.frames = 0
        self.closed = False

    async def basic_ack(self, tag: int, multiple: bool = False, wait: bool = True) -> None:
        await self._frame(tag, wait=wait)
        tags = [other for other in self.unsettled if other <= tag] if multiple else [tag]
        self.done += tags
        for settled in tags:
            del self.unsettled[settled]

    async def basic_reject(self, tag: int, *, requeue: bool = True, wait: bool = True) -> None:
        await self._frame(tag, wait=wait)
        assert requeue
        self.returned.append(tag)
        del self.unsettled[tag]

    async def _frame(self, tag: int, *, wait: bool) -> None:
        assert not wait, "nobody waits until it is written"
        self.frames += 1
        for _ in range(self.random.randrange(3) if self.slow else 0):
            await asyncio.sleep(0)
        if self.closed:
            raise ChannelInvalidStateError("closed")
        assert tag in self.unsettled, f"unknown delivery tag {tag}"


class Client:
    """A consumer, as far as it settles."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.unsettled: dict[int, object] = {}
        self.settling = Settling(cast(Wire, cast(Any, server)), self.unsettled)
        self._last = 0

    def deliver(self, count: int) -> None:
        for _ in range(count):
            self._last += 1
            self.server.unsettled[self._last] = None
            self.unsettled[self._last] = object()

    def done(self, *tags: int) -> None:
        for tag in tags:
            del self.unsettled[tag]
            self.settling.done(tag)

    def returned(self, *tags: int) -> None:
        for tag in tags:
            del self.unsettled[tag]
            self.settling.returned(tag)


@pytest.mark.parametrize("seed", range(30))
async def test_the_server_is_told_what_was_settled(seed: int) -> None:
    random = Random(seed)
    client = Client(server := Server(seed))
    done: set[int] = set()
    returned: set[int] = set()
    for _ in range(200):
        client.deliver(random.randrange(4))
        for tag in random.sample(sorted(client.unsettled), k=min(len(client.unsettled), 3)):
            kind = random.choice(["done", "done", "returned", "kept"])
            if kind == "done":
                client.done(tag)
                done.add(tag)
            elif kind == "returned":
                client.returned(tag)
                returned.add(tag)
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
    await client.settling.told()
    assert (set(server.done), set(server.returned)) == (done, returned)
    assert set(server.unsettled) == set(client.unsettled)
    assert len(server.done) == len(done)


async def test_one_frame_tells_of_all_before_the_first_that_is_open() -> None:
    client = Client(server := Server(slow=False))
    client.deliver(100)
    client.done(*range(100, 60, -1), *range(1, 60))  # all but 60
    await client.settling.told()
    assert server.frames == 1 + 40
    client.done(60)
    await client.settling.told()
    assert (server.frames, server.unsettled) == (42, {})


async def test_what_is_abandoned_comes_again_and_with_it_what_was_not_settled() -> None:
    """A subscription that is lost forgets what is unsettled, which is not to be acknowledged."""
    client = Client(server := Server(slow=False))
    client.deliver(3)
    client.done(3)
    client.settling.abandon()
    client.unsettled.clear()
    await client.settling.told()
    assert (server.done, list(server.unsettled)) == ([], [1, 2, 3])


async def test_a_lost_channel_is_no_error() -> None:
    client = Client(server := Server())
    client.deliver(3)
    server.closed = True
    client.done(1, 3)
    client.returned(2)
    await client.settling.told()
    assert list(server.unsettled) == [1, 2, 3]


async def test_nothing_to_tell_is_told_at_once() -> None:
    await Client(Server()).settling.told()

"""Calling the server until it answers, or until the time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from amends.errors import StoreError, StoreUnavailable
from amends.stores.eventstoredb.connection import Connection, pause
from amends.stores.eventstoredb.errors import Refused, is_link_lost, is_passing, leader_of, of_call
from amends.stores.eventstoredb.link import Link

T = TypeVar("T")


async def call(
    connection: Connection, timeout_s: float, ask: Callable[[Link, float], Awaitable[T]]
) -> T:
    """What the server answers to something that only reads. `ask` is given a link and how many
    seconds are left, and is called again, perhaps with another link, when it failed in passing.

    Raises StoreUnavailable, StoreClosed, and whatever else `ask` does.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    failures = 0
    while True:
        error: StoreError
        try:
            async with connection.reading:
                link = await connection.link(max(until - loop.time(), 0))
                try:
                    return await ask(link, max(until - loop.time(), 0.001))
                except grpc.aio.AioRpcError as caught:
                    if is_link_lost(caught):
                        connection.drop(link, leader_of(caught))
                    error = of_call(caught, link.target)
                    if not is_passing(caught):
                        raise error from caught
        except Refused:
            raise
        except StoreUnavailable as caught:
            error = caught
        if not await pause(failures, until):
            raise error
        failures += 1

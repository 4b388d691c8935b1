"""The box of signals, where a receiver is cancelled in the moment in which it was served."""

from __future__ import annotations

import asyncio
from contextvars import Context

from amends.sagas.signals import SignalBox


async def test_what_a_cancelled_receiver_was_handed_goes_to_the_next() -> None:
    box = SignalBox(asyncio.get_running_loop(), Context())
    first, second = (asyncio.create_task(box.next("n")) for _ in range(2))
    await asyncio.sleep(0)
    box.put("n", 1)
    first.cancel()
    assert await second == 1
    assert first.cancelled()


async def test_and_back_to_the_front_when_nobody_waits() -> None:
    box = SignalBox(asyncio.get_running_loop(), Context())
    receiver = asyncio.create_task(box.next("n"))
    await asyncio.sleep(0)
    box.put("n", 1)
    box.put("n", 2)
    receiver.cancel()
    await asyncio.wait([receiver])
    assert [await box.next("n"), await box.next("n")] == [1, 2]

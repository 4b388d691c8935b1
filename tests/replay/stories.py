"""What happened in the journals of this folder: each story drives one instance to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from amends import Handle, SagaNotCompleted
from amends.domain import messages as m
from amends.testing.harness import Harness
from tests.replay import sagas_v1 as v1

Story = Callable[[Harness], Awaitable[Handle[Any]]]

STORIES: Final[dict[str, Story]] = {}


def story(tell: Story) -> Story:
    """Register a story under its name, which is its file's."""
    STORIES[tell.__name__] = tell
    return tell


async def _end(handle: Handle[Any]) -> Handle[Any]:
    with suppress(SagaNotCompleted):
        await handle.result()
    return handle


def _order(**more: Any) -> v1.Transfer:
    return v1.Transfer(payer="ann", payee="bob", cents=500, **more)


@story
async def transfer_completed(harness: Harness) -> Handle[Any]:
    return await _end(await harness.start(v1.transfer, _order(payer_acts="flaky")))


@story
async def transfer_compensated(harness: Harness) -> Handle[Any]:
    return await _end(await harness.start(v1.transfer, _order(payee_acts="refused")))


@story
async def transfer_failed(harness: Harness) -> Handle[Any]:
    return await _end(await harness.start(v1.transfer, _order(payer_acts="broken")))


@story
async def unknown_and_late(harness: Harness) -> Handle[Any]:
    """The deposit times out twice, is undone with nothing, reports after the end, and is undone
    again.
    """
    handle = await _end(await harness.start(v1.transfer, _order(payee_acts="hangs")))
    late = m.ReportCompleted(
        saga="transfer", id=handle.id, seq=2, attempt=1, result={"text": "bob:500"}
    )
    await harness.client.send(late)
    await harness.advance(10)
    return handle


@story
async def probe_says_it_happened(harness: Harness) -> Handle[Any]:
    booking = v1.Booking(account="ann", cents=500, acts="hangs")
    return await _end(await harness.start(v1.probed, booking))


@story
async def probe_says_it_did_not(harness: Harness) -> Handle[Any]:
    booking = v1.Booking(account="ann", cents=5, acts="hangs")
    return await _end(await harness.start(v1.probed, booking))


@story
async def timers(harness: Harness) -> Handle[Any]:
    return await _end(await harness.start(v1.reminders))


@story
async def signals(harness: Harness) -> Handle[Any]:
    handle = await harness.start(v1.approval, _order())
    for name in ("cid", "dan"):
        await handle.signal(v1.approved, v1.Approval(by=name))
    await harness.advance(100)
    await handle.signal(v1.approved, v1.Approval(by="eve"))
    return await _end(handle)


@story
async def signals_that_never_came(harness: Harness) -> Handle[Any]:
    return await _end(await harness.start(v1.approval, _order()))


@story
async def parked_and_resolved(harness: Harness) -> Handle[Any]:
    """An undo uses up its attempts; a person retries it."""
    order = v1.Transfer(payer="closed", payee="bob", cents=500, payee_acts="refused")
    handle = await harness.start(v1.transfer, order)
    await harness.advance(100)
    await handle.resolve("retry", who="ann", why="the account is open again")
    return await _end(handle)


@story
async def pivot_and_skip(harness: Harness) -> Handle[Any]:
    """After the pivot a refusal parks; a person completes the step by hand."""
    handle = await harness.start(v1.transfer_with_pivot, _order(payee_acts="refused"))
    await harness.advance(100)
    result = {"text": "by hand"}
    await handle.resolve("complete", who="ann", why="paid in cash", result=result)
    return await _end(handle)


@story
async def cancelled(harness: Harness) -> Handle[Any]:
    handle = await harness.start(v1.transfer, _order(payee_acts="slow"))
    await harness.advance(5)
    await handle.cancel(who="ann", why="changed my mind")
    return await _end(handle)


@story
async def terminated(harness: Harness) -> Handle[Any]:
    handle = await harness.start(v1.transfer, _order(payee_acts="slow"))
    await harness.advance(5)
    await handle.terminate(who="ann", why="it does harm")
    await harness.advance(100)
    return handle


@story
async def fan_out(harness: Harness) -> Handle[Any]:
    acts = ["done", "slow", "flaky", "done", "slow"]
    bookings = [v1.Booking(account=f"a{n}", cents=n, acts=act) for n, act in enumerate(acts)]
    return await _end(await harness.start(v1.fan_out, bookings))


@story
async def fan_out_with_a_failure(harness: Harness) -> Handle[Any]:
    acts = ["done", "slow", "slow", "refused", "done", "flaky"]
    bookings = [v1.Booking(account=f"a{n}", cents=n, acts=act) for n, act in enumerate(acts)]
    return await _end(await harness.start(v1.fan_out, bookings))


@story
async def deadline(harness: Harness) -> Handle[Any]:
    booking = v1.Booking(account="ann", cents=7200, acts="slow")
    return await _end(await harness.start(v1.overdue, booking))


@story
async def given_up_and_made_good(harness: Harness) -> Handle[Any]:
    """A step that the saga gave up was done after all: it is undone before the saga completes."""
    booking = v1.Booking(account="ann", cents=60, acts="slow")
    return await _end(await harness.start(v1.overdue, booking))

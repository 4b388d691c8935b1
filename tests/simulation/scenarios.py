"""One saga for each thing a saga can do, with the clients and the bank that drive it to an end
that is known beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel

from amends import (
    App,
    Failure,
    Handle,
    SagaContext,
    SagaNotCompleted,
    Signal,
    Status,
    StepFailed,
    saga,
)
from amends.domain.events import AttemptOutcome, ErrorInfo
from amends.domain.messages import ReportCompleted, ReportFailed
from amends.testing.harness import Harness
from tests.simulation.bank import FINE, Bank, Booking, Fate, pay, the_bank, wire


class GaveUp(Failure):
    """The saga's own decision to fail."""


approved = Signal("approved", str)


def booking(account: str, cents: int) -> Booking:
    return Booking(account=account, cents=cents)


@saga
async def one_step(ctx: SagaContext) -> list[str]:
    await ctx.do(pay, booking("payer", -5))
    raise GaveUp


@saga
async def transfer(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    return [first, await ctx.do(pay, booking("payee", 5))]


@saga
async def two_and_a_refusal(ctx: SagaContext) -> list[str]:
    await ctx.do(pay, booking("payer", -5))
    await ctx.do(wire, booking("transit", 3))
    await ctx.do(pay, booking("refused", 2))
    raise AssertionError("unreachable")


@saga
async def wiring(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    return [first, await ctx.do(wire, booking("payee", 5))]


@saga(deadline=600)
async def timers(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    await asyncio.sleep(60)
    try:
        async with asyncio.timeout(3):
            await ctx.do(pay, booking("slow", 5))
    except TimeoutError:
        await asyncio.sleep(1)
        raise GaveUp from None
    return [first]


@saga
async def asks_first(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    async with asyncio.timeout(1000):
        await ctx.receive(approved)
    return [first, await ctx.do(pay, booking("payee", 5))]


@saga
async def side_by_side(ctx: SagaContext) -> list[str]:
    await ctx.do(pay, booking("payer", -5))
    receipts = await asyncio.gather(
        ctx.do(pay, booking("payee", 1)),
        ctx.do(pay, booking("refused", 2)),
        ctx.do(wire, booking("slow", 2)),
    )
    return list(receipts)


@saga(compensate="in_parallel")
async def undone_at_once(ctx: SagaContext) -> list[str]:
    await asyncio.gather(*(ctx.do(pay, booking("payer", -n)) for n in range(1, 4)))
    raise GaveUp


@saga
async def sleeps_long(ctx: SagaContext) -> list[str]:
    await ctx.do(pay, booking("payer", -5))
    await asyncio.sleep(86400)
    return []


@saga
async def beyond_the_pivot(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    second = await ctx.do(pay, booking("payee", 2), pivot=True)
    return [first, second, await ctx.do(pay, booking("shut", 3))]


@saga
async def never_heard_of(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    return [first, await ctx.do(pay, booking("late", 5))]


class Notice(BaseModel, frozen=True):
    text: str


@saga
async def more_than_an_append(ctx: SagaContext) -> list[str]:
    for number in range(5):
        ctx.emit(Notice(text=str(number) + "x" * 200_000))
    first = await ctx.do(pay, booking("payer", -5))
    return [first, *await asyncio.gather(*(ctx.do(pay, booking("payee", n)) for n in (2, 3)))]


@saga
async def goes_another_way(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    try:
        return [first, await ctx.do(pay, booking("refused", 5))]
    except StepFailed:
        return [first, await ctx.do(pay, booking("payee", 5))]


Drive = Callable[[Harness, Handle[list[str]]], Awaitable[None]]


async def just_wait(harness: Harness, handle: Handle[list[str]]) -> None:
    """The clients do nothing but wait."""


async def approve(harness: Harness, handle: Handle[list[str]]) -> None:
    await harness.advance(10)
    await handle.signal(approved, "yes")


async def cancel(harness: Harness, handle: Handle[list[str]]) -> None:
    await harness.advance(10)
    await handle.cancel(who="test", why="test")


async def reopen_and_retry(harness: Harness, handle: Handle[list[str]]) -> None:
    while await handle.status() is not Status.PARKED:
        await harness.advance(1)
    the_bank().fate = lambda name, key, attempt: FINE
    await handle.resolve("retry", who="test", why="the account is open again")


async def report_at_the_end(harness: Harness, handle: Handle[list[str]]) -> None:
    """The consumer that everybody had given up comes back when all is undone."""
    assert (await end_of(handle))[0] is Status.COMPENSATED
    await report_late(harness, handle)
    await harness.advance(60)


async def report_while_undone(harness: Harness, handle: Handle[list[str]]) -> None:
    """The same, while its step is undone without its result."""
    while not the_bank().undone_by:
        await harness.advance(0.1)
    await report_late(harness, handle)


async def doubt_at_the_end(harness: Harness, handle: Handle[list[str]]) -> None:
    """One run of the third step was refused; the other booked, and nobody heard of it."""
    assert (await end_of(handle))[0] is Status.COMPENSATED
    the_bank().booked[f"{handle.instance}/3"] = booking("late", 2)
    await harness.client.send(
        ReportFailed(
            saga=handle.instance.saga,
            id=handle.id,
            seq=3,
            attempt=1,
            outcome=AttemptOutcome.TIMED_OUT,
            error=ErrorInfo(type="TimeoutError", message="too slow"),
        )
    )
    await harness.advance(60)


async def report_on_another_way(harness: Harness, handle: Handle[list[str]]) -> None:
    """One run of the second step was refused, and its saga goes another way; the other booked."""
    while f"{handle.instance}/3" not in the_bank().booked:
        await harness.advance(0.1)
    await report_late(harness, handle)


async def report_late(harness: Harness, handle: Handle[list[str]]) -> None:
    key = f"{handle.instance}/2"
    the_bank().booked[key] = booking("late", 5)
    await harness.client.send(
        ReportCompleted(saga=handle.instance.saga, id=handle.id, seq=2, attempt=3, result=key)
    )


def all_well(name: str, key: str, attempt: int) -> Fate:
    return FINE


def refusing(*seqs: int) -> Callable[[str, str, int], Fate]:
    return lambda name, key, attempt: Fate(refuse=_seq(key) in seqs)


def too_slow(name: str, key: str, attempt: int) -> Fate:
    """The last step times out after its effect; all else breaks once."""
    if _seq(key) == 2 and name == "wire":
        return Fate(after_s=10)
    return Fate(broken=attempt == 1)


def slow_fourth(name: str, key: str, attempt: int) -> Fate:
    return Fate(after_s=4 if _seq(key) == 4 else 0)


def refused_third(name: str, key: str, attempt: int) -> Fate:
    seq = _seq(key)
    is_undo = name.startswith("un")
    return Fate(refuse=seq == 3, after_s=3 if seq == 4 else 0, broken=is_undo and attempt == 1)


def refused_and_slow(name: str, key: str, attempt: int) -> Fate:
    return Fate(refuse=_seq(key) == 2, after_s=3 if _seq(key) == 3 else 0)


def never_heard(name: str, key: str, attempt: int) -> Fate:
    is_heard = _seq(key) != 2 or name != "pay"
    return Fate(after_s=3 if name == "unpay" else 0) if is_heard else Fate(before_s=99)


def breaks_after_its_effect(name: str, key: str, attempt: int) -> Fate:
    """The first attempt times out with its effect, and no other gets through to the bank."""
    if _seq(key) != 2 or name != "pay":
        return FINE
    return Fate(after_s=99) if attempt == 1 else Fate(broken=True)


def _seq(key: str) -> int:
    return int(key.split("/")[2])


async def end_of(handle: Handle[list[str]]) -> tuple[Status, list[str]]:
    """How an instance ended, and the receipts that it has for it."""
    try:
        return Status.COMPLETED, await handle.result()
    except SagaNotCompleted as error:
        return Status(error.state), []


@dataclass(frozen=True)
class Scenario:
    name: str
    saga: str
    end: Status
    drive: Drive = just_wait
    fate: Callable[[str, str, int], Fate] = all_well

    async def run(self, harness: Harness) -> Handle[list[str]]:
        handle = await harness.start(app.sagas[self.saga], id="1")
        await self.drive(harness, handle)
        end, receipts = await end_of(handle)
        assert end is self.end
        bank = the_bank()
        assert bank.standing_of(str(handle.instance)) == set(receipts), bank
        return handle


COMPENSATED, COMPLETED = Status.COMPENSATED, Status.COMPLETED
SMALLEST = Scenario("one step undone", "one_step", COMPENSATED)
SCENARIOS = [
    SMALLEST,
    Scenario("success", "transfer", COMPLETED),
    Scenario("a refusal at the end", "two_and_a_refusal", COMPENSATED, fate=refusing(3)),
    Scenario("unknown, and a probe that knows", "wiring", COMPLETED, fate=too_slow),
    Scenario("timers and an abandoned step", "timers", COMPENSATED, fate=slow_fourth),
    Scenario("a signal", "asks_first", COMPLETED, approve),
    Scenario("one of three refused", "side_by_side", COMPENSATED, fate=refused_third),
    Scenario("undone side by side", "undone_at_once", COMPENSATED),
    Scenario("late, after the end", "never_heard_of", COMPENSATED, report_at_the_end, never_heard),
    Scenario("late, at its undo", "never_heard_of", COMPENSATED, report_while_undone, never_heard),
    Scenario(
        "in doubt, after a refusal", "two_and_a_refusal", COMPENSATED, doubt_at_the_end, refusing(3)
    ),
    Scenario(
        "late, on another way",
        "goes_another_way",
        COMPLETED,
        report_on_another_way,
        refused_and_slow,
    ),
    Scenario("more than an append holds", "more_than_an_append", COMPLETED),
    Scenario("in doubt", "never_heard_of", COMPENSATED, fate=breaks_after_its_effect),
    Scenario("cancelled", "sleeps_long", Status.CANCELLED, cancel),
    Scenario(
        "parked beyond the pivot", "beyond_the_pivot", COMPLETED, reopen_and_retry, refusing(3)
    ),
]

app = App(
    sagas=[
        one_step,
        transfer,
        two_and_a_refusal,
        wiring,
        timers,
        asks_first,
        side_by_side,
        undone_at_once,
        sleeps_long,
        beyond_the_pivot,
        never_heard_of,
        goes_another_way,
        more_than_an_append,
    ],
    activities=[pay, wire],
)


def bank_of(scenario: Scenario) -> Bank:
    return Bank(fate=scenario.fate)

"""Payments over a ledger that is not the engine's own, for the acceptance tests.

Four sagas cover what can be in flight when a worker is killed: retries with backoff, refusals,
outcomes that nobody knows, timers, signals, parallel steps, steps that are given up, a pivot, and
a step that waits for a person. What happens to an attempt depends on its account and its key, and
not on timing. Each saga returns the idempotency keys of the bookings that are to stand.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from hashlib import blake2b

from pydantic import BaseModel

from amends import (
    App,
    DidNotHappen,
    Failure,
    Happened,
    Retry,
    SagaContext,
    Signal,
    StepFailed,
    StepUnknown,
    activity,
    activity_context,
    saga,
)
from tests.acceptance.ledger import Ledger, Void

QUICK = Retry(initial_s=0.01, max_interval_s=0.1, max_attempts=6)
ONCE_MORE = Retry(initial_s=0.01, max_attempts=2)
#: What takes longer is given up, and nobody knows whether it happened.
TIMEOUT_S = 0.2


class Order(BaseModel):
    """The payees' accounts say how they behave: see `deposit`."""

    payer: str
    payees: list[str]
    cents: int
    approval: bool = False
    pause_s: float = 0.0


class Booking(BaseModel):
    account: str
    cents: int


class Closed(Failure):
    """The account is closed, or the booking was reversed before it came."""


approved = Signal("approved", str)


@cache
def the_ledger() -> Ledger:
    return Ledger(os.environ["LEDGER"], os.environ.get("FUSE", ""))


def book(booking: Booking) -> str:
    context = activity_context()
    try:
        the_ledger().book(context.idempotency_key, context.attempt, booking.account, booking.cents)
    except Void as void:
        raise Closed(str(void)) from None
    return context.idempotency_key


def reverse(receipt: str | None) -> None:
    context = activity_context()
    assert context.origin_key is not None
    assert receipt in (None, context.origin_key)
    the_ledger().reverse(context.idempotency_key, context.attempt, context.origin_key)


def break_sometimes(percent: int, moment: str) -> None:
    """Drawn from the attempt, so that its copies agree."""
    context = activity_context()
    text = f"{moment} {context.idempotency_key}#{context.attempt}"
    if blake2b(text.encode(), digest_size=1).digest()[0] * 100 < percent * 256:
        raise ConnectionError(f"{moment} the effect")


# A connection that breaks says nothing of the effect: hence undo_failed.
@activity(queue="ledger", retry=QUICK, undo_failed=True)
def withdraw(booking: Booking) -> str:
    break_sometimes(10, "before")
    receipt = book(booking)
    # An account that never answers uses up all attempts.
    break_sometimes(100 if booking.account.startswith("mute") else 15, "after")
    return receipt


@withdraw.undo(retry=QUICK)
def refund(booking: Booking, receipt: str | None) -> None:
    break_sometimes(10, "before")
    reverse(receipt)
    break_sometimes(15, "after")


@activity(queue="bank", retry=ONCE_MORE, timeout=TIMEOUT_S)
async def deposit(booking: Booking) -> str:
    """To an account that is closed; shut until a person opens it; slow to answer; cut off after
    a first, slow answer; or any other.
    """
    account = booking.account
    is_shut = account.startswith("shut") and not the_ledger().is_open(account)
    if is_shut or account.startswith("closed"):
        raise Closed(account)
    if account.startswith("cut") and activity_context().attempt > 1:
        raise ConnectionError("before the effect")
    receipt = book(booking)
    if account.startswith(("slow", "cut")):
        await asyncio.sleep(60)
    return receipt


@deposit.undo(retry=QUICK)
async def take_back(booking: Booking, receipt: str | None) -> None:
    reverse(receipt)


@activity(queue="bank", retry=ONCE_MORE, timeout=TIMEOUT_S)
async def wire(booking: Booking) -> str:
    """Like `deposit`, and the bank can be asked about it."""
    receipt = book(booking)
    if booking.account.startswith("slow"):
        await asyncio.sleep(60)
    return receipt


@wire.undo(retry=QUICK)
async def recall(booking: Booking, receipt: str | None) -> None:
    reverse(receipt)


@wire.probe(timeout=60)
async def trace(booking: Booking) -> Happened[str] | DidNotHappen:
    origin = activity_context().origin_key
    assert origin is not None
    await asyncio.sleep(TIMEOUT_S)
    return Happened(origin) if the_ledger().is_booked(origin) else DidNotHappen()


class NoWay(Failure):
    """None of the payees took the money."""


def from_payer(order: Order, times: int = 1) -> Booking:
    return Booking(account=order.payer, cents=-times * order.cents)


def to(payee: str, order: Order) -> Booking:
    return Booking(account=payee, cents=order.cents)


@saga
async def transfer(ctx: SagaContext, order: Order) -> list[str]:
    taken = await ctx.do(withdraw, from_payer(order))
    if order.approval:
        await ctx.receive(approved)
    await asyncio.sleep(order.pause_s)
    return [taken, await ctx.do(deposit, to(order.payees[0], order))]


@saga(compensate="in_parallel")
async def payout(ctx: SagaContext, order: Order) -> list[str]:
    """To all payees at once."""
    taken = await ctx.do(withdraw, from_payer(order, len(order.payees)))
    given = await asyncio.gather(*(ctx.do(deposit, to(payee, order)) for payee in order.payees))
    return [taken, *given]


@saga
async def detour(ctx: SagaContext, order: Order) -> list[str]:
    """To the first payee who takes it in time."""
    taken = await ctx.do(withdraw, from_payer(order))
    for payee in order.payees:
        try:
            async with asyncio.timeout(TIMEOUT_S / 2):
                return [taken, await ctx.do(deposit, to(payee, order))]
        except (TimeoutError, StepFailed, StepUnknown):
            continue
    raise NoWay


@saga
async def purchase(ctx: SagaContext, order: Order) -> list[str]:
    """Beyond the pivot the second payee gets his money, and be it by a person's help."""
    taken = await ctx.do(withdraw, from_payer(order, 2))
    wired = await ctx.do(wire, to(order.payees[0], order), pivot=True)
    await asyncio.sleep(order.pause_s)
    return [taken, wired, await ctx.do(deposit, to(order.payees[1], order))]


app = App(
    sagas=[transfer, payout, detour, purchase],
    activities=[withdraw, deposit, wire],
    concurrency={"ledger": 16},
)

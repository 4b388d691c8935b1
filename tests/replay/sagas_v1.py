"""The sagas whose journals are kept in this folder, as they were when these were recorded.

They are never changed: whoever wants another saga writes a new one, and records it. What an
activity does depends on its input and its attempt only, so that a journal that was cut off
anywhere can be driven on.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from amends import (
    App,
    DidNotHappen,
    Failure,
    Happened,
    Retry,
    SagaContext,
    Signal,
    activity,
    activity_context,
    event,
    saga,
)

TWICE = Retry(max_attempts=2, initial_s=1, jitter=0)


class Refused(Failure):
    """The bank says no."""


class Transfer(BaseModel):
    payer: str
    payee: str
    cents: int
    payer_acts: str = "done"
    payee_acts: str = "done"


class Booking(BaseModel):
    account: str
    cents: int
    acts: str = "done"


class Receipt(BaseModel):
    text: str


class Approval(BaseModel):
    by: str
    granted: bool = True


@event
class MoneyMoved(BaseModel, frozen=True):
    payer: str
    payee: str
    cents: int


approved = Signal("approved", Approval)


async def _act(booking: Booking) -> Receipt:
    attempt = activity_context().attempt
    if booking.acts == "refused":
        raise Refused(f"{booking.account} has no money")
    if booking.acts == "broken" or (booking.acts == "flaky" and attempt == 1):
        raise ConnectionError("the line is down")
    if booking.acts == "hangs":
        await asyncio.sleep(10_000)
    if booking.acts == "slow":
        await asyncio.sleep(20)
    return Receipt(text=f"{booking.account}:{booking.cents}")


@activity(retry=TWICE, timeout=60)
async def withdraw(booking: Booking) -> Receipt:
    return await _act(booking)


@withdraw.undo(retry=TWICE)
async def refund(booking: Booking, receipt: Receipt | None) -> None:
    if booking.account == "closed" and activity_context().attempt <= 2:
        raise ConnectionError("the account is closed")


@activity(retry=TWICE, timeout=60)
async def deposit(booking: Booking) -> Receipt:
    return await _act(booking)


@deposit.undo(retry=TWICE)
async def withdraw_again(booking: Booking, receipt: Receipt | None) -> None: ...


@activity(retry=TWICE, timeout=60)
async def book(booking: Booking) -> Receipt:
    return await _act(booking)


@book.probe
async def was_booked(booking: Booking) -> Happened[Receipt] | DidNotHappen:
    if booking.cents > 100:
        return Happened(Receipt(text="it was"))
    return DidNotHappen()


@activity(retry=TWICE, timeout=60)
async def notify(text: str) -> None: ...


@saga
async def transfer(ctx: SagaContext, order: Transfer) -> Receipt:
    taken = Booking(account=order.payer, cents=order.cents, acts=order.payer_acts)
    given = Booking(account=order.payee, cents=order.cents, acts=order.payee_acts)
    await ctx.do(withdraw, taken)
    receipt = await ctx.do(deposit, given)
    ctx.emit(MoneyMoved(payer=order.payer, payee=order.payee, cents=order.cents))
    return receipt


@saga
async def transfer_with_pivot(ctx: SagaContext, order: Transfer) -> Receipt:
    taken = Booking(account=order.payer, cents=order.cents, acts=order.payer_acts)
    given = Booking(account=order.payee, cents=order.cents, acts=order.payee_acts)
    await ctx.do(withdraw, taken)
    await ctx.do(notify, "no way back", pivot=True)
    return await ctx.do(deposit, given)


@saga
async def probed(ctx: SagaContext, booking: Booking) -> Receipt:
    return await ctx.do(book, booking)


@saga
async def reminders(ctx: SagaContext) -> list[str]:
    """Timers: one after another, beside one another, cancelled, and of years."""
    seen: list[str] = []

    async def remind(seconds: float, text: str) -> None:
        await asyncio.sleep(seconds)
        seen.append(text)

    await remind(1 / 3, "soon")
    await asyncio.gather(remind(30, "later"), remind(10, "sooner"), remind(10, "as soon"))
    try:
        async with asyncio.timeout(5):
            await remind(60, "never")
    except TimeoutError:
        seen.append("in time")
    async with asyncio.timeout(1000):
        await remind(3 * 365 * 86400 / 1e6, "in a while")
    await remind(3 * 365 * 86400, "after years")
    return seen


@saga
async def approval(ctx: SagaContext, order: Transfer) -> str:
    """Signals: one that is awaited, several with a handler and a condition."""
    try:
        async with asyncio.timeout(86400):
            first = await ctx.receive(approved)
    except TimeoutError:
        return "nobody answered"
    if not first.granted:
        raise Refused(f"{first.by} says no")
    voices: list[str] = []
    ctx.on(approved, lambda approval: voices.append(approval.by))
    await ctx.wait_until(lambda: len(voices) >= 2)
    booking = Booking(account=order.payer, cents=order.cents, acts=order.payer_acts)
    await ctx.do(withdraw, booking)
    return " ".join([first.by, *voices, str(ctx.uuid())])


@saga(compensate="in_parallel")
async def fan_out(ctx: SagaContext, bookings: list[Booking]) -> int:
    """Steps side by side, with a bound, in every way that asyncio knows."""
    bound = asyncio.Semaphore(3)

    async def one(booking: Booking) -> str:
        async with bound:
            return (await ctx.do(withdraw, booking)).text

    texts = list(await asyncio.gather(*(one(booking) for booking in bookings)))
    async with asyncio.TaskGroup() as group:
        for booking in bookings[:2]:
            group.create_task(ctx.do(deposit, booking))
    for each in asyncio.as_completed([one(booking) for booking in bookings[:2]]):
        texts.append(await each)  # noqa: PERF401 - one after the other
    pending = {asyncio.create_task(one(booking), name=booking.account) for booking in bookings[:3]}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:  # amends: deterministic
            await ctx.do(notify, f"{task.get_name()} {ctx.random.randint(1, 6)}")
    return len(texts)


@saga(deadline=3600)
async def overdue(ctx: SagaContext, booking: Booking) -> str:
    """It gives one way up and goes another, and then takes longer than it has."""
    try:
        async with asyncio.timeout(5):
            await ctx.do(withdraw, booking)
    except TimeoutError:
        await ctx.do(notify, "the other way")
    await asyncio.sleep(booking.cents)
    return "in time"


APP = App(
    sagas=[transfer, transfer_with_pivot, probed, reminders, approval, fan_out, overdue],
    activities=[withdraw, deposit, book, notify],
)

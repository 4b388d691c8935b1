"""What the soak runs: transfers of every kind between the accounts of a bank in memory.

Like a bank, it books once for each idempotency key; unlike one, it forgets a transfer's keys when
the transfer is over, so that its own memory stays flat.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from enum import StrEnum
from typing import Final

from pydantic import BaseModel

from amends import App, Failure, Retry, SagaContext, Signal, activity, activity_context, saga

ACCOUNTS: Final = 100
OPENING_CENTS: Final = 1_000_000
#: Everything happens at whole multiples of this, so that what happens at once shares its commits.
TICK_S: Final = 20.0
#: A transfer waits so long for its approval.
APPROVAL_S: Final = 1800.0
QUICK: Final = Retry(max_attempts=5, initial_s=TICK_S, jitter=0.0)


class Kind(StrEnum):
    """What becomes of a transfer."""

    PLAIN = "plain"
    FLAKY = "flaky"  # an attempt fails, and is repeated after a backoff
    REFUSED = "refused"  # the payee's account is closed: the money goes back
    LATER = "later"  # the money arrives after a timer
    APPROVED = "approved"  # somebody signals
    FORGOTTEN = "forgotten"  # nobody does: the money goes back
    CANCELLED = "cancelled"


#: Out of twenty transfers.
MIX: Final = (
    *[Kind.PLAIN] * 11,
    *[Kind.REFUSED] * 3,
    *[Kind.LATER] * 2,
    Kind.FLAKY,
    Kind.APPROVED,
    Kind.FORGOTTEN,
    Kind.CANCELLED,
)
OUTCOMES: Final = {
    Kind.REFUSED: "compensated",
    Kind.FORGOTTEN: "compensated",
    Kind.CANCELLED: "cancelled",
}


class Order(BaseModel):
    number: int
    kind: Kind
    cents: int = 10

    @property
    def payer(self) -> int:
        return self.number % ACCOUNTS

    def some_ticks_s(self, most: int) -> float:
        """A time of its own for each transfer, from one tick to so many."""
        return TICK_S * (1 + self.number * 7919 % most)

    @property
    def payee(self) -> int:
        return (self.number * 7 + 1) % ACCOUNTS


class MoneyTransferred(BaseModel, frozen=True):
    number: int
    cents: int


class AccountClosed(Failure):
    """The payee's account is closed."""


class NotApproved(Failure):
    """Nobody approved in time."""


class Bank:
    """Accounts, and what was booked under which key for transfers that are not over."""

    def __init__(self) -> None:
        self.cents = dict.fromkeys(range(ACCOUNTS), OPENING_CENTS)
        self.booked: dict[int, dict[str, tuple[int, int]]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether nothing is on its way, and no cent was lost or made."""
        return not self.booked and sum(self.cents.values()) == ACCOUNTS * OPENING_CENTS

    def book(self, order: Order, account: int, cents: int) -> int:
        """Book once for each key; the account's balance after it."""
        booked = self.booked.setdefault(order.number, {})
        key = activity_context().idempotency_key
        if key not in booked:
            booked[key] = account, cents
            self.cents[account] += cents
        return self.cents[account]

    def was_booked(self, order: Order, key: str | None) -> bool:
        return key in self.booked.get(order.number, {})

    def forget(self, order: Order) -> Counter[tuple[int, int]]:
        """What a transfer that is over has booked."""
        return Counter(self.booked.pop(order.number, {}).values())


#: The bank of the run that goes on: activities are declared once, runs are many.
_banks = [Bank()]


def open_bank() -> Bank:
    """A new bank for the activities."""
    _banks[:] = [Bank()]
    return _banks[0]


@activity(queue="bank", retry=QUICK)
async def withdraw(order: Order) -> int:
    if order.kind is Kind.FLAKY and activity_context().attempt == 1:
        raise ConnectionError("the line was cut")
    return _banks[0].book(order, order.payer, -order.cents)


@withdraw.undo(retry=QUICK)
async def refund(order: Order, balance: int | None) -> None:
    if _banks[0].was_booked(order, activity_context().origin_key):
        _banks[0].book(order, order.payer, order.cents)


@activity(queue="bank", retry=QUICK)
async def deposit(order: Order) -> int:
    if order.kind is Kind.REFUSED:
        raise AccountClosed(f"account {order.payee}")
    return _banks[0].book(order, order.payee, order.cents)


approved = Signal("approved", str)


@saga
async def transfer(ctx: SagaContext, order: Order) -> int:
    await ctx.do(withdraw, order)
    if order.kind is Kind.LATER:
        await asyncio.sleep(order.some_ticks_s(180))
    if order.kind in (Kind.APPROVED, Kind.FORGOTTEN, Kind.CANCELLED):
        try:
            async with asyncio.timeout(APPROVAL_S):
                await ctx.receive(approved)
        except TimeoutError:
            raise NotApproved from None
    balance = await ctx.do(deposit, order)
    ctx.emit(MoneyTransferred(number=order.number, cents=order.cents))
    return balance


app = App(sagas=[transfer], activities=[withdraw, deposit])

"""The application that the tests of the command line run: money is transferred, or not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from pydantic import BaseModel, Field

from amends import App, Failure, Retry, SagaContext, Signal, activity, saga

QUICKLY = Retry(max_attempts=2, initial_s=0.01, max_interval_s=0.01)


class Transfer(BaseModel):
    payer: str
    payee: str
    amount: int = Field(gt=0)
    memo: str = ""


class AccountClosed(Failure):
    """The bank knows no such account any more."""


class MoneyTransferred(BaseModel, frozen=True):
    payee: str
    amount: int


@activity(queue="ledger", retry=QUICKLY)
async def withdraw(order: Transfer) -> str:
    if order.payer == "gate":
        sys.stdout.write("withdrawing\n")
        sys.stdout.flush()
        # A pipe: whoever opens it for writing lets this go on.
        await asyncio.to_thread(Path("gate").read_text)
    return f"withdrawn from {order.payer}"


@withdraw.undo(retry=QUICKLY)
def refund(order: Transfer, receipt: str | None) -> None:
    if order.payer == "jammed" and not Path("repaired").exists():
        raise ConnectionError("the bank does not answer [503]")


@activity(queue="ledger", retry=QUICKLY)
async def deposit(order: Transfer) -> str:
    if order.payee == "closed":
        raise AccountClosed(f"account {order.payee} is closed")
    return f"paid to {order.payee}"


@saga
async def transfer(ctx: SagaContext, order: Transfer) -> str:
    await ctx.do(withdraw, order)
    receipt = await ctx.do(deposit, order)
    ctx.emit(MoneyTransferred(payee=order.payee, amount=order.amount))
    return receipt


class Approval(BaseModel):
    by: str


approved = Signal("approved", Approval)


@saga
async def approve(ctx: SagaContext) -> str:
    """Waits for a person, for days if need be."""
    approval = await ctx.receive(approved)
    return f"approved by {approval.by}"


@saga
async def sleepy(ctx: SagaContext, days: int) -> None:
    await asyncio.sleep(days * 86_400)


#: Whether this is the code with the bug, or what was deployed later.
FIXED = "AMENDS_TEST_FIXED" in os.environ


@saga
async def buggy(ctx: SagaContext, order: Transfer) -> str:
    receipt = await ctx.do(withdraw, order)
    if not FIXED:
        raise TypeError("a bug, not a refusal")
    return receipt


app = App(sagas=[transfer, approve, sleepy, buggy], activities=[withdraw, deposit])
not_an_app = "a text"

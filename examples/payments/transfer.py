"""The saga of one payment, its activities, and the application that runs them."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from amends import (
    App,
    DidNotHappen,
    Failure,
    Happened,
    Retry,
    SagaContext,
    activity,
    aggregates,
    saga,
)
from amends.projections.builtin import Sagas
from examples.payments.accounts import Account, MoneyDeposited, MoneyWithdrawn
from examples.payments.ledger import Ledger
from examples.payments.outside import (
    Trouble,
    after_effect,
    before_effect,
    note_step,
    trouble_with,
)

#: Short, so that the demo's time-outs do not make it last; a real ledger would get 30 s.
ANSWER_TIMEOUT_S: Final = 1.0
PATIENT: Final = Retry(initial_s=0.1, max_attempts=4)
THREE_TRIES: Final = Retry(initial_s=0.1, max_attempts=3)

LEDGER_TROUBLE: Final = {Trouble.SLOW: 0.02, Trouble.SILENT: 0.01, Trouble.FLAKY: 0.03}
BANK_TROUBLE: Final = {
    Trouble.SLOW: 0.02,
    Trouble.SILENT: 0.01,
    Trouble.FLAKY: 0.03,
    Trouble.LATE: 0.05,
}
MAIL_TROUBLE: Final = {Trouble.FLAKY: 0.05, Trouble.REFUSED: 0.003}


class Frozen(BaseModel):
    """Base of what travels."""

    model_config = ConfigDict(frozen=True)


class Transfer(Frozen):
    """One payment: `cents` minor units of `currency` from one account to another."""

    payment: str
    payer: str
    payee: str
    cents: int
    currency: str


class Receipt(Frozen):
    """Proof that money was booked: the event of the account that says so."""

    account: str
    cents: int
    version: int


class MoneyTransferred(Frozen):
    """The payment arrived."""

    payment: str
    payer: str
    payee: str
    cents: int
    currency: str


class NobodyToNotify(Failure):
    """The payee has left no address."""


@activity(queue="ledger", retry=THREE_TRIES, timeout=ANSWER_TIMEOUT_S)
async def withdraw(order: Transfer) -> Receipt:
    """Take the money from the payer's account, once, however often this runs."""
    note_step()
    trouble = trouble_with(LEDGER_TROUBLE)
    await before_effect(trouble)
    recorded = await aggregates(Account).execute(
        order.payer, lambda account: account.withdraw(order.payment, order.cents, order.currency)
    )
    await after_effect(trouble)
    fact = recorded.one(MoneyWithdrawn)
    return Receipt(account=order.payer, cents=fact.cents, version=recorded.version)


@withdraw.undo
async def refund(order: Transfer, receipt: Receipt | None) -> None:
    """Give back what was withdrawn. Without a receipt, the account's own history decides."""
    note_step()
    if receipt is None and await aggregates(Account).recorded(order.payer) is None:
        return
    await aggregates(Account).execute(
        order.payer, lambda account: account.refund(order.payment, order.cents)
    )


@activity(queue="bank", retry=THREE_TRIES, timeout=ANSWER_TIMEOUT_S)
async def deposit(order: Transfer) -> Receipt:
    """Bring the money to the payee's account."""
    note_step()
    trouble = trouble_with(BANK_TROUBLE)
    await before_effect(trouble)
    recorded = await aggregates(Account).execute(
        order.payee, lambda account: account.deposit(order.payment, order.cents, order.currency)
    )
    await after_effect(trouble)
    fact = recorded.one(MoneyDeposited)
    return Receipt(account=order.payee, cents=fact.cents, version=recorded.version)


@deposit.probe
async def find_deposit(order: Transfer) -> Happened[Receipt] | DidNotHappen:
    """Ask the payee's account whether the deposit is on its books."""
    note_step()
    recorded = await aggregates(Account).recorded(order.payee)
    if recorded is None:
        return DidNotHappen()
    fact = recorded.one(MoneyDeposited)
    return Happened(Receipt(account=order.payee, cents=fact.cents, version=recorded.version))


@activity(queue="mail", retry=PATIENT)
async def notify(order: Transfer) -> None:
    """Tell the payee."""
    note_step()
    trouble = trouble_with(MAIL_TROUBLE)
    await before_effect(trouble)
    if trouble is Trouble.REFUSED:
        raise NobodyToNotify(f"no address for {order.payee}")


@saga
async def transfer_money(ctx: SagaContext, order: Transfer) -> Receipt:
    """Move money from one account to another, or leave everything as it was."""
    await ctx.do(withdraw, order)
    receipt = await ctx.do(deposit, order, pivot=True)
    ctx.emit(MoneyTransferred(**order.model_dump()))
    await ctx.do(notify, order)
    return receipt


app = App(
    sagas=[transfer_money],
    activities=[withdraw, deposit, notify],
    projections=[Ledger(), Sagas()],
)

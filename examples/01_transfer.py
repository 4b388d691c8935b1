"""A first saga: move money, and take it back when it cannot arrive.

python examples/01_transfer.py
"""

import asyncio
import tempfile
from pathlib import Path

from pydantic import BaseModel

from amends import App, Failure, SagaContext, SagaNotCompleted, activity, saga

balances = {"ann": 100, "bob": 0}


class Transfer(BaseModel):
    """The input of the saga."""

    payer: str
    payee: str
    cents: int


class NoSuchAccount(Failure):
    """A refusal by the business: never retried."""


@activity(queue="ledger")
async def withdraw(order: Transfer) -> int:
    """Take the money from the payer."""
    balances[order.payer] -= order.cents
    return balances[order.payer]


@withdraw.undo
async def refund(order: Transfer, left: int | None) -> None:
    """Give it back."""
    balances[order.payer] += order.cents


@activity(queue="ledger")
async def deposit(order: Transfer) -> int:
    """Bring it to the payee."""
    if order.payee not in balances:
        raise NoSuchAccount(order.payee)
    balances[order.payee] += order.cents
    return balances[order.payee]


@saga
async def transfer_money(ctx: SagaContext, order: Transfer) -> str:
    """Both, or neither."""
    await ctx.do(withdraw, order)
    await ctx.do(deposit, order)
    return f"{order.cents} cents to {order.payee}"


app = App(sagas=[transfer_money], activities=[withdraw, deposit])


async def main() -> None:
    """Run one transfer that arrives and one that cannot."""
    with tempfile.TemporaryDirectory() as folder:
        async with app.run(Path(folder, "transfers.db")) as client:
            good = await client.start(
                transfer_money, Transfer(payer="ann", payee="bob", cents=30), id="t-1"
            )
            print(await good.result())
            bad = await client.start(
                transfer_money, Transfer(payer="ann", payee="nobody", cents=5), id="t-2"
            )
            try:
                await bad.result()
            except SagaNotCompleted as end:
                print(end)
            print(balances)


if __name__ == "__main__":
    asyncio.run(main())

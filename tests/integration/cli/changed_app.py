"""The same application after a change that its journals do not fit: deposit comes first now."""

from __future__ import annotations

from amends import App, SagaContext, saga
from tests.integration.cli.transfer_app import Transfer, approve, deposit, withdraw


@saga(name="transfer")
async def changed_transfer(ctx: SagaContext, order: Transfer) -> str:
    receipt = await ctx.do(deposit, order)
    await ctx.do(withdraw, order)
    return receipt


app = App(sagas=[changed_transfer, approve], activities=[withdraw, deposit])

"""The same application after changes that its journals do not fit."""

from __future__ import annotations

import asyncio

from amends import App, SagaContext, saga
from tests.integration.cli.transfer_app import Transfer, approve, approved, deposit, withdraw


@saga(name="transfer")
async def changed_transfer(ctx: SagaContext, order: Transfer) -> str:
    """Deposits first."""
    receipt = await ctx.do(deposit, order)
    await ctx.do(withdraw, order)
    return receipt


app = App(sagas=[changed_transfer, approve], activities=[withdraw, deposit])


@saga(name="approve")
async def hasty_approve(ctx: SagaContext) -> str:
    """Waits for an hour only."""
    async with asyncio.timeout(3600):
        return (await ctx.receive(approved)).by


hasty = App(sagas=[hasty_approve])

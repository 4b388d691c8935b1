"""Transfers over a ledger that is not the engine's own: the oracle of the acceptance tests.

The ledger is an SQLite file named by ORACLE_DB. Like a bank's, it books an entry once for each
idempotency key. It also keeps a line for every attempt, repeated or not.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from hashlib import blake2b

from pydantic import BaseModel

from amends import App, Failure, Retry, SagaContext, Signal, activity, activity_context, saga

QUICK = Retry(initial_s=0.02, max_interval_s=0.1, max_attempts=6)


class Transfer(BaseModel):
    payer: str
    payee: str
    cents: int
    approval: bool = False


class Closed(Failure):
    """The payee's account is closed."""


approved = Signal("approved", str)


def open_oracle(path: str) -> sqlite3.Connection:
    # A killed process does not lose what the operating system has: no need to sync.
    oracle = sqlite3.connect(path, timeout=30, isolation_level=None)
    oracle.execute("PRAGMA journal_mode=WAL")
    oracle.execute("PRAGMA synchronous=OFF")
    return oracle


def create_oracle(path: str) -> None:
    oracle = open_oracle(path)
    oracle.execute(
        "CREATE TABLE entries (key TEXT PRIMARY KEY, about TEXT, account TEXT, cents INTEGER)"
    )
    oracle.execute("CREATE TABLE attempts (key TEXT, attempt INTEGER)")
    oracle.close()


def book(account: str, cents: int) -> None:
    """Book once for this step, and note the attempt."""
    context = activity_context()
    about = context.origin_key or context.idempotency_key
    oracle = open_oracle(os.environ["ORACLE_DB"])
    try:
        oracle.execute("BEGIN IMMEDIATE")
        oracle.execute(
            "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)",
            (context.idempotency_key, about, account, cents),
        )
        oracle.execute(
            "INSERT INTO attempts VALUES (?, ?)", (context.idempotency_key, context.attempt)
        )
        oracle.execute("COMMIT")
    finally:
        oracle.close()


def unlucky(percent: int) -> bool:
    """Drawn from the attempt, so that a run depends on its seed and not on its timing."""
    context = activity_context()
    text = f"{context.idempotency_key}#{context.attempt}"
    return blake2b(text.encode(), digest_size=2).digest()[0] * 100 < percent * 256


def is_booked(key: str) -> bool:
    oracle = open_oracle(os.environ["ORACLE_DB"])
    try:
        return bool(oracle.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone())
    finally:
        oracle.close()


# A connection that breaks says nothing of the effect: hence undo_failed.
@activity(queue="ledger", retry=QUICK, undo_failed=True)
def withdraw(order: Transfer) -> str:
    if unlucky(10):
        raise ConnectionError("before the effect")
    book(order.payer, -order.cents)
    if unlucky(15):
        raise ConnectionError("after the effect")
    return activity_context().idempotency_key


@withdraw.undo
def refund(order: Transfer, receipt: str | None) -> None:
    origin = activity_context().origin_key
    assert origin is not None
    if receipt is not None or is_booked(origin):
        book(order.payer, order.cents)


@activity(queue="bank", retry=QUICK)
async def deposit(order: Transfer) -> str:
    if order.payee.startswith("closed"):
        raise Closed(order.payee)
    book(order.payee, order.cents)
    await asyncio.sleep(0.002)
    return activity_context().idempotency_key


@saga
async def transfer(ctx: SagaContext, order: Transfer) -> str:
    await ctx.do(withdraw, order)
    if order.approval:
        await ctx.receive(approved)
    await asyncio.sleep(0.05)
    return await ctx.do(deposit, order)


app = App(sagas=[transfer], activities=[withdraw, deposit], concurrency={"ledger": 16})

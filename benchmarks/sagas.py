"""The sagas that are measured. Their activities do nothing, so that what remains is the engine.

Every activity counts its runs, and those of `recover` write a line to a file for each run: a
benchmark that lost or doubled a step would be found out.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Final

from pydantic import BaseModel

from amends import App, Failure, SagaContext, Signal, activity, saga

#: The file into which the steps of `recover` write. Both processes append to it.
STEP_LOG: Final = "BENCH_STEP_LOG"

#: Runs of each activity in this process.
RUNS: Counter[str] = Counter()


class Order(BaseModel):
    source: str = "acct-1"
    target: str = "acct-2"
    amount: int = 10
    memo: str = "m" * 40


class Receipt(BaseModel):
    account: str
    amount: int


class Refused(Failure):
    """The business says no, for good."""


# --- W1 transfer, W3 compensate


@activity
async def withdraw(order: Order) -> Receipt:
    RUNS["withdraw"] += 1
    return Receipt(account=order.source, amount=order.amount)


@withdraw.undo
async def refund(order: Order, receipt: Receipt | None) -> None:
    RUNS["refund"] += 1


@activity
async def deposit(order: Order) -> Receipt:
    RUNS["deposit"] += 1
    return Receipt(account=order.target, amount=order.amount)


@deposit.undo
async def take_back(order: Order, receipt: Receipt | None) -> None:
    RUNS["take_back"] += 1


@activity
async def refuse(order: Order) -> None:
    RUNS["refuse"] += 1
    raise Refused("refused")


@saga
async def transfer(ctx: SagaContext, order: Order) -> int:
    withdrawn = await ctx.do(withdraw, order)
    deposited = await ctx.do(deposit, order)
    return withdrawn.amount + deposited.amount


@saga
async def compensate(ctx: SagaContext, order: Order) -> None:
    await ctx.do(withdraw, order)
    await ctx.do(deposit, order)
    await ctx.do(refuse, order)


# --- W2 chain10, W4 fanout


@activity
async def plus(x: int) -> int:
    RUNS["plus"] += 1
    return x + 1


@saga
async def chain10(ctx: SagaContext, x: int) -> int:
    for _ in range(10):
        x = await ctx.do(plus, x)
    return x


@saga
async def fanout(ctx: SagaContext, width: int) -> int:
    return sum(await asyncio.gather(*[ctx.do(plus, x) for x in range(width)]))


# --- W5 sleepers


@saga
async def sleep(ctx: SagaContext) -> str:
    await asyncio.sleep(3600)
    return "woke"


@saga
async def nap(ctx: SagaContext, until: datetime) -> str:
    await ctx.sleep_until(until)
    return "woke"


# --- W6 recovery


@cache
def _step_log() -> int:
    return os.open(os.environ[STEP_LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _write_down(id: str, step: str) -> str:
    os.write(_step_log(), f"{id} {step}\n".encode())
    return step


@activity
async def before(id: str) -> str:
    return _write_down(id, "before")


@activity
async def after(id: str) -> str:
    return _write_down(id, "after")


@saga
async def recover(ctx: SagaContext) -> str:
    first = await ctx.do(before, ctx.id)
    await asyncio.sleep(2)
    second = await ctx.do(after, ctx.id)
    return f"{first} and {second}"


# --- W7 mixed load: also transfers, and compensations


@saga
async def doze(ctx: SagaContext, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "woke"


approved = Signal("approved", int)


@saga
async def approval(ctx: SagaContext, order: Order) -> int:
    bonus = await ctx.receive(approved)
    deposited = await ctx.do(deposit, order)
    return deposited.amount + bonus


# --- W8 long journals


class Entry(BaseModel):
    number: int
    memo: str = "m" * 40


closed = Signal("closed", str)

#: Called with the number of each entry, when it is posted.
WATCHERS: list[Callable[[int], None]] = []


@activity
async def post(entry: Entry) -> int:
    RUNS["post"] += 1
    for watcher in WATCHERS:
        watcher(entry.number)
    return entry.number


@post.undo
async def strike(entry: Entry, number: int | None) -> None:
    RUNS["strike"] += 1


@saga
async def ledger(ctx: SagaContext, entries: int) -> str:
    total = 0
    for number in range(entries):
        total += await ctx.do(post, Entry(number=number))
    how = await ctx.receive(closed)
    return f"{total} {how}"


app = App(
    sagas=[transfer, compensate, chain10, fanout, sleep, nap, recover, doze, approval, ledger],
    activities=[withdraw, deposit, refuse, plus, before, after, post],
)

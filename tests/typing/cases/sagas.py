"""What is inferred of activities, sagas, signals and handles."""

from typing import Any, assert_type

from pydantic import BaseModel

from amends import (
    Activity,
    App,
    Client,
    DidNotHappen,
    Handle,
    Happened,
    Retry,
    Saga,
    SagaContext,
    Signal,
    Undo,
    activity,
    saga,
)


class Withdraw(BaseModel):
    cents: int


class Receipt(BaseModel):
    number: int


@activity
async def withdraw(order: Withdraw) -> Receipt:
    return Receipt(number=order.cents)


@withdraw.undo
async def refund(order: Withdraw, receipt: Receipt | None) -> None: ...


@withdraw.probe
async def find(order: Withdraw) -> Happened[Receipt] | DidNotHappen:
    return DidNotHappen()


@activity(queue="ledger", retry=Retry(max_attempts=3), timeout=5)
def audit(order: Withdraw) -> int:
    return order.cents


@audit.undo(retry=Retry(max_attempts=9))
def forget(order: Withdraw, result: int | None) -> None: ...


@audit.probe
def audited(order: Withdraw) -> Happened[int] | DidNotHappen:
    return Happened(order.cents)


@activity
async def note(text: str) -> int:
    return len(text)


@note.probe(name="is_noted", queue="reads", retry=Retry(max_attempts=9), timeout=None)
async def noted(text: str) -> Happened[int] | DidNotHappen:
    return DidNotHappen()


@audit.probe  # error: arg-type
def answers_badly(order: Withdraw) -> int:
    return 1


@activity
async def ping() -> str:
    return "pong"


assert_type(withdraw, Activity[Withdraw, Receipt])
assert_type(audit, Activity[Withdraw, int])
assert_type(ping, Activity[None, str])
assert_type(refund, Undo)
assert_type(forget, Undo)
assert_type(audited, Activity[Withdraw, Any])
assert_type(noted, Activity[str, Any])

approved = Signal("approved", Receipt)
perhaps = Signal("perhaps", int | None)
assert_type(approved, Signal[Receipt])
assert_type(perhaps, Signal[Any])


@saga
async def transfer(ctx: SagaContext, order: Withdraw) -> Receipt:
    receipt = await ctx.do(withdraw, order)
    assert_type(receipt, Receipt)
    assert_type(await ctx.do(audit, order, pivot=True), int)
    assert_type(await ctx.do(ping), str)
    assert_type(await ctx.receive(approved), Receipt)
    await ctx.do(withdraw, 5)  # error: misc
    await ctx.do(withdraw)  # error: arg-type
    return receipt


@saga(deadline=60, compensate="in_parallel")
async def nightly(ctx: SagaContext) -> int:
    return 1


assert_type(transfer, Saga[Withdraw, Receipt])
assert_type(nightly, Saga[None, int])

app = App(sagas=[transfer, nightly], activities=[withdraw, audit, ping])


async def use(client: Client) -> None:
    handle = await client.start(transfer, Withdraw(cents=1), id="t-1")
    assert_type(handle, Handle[Receipt])
    assert_type(await handle.result(), Receipt)
    assert_type(await (await client.start(nightly)).result(), int)
    assert_type(client.handle(transfer, "t-1"), Handle[Receipt])
    await handle.signal(approved, Receipt(number=1))
    await client.start(transfer, 7)  # error: misc
    await handle.signal(approved, "no")  # error: misc

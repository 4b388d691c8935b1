"""An application whose schemas the tests look at: of each kind one, and what is hard to say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from amends import (
    Aggregate,
    App,
    DidNotHappen,
    EventRegistry,
    Happened,
    SagaContext,
    Signal,
    activity,
    aggregates,
    applies,
    event,
    saga,
)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Card(Frozen):
    kind: Literal["card"] = "card"
    number: str


class Transfer(Frozen):
    kind: Literal["transfer"] = "transfer"
    iban: str = Field(alias="IBAN")


class Order(Frozen):
    """What a customer wants."""

    amount: Decimal
    due: date | None = None
    payment: Annotated[Card | Transfer, Field(discriminator="kind")]
    size: tuple[int, str]


class Paid(Frozen):
    """Money arrived."""

    amount: Decimal


@event(name="goods.shipped", version=2)
class Shipped(Frozen):
    parcel: str


class Opened(Frozen):
    """Of a shop."""

    where: str


registry = EventRegistry((Opened, Shipped))
registry.upcast("goods.shipped", 1, lambda fields: fields)


class Shop(Aggregate):
    category = "shop"
    events = registry

    @applies(Opened, Shipped)
    def _nothing(self, event: Opened | Shipped) -> None: ...


class Till(Aggregate):
    class Opened(Frozen):
        """Of a till."""

        cents: int

    category = "till"
    events = (Opened,)

    @applies(Opened)
    def _nothing(self, event: Any) -> None: ...


class Confirmation(Frozen):
    by: str


confirmed = Signal("confirmed", Confirmation)


@activity(queue="bank")
async def pay(order: Order) -> str:
    return str(order.amount)


@pay.undo
async def give_back(order: Order, receipt: str | None) -> None: ...


@pay.probe
async def find(order: Order) -> Happened[str] | DidNotHappen:
    return DidNotHappen()


@activity(queue="shop")
async def ship(order: Order) -> None:
    await aggregates(Shop).execute("one", lambda shop: shop.record(Shipped(parcel="p")))


@saga
async def buy(ctx: SagaContext, order: Order) -> str:
    receipt = await ctx.do(pay, order)
    ctx.emit(Paid(amount=order.amount))
    await ctx.receive(confirmed)
    await ctx.do(ship, order)
    return receipt


app = App(sagas=[buy], activities=[pay, ship], events=[Till])


@saga
async def secretive(ctx: SagaContext, fact: Paid) -> None:
    ctx.emit(fact)


@saga
async def by_variable(ctx: SagaContext) -> None:
    fact = Paid.model_validate({"amount": "1"})
    ctx.emit(fact)


@activity
async def call(what: Callable[[], int]) -> None: ...

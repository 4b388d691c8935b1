"""A projection with everything in it, and histories for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table

from amends import Aggregate, applies
from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.events import SagaCompleted, SagaStarted, StepScheduled
from amends.domain.ids import ANY, StreamName
from amends.projections import Event, Moment, Projection, Rows, on
from amends.stores.port import Append, EventStore


class Deposited(BaseModel, frozen=True):
    amount: int


class Withdrawn(BaseModel, frozen=True):
    amount: int


class Account(Aggregate):
    category = "account"
    events = (Deposited, Withdrawn)

    @applies(Deposited, Withdrawn)
    def _moved(self, event: Deposited | Withdrawn) -> None: ...


accounts = Table(
    "accounts",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("balance", BigInteger, nullable=False),
    Column("moved", Moment, nullable=False),
)
moves = Table(
    "moves",
    MetaData(),
    Column("account", String, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("amount", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Index("moves_by_position", "position", unique=True),
)
totals = Table(
    "totals",
    MetaData(),
    Column("kind", String, primary_key=True),
    Column("events", BigInteger),
    Column("amount", BigInteger),
)


class Ledger(Projection):
    """Balances by reading, moves by inserting, totals by adding."""

    name = "ledger"
    version = 1
    tables = (accounts, moves, totals)
    streams = ("account-",)

    @on(Deposited, Withdrawn)
    def moved(self, event: Event[Deposited | Withdrawn], rows: Rows) -> None:
        data = event.data
        amount = data.amount if isinstance(data, Deposited) else -data.amount
        before = rows.get(accounts, id=event.stream_id) or {"balance": 0}
        rows.upsert(
            accounts, id=event.stream_id, balance=before["balance"] + amount, moved=event.at
        )
        rows.insert(
            moves,
            account=event.stream_id,
            n=event.version,
            amount=amount,
            position=event.position,
        )
        rows.add(totals, kind=event.type, events=1, amount=data.amount)


sagas = Table(
    "sagas",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("steps", Integer, nullable=False),
)


class Sagas(Projection):
    name = "sagas"
    tables = (sagas,)
    skips_unknown = True

    @on(SagaStarted)
    def started(self, event: Event[SagaStarted], rows: Rows) -> None:
        rows.insert(sagas, id=str(event.instance), state="running", steps=0)

    @on(StepScheduled)
    def scheduled(self, event: Event[StepScheduled], rows: Rows) -> None:
        rows.add(sagas, id=str(event.instance), steps=1)

    @on(SagaCompleted)
    def completed(self, event: Event[SagaCompleted], rows: Rows) -> None:
        rows.update(sagas, id=str(event.instance), state="completed")


def new_event(type: str, **data: Any) -> NewEvent:
    metadata = encode_metadata(correlation_id="c", causation_id="c")
    return NewEvent(uuid4(), type, to_json(data), metadata)


async def append(store: EventStore, stream: str, *events: NewEvent) -> None:
    await store.append(Append(StreamName(stream), events, ANY))


async def move(store: EventStore, account: str, *amounts: int) -> None:
    """Deposit what is positive, withdraw what is not."""
    events: Sequence[NewEvent] = [
        new_event("Deposited", amount=a) if a > 0 else new_event("Withdrawn", amount=-a)
        for a in amounts
    ]
    await append(store, f"account-{account}", *events)

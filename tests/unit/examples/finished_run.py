"""The store of a finished run, written without an engine, and ways to falsify a copy of it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from amends import Repository
from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.ids import NO_STREAM, InstanceId
from amends.stores.port import Append
from examples.payments.accounts import Account
from examples.payments.batch import open_accounts
from examples.payments.plan import Opening, Order, Plan
from examples.payments.transfer import app

PLAN = Plan(
    orders=(
        Order(key="paid", payer="A", payee="B", cents=500, currency="EUR"),
        Order(key="back", payer="A", payee="C", cents=300, currency="EUR"),
        Order(key="silent", payer="B", payee="A", cents=200, currency="EUR"),
        Order(key="poor", payer="B", payee="A", cents=90_000, currency="EUR"),
        Order(key="yen", payer="Y", payee="Z", cents=7, currency="JPY"),
    ),
    openings=(
        Opening(account="A", currency="EUR", cents=1000, limit_cents=100_000),
        Opening(account="B", currency="EUR", cents=100, limit_cents=100_000, poor=True),
        Opening(account="C", currency="EUR", cents=0, limit_cents=100_000, frozen=True),
        Opening(account="Y", currency="JPY", cents=10, limit_cents=100),
        Opening(account="Z", currency="JPY", cents=0, limit_cents=100),
    ),
)
ENDINGS = {
    "paid": "SagaCompleted",
    "back": "SagaCompensated",
    "silent": "SagaCompensated",
    "poor": "SagaFailed",
    "yen": "SagaCompleted",
}
BOOKINGS = (
    ("A", "withdraw", "paid", 500),
    ("B", "deposit", "paid", 500),
    ("A", "withdraw", "back", 300),
    ("A", "refund", "back", 300),
    ("Y", "withdraw", "yen", 7),
    ("Z", "deposit", "yen", 7),
)


async def write_run(db: Path) -> None:
    """What a run of PLAN leaves that went as it should."""
    async with app.client(db) as client:
        await open_accounts(client, PLAN)
        accounts = Repository(client.backend.store, Account)
        for name, what, payment, cents in BOOKINGS:

            def decide(
                account: Account, what: str = what, payment: str = payment, cents: int = cents
            ) -> None:
                if what == "refund":
                    account.refund(payment, cents)
                else:
                    getattr(account, what)(payment, cents, account.currency)

            await accounts.execute(name, decide)
        for order in PLAN.orders:
            journal = [
                _event("SagaStarted", input=_input_of(order)),
                _event(ENDINGS[order.key], error={"type": "Refused", "message": ""}),
            ]
            stream = InstanceId("transfer_money", order.key).stream
            await client.backend.store.append(Append(stream, journal, NO_STREAM))


def _input_of(order: Order) -> dict[str, Any]:
    return {"payment": order.key, **order.model_dump(exclude={"key"})}


def _event(type: str, **data: Any) -> NewEvent:
    metadata = encode_metadata(correlation_id="c", causation_id="c")
    return NewEvent(uuid4(), type, json.dumps(data).encode(), metadata)


class Forger:
    """Changes the events of a store behind everybody's back."""

    def __init__(self, db: Path) -> None:
        self._db = db

    def change(self, stream: str, type: str, **fields: Any) -> None:
        """Give fields of one event other values."""
        position, data = self._find(stream, type)
        changed = json.dumps({**json.loads(data), **fields}).encode()
        self._do("UPDATE events SET data = ? WHERE position = ?", changed, position)

    def retype(self, stream: str, type: str, other: str) -> None:
        """Make one event an event of another type."""
        self._do(
            "UPDATE events SET type = ? WHERE position = ?", other, self._find(stream, type)[0]
        )

    def garble(self, stream: str, type: str) -> None:
        """Leave of an event what no reader understands."""
        self._do("UPDATE events SET data = ? WHERE position = ?", b"{", self._find(stream, type)[0])

    def delete(self, stream: str, type: str) -> None:
        """Take one event out."""
        self._do("DELETE FROM events WHERE position = ?", self._find(stream, type)[0])

    def add(self, stream: str, type: str, **data: Any) -> None:
        """Put one event more at the end of a stream and of the log."""
        self._do(
            "INSERT INTO events (position, stream, version, id, type, data, metadata, recorded_at)"
            " SELECT (SELECT max(position) + 1 FROM events), s.id, max(e.version) + 1, ?, ?, ?,"
            " '{}', 0 FROM streams s JOIN events e ON e.stream = s.id WHERE s.name = ?",
            *(uuid4().bytes, type, json.dumps(data).encode(), stream),
        )

    def _find(self, stream: str, type: str) -> tuple[int, bytes]:
        with closing(sqlite3.connect(self._db)) as file:
            found = file.execute(
                "SELECT position, data FROM events JOIN streams ON streams.id = events.stream"
                " WHERE name = ? AND type = ?",
                (stream, type),
            ).fetchall()
        assert len(found) == 1, f"{stream} has {len(found)} events {type}"
        position, data = found[0]
        return int(position), bytes(data)

    def _do(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self._db, isolation_level=None)) as file:
            assert file.execute(statement, values).rowcount == 1

"""What is written comes back as it was, whatever its type, in either database."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    select,
)

from amends.projections import Event, Moment, Projection, Rows, on
from amends.projections.build import build
from amends.projections.database import Database
from amends.projections.rebuild import Rebuild
from amends.stores.memory import MemoryStore
from amends.testing.clock import VirtualClock
from tests.integration.projections.sample import Deposited, move

pytestmark = pytest.mark.virtual_time

things = Table(
    "things",
    MetaData(),
    Column("order", BigInteger, primary_key=True),  # a word of SQL's own
    Column("small", Integer),
    Column("big", BigInteger),
    Column("yes", Boolean),
    Column("text", Text),
    Column("name", String(20)),
    Column("bytes", LargeBinary),
    Column("float", Float),
    Column("day", Date),
    Column("at", Moment),
    Column("json", JSON),
)
VALUES: dict[str, Any] = {
    "small": -5,
    "big": 2**62,
    "yes": True,
    "text": "ü 🦆 '; %s :x \\ \n",
    "name": "",
    "bytes": bytes(range(256)),
    "float": 0.1,
    "day": date(2026, 2, 28),
    "at": datetime(2026, 3, 1, 12, 0, 0, 1, timezone(timedelta(hours=5))),
    "json": {"a": [1, None, "ü"]},
}
NULLS = dict.fromkeys(VALUES)


class Things(Projection):
    name = "things"
    tables = (things,)
    skips_unknown = True

    @on(Deposited)
    def deposited(self, event: Event[Deposited], rows: Rows) -> None:
        number = event.position
        rows.insert(things, order=number, **VALUES)
        rows.upsert(things, order=number + 100, **VALUES)
        rows.insert(things, order=number + 200)
        rows.update(things, order=number + 200, **VALUES)
        assert rows.get(things, order=number) == {"order": number, **VALUES}
        assert len(rows.find(things, small=-5)) == 3 * (number + 1)
        rows.upsert(things, order=number + 100, **NULLS)
        rows.delete(things, order=number + 200)


async def test_values_come_back(database: Database, clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    await move(store, "a", 1)
    await build(Things(), store, database, clock=clock)
    rows = await database.query(select(things).order_by(things.c.order))
    assert rows == [{"order": 0, **VALUES}, {"order": 100, **NULLS | {"json": None}}]
    assert rows[0]["at"].tzinfo is UTC
    rebuilt = await Rebuild(Things(), store, database, clock).run()
    assert (rebuilt.swapped, rebuilt.differences) == (True, 0)


async def test_moments_compare_in_the_database(database: Database, clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    await move(store, "a", 1)
    await build(Things(), store, database, clock=clock)
    moment = VALUES["at"]
    for before, found in ((moment, 0), (moment + timedelta(microseconds=1), 1)):
        assert len(await database.query(select(things).where(things.c.at < before))) == found

"""Reading the tables of the audit trail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Table, func, select

from amends.projections.audit import tables
from amends.projections.audit.chain import Content, moment_text
from amends.projections.audit.checkpoints import Checkpoint
from amends.projections.database import Database
from amends.projections.records import Target, projections

#: Rows in memory at a time.
PAGE: Final = 1000


class Row(NamedTuple):
    """A record, as it is in the database."""

    n: int
    content: Content
    content_hash: bytes
    hash: bytes
    at: datetime


def row_of(row: dict[str, Any]) -> Row:
    """A record from the database."""
    content = Content(
        row["position"], row["stream"], row["version"], row["id"], row["type"],
        moment_text(row["at"]), row["data"], row["metadata"],
    )  # fmt: skip
    return Row(row["n"], content, row["content"], row["hash"], row["at"])


def checkpoint_of(row: dict[str, Any]) -> Checkpoint:
    """A checkpoint from the database. Raises TypeError if somebody put text for its bytes there."""
    return Checkpoint(
        row["n"], row["position"], bytes(row["hash"]), moment_text(row["at"]), row["key"],
        bytes(row["signature"]),
    )  # fmt: skip


class Head(NamedTuple):
    """The last record."""

    n: int
    position: int
    hash: bytes
    at: datetime


async def head_of(database: Database) -> Head | None:
    """The last record of the chain; None while there is none."""
    c = tables.head.c
    found = await database.query(select(c.n, c.position, c.hash, c.at))
    if not found:
        return None
    last = found[0]
    return Head(int(last["n"]), int(last["position"]), last["hash"], last["at"])


async def pages(
    database: Database, table: Table, upto: int, *, after: int = 0
) -> AsyncIterator[dict[str, Any]]:
    """The rows of records, or of checkpoints, behind record `after` and up to a position."""
    c = table.c
    wanted = select(table).where(c.position <= upto).order_by(c.n).limit(PAGE)
    while page := await database.query(wanted.where(c.n > after)):
        for row in page:
            yield row
        after = page[-1]["n"]


async def all_checkpoints(database: Database, *, after: int = 0) -> list[Checkpoint]:
    """The checkpoints behind record `after`."""
    head = await head_of(database)
    if head is None:
        return []
    found = pages(database, tables.checkpoints, head.position, after=after)
    return [checkpoint_of(row) async for row in found]


async def beyond_position(database: Database, name: str) -> int | None:
    """A record, or checkpoint, beyond the position that the projection is at; there can be none."""
    at = (
        select(projections.c.position)
        .where(projections.c.name == name, projections.c.target == Target.LIVE.value)
        .scalar_subquery()
    )
    for table in (tables.checkpoints, tables.records):
        # In one statement, because a runner may move both at any time.
        wanted = select(func.max(table.c.n).label("n")).where(table.c.position > at)
        (found,) = [row["n"] for row in await database.query(wanted)]
        if found is not None:
            return int(found)
    return None

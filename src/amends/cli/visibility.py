"""What the projection *sagas* knows of all instances, where it runs; else the log has to be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from amends.cli.output import note
from amends.cli.render import span
from amends.client import Client
from amends.domain.ids import Position
from amends.errors import ProjectionUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from amends.projections.records import Record

T = TypeVar("T")

NAME: Final = "sagas"
#: How long to wait for a runner that is a little behind, and how often to look.
WAIT_S: Final = 1.0
LOOK_S: Final = 0.02


class _Unusable(NamedTuple):
    """Why the projection cannot tell; empty if there is none."""

    why: str = ""


async def ask(client: Client, work: Callable[[Connection], T]) -> T | None:
    """What `work` finds in the tables of the projection. None if the log has to be read instead:
    there is no projection, or it is behind and nobody runs it, which is told on stderr.
    """
    if not client.projections.are_there:
        return None
    end = await client.backend.store.end()
    try:
        found = await client.projections.database.look(lambda c: _look(c, client, end, work))
        for _ in range(round(WAIT_S / LOOK_S)):
            if isinstance(found, _Unusable) or found[0].position >= end:
                break
            await asyncio.sleep(LOOK_S)
            found = await client.projections.database.look(lambda c: _look(c, client, end, work))
    except ProjectionUnavailable as error:
        found = _Unusable(str(error))
    if isinstance(found, _Unusable):
        if found.why:
            note(f"{found.why}; so the log is read, which takes longer")
        return None
    record, result = found
    if record.position < end:
        note(f"as of {_ago(record, client.backend.clock.now())}: {NAME!r} is behind the log")
    return result


def _look(
    connection: Connection, client: Client, end: Position, work: Callable[[Connection], T]
) -> tuple[Record, T] | _Unusable:
    """What is found, and how far the projection is, in one transaction."""
    from amends.projections import records  # noqa: PLC0415 - with what it needs
    from amends.projections.builtin.sagas import Sagas  # noqa: PLC0415

    record = records.load(connection, NAME)
    if record is None:
        return _Unusable()
    if record.version != Sagas.version or not {"sagas", "saga_fields"} <= {*record.tables}:
        return _Unusable(
            f"the projection {NAME!r} is of version {record.version}, and this is "
            f"{Sagas.version}: amends projections rebuild {NAME}"
        )
    if record.position < end:
        if record.fault is not None:
            return _Unusable(f"the projection {NAME!r} has stopped: amends projections")
        if record.leased_until is None or record.leased_until < client.backend.clock.now():
            return _Unusable(f"the projection {NAME!r} is behind the log, and nobody runs it")
    return record, work(connection)


def _ago(record: Record, now: datetime) -> str:
    return "the beginning" if record.at is None else f"{span(now - record.at)} ago"

"""What people decide about a projection that stopped: to let it try again, or to pass over the event.

Both go on record with who decided and why.
"""

from __future__ import annotations

from sqlalchemy import Connection

from amends.domain.clock import Clock
from amends.domain.ids import Position
from amends.errors import NotRegistered, ProjectionError
from amends.projections import records
from amends.projections.database import Database
from amends.projections.records import Fault, Record


async def resume(database: Database, clock: Clock, name: str, *, who: str, why: str) -> Fault:
    """Let a stopped projection try its event again; returns what it had stopped at.

    Raises NotRegistered (no such projection), ProjectionError (it did not stop).
    """
    return await _go_on(database, clock, name, "resume", who, why)


async def skip(database: Database, clock: Clock, name: str, *, who: str, why: str) -> Fault:
    """Let a stopped projection go on behind its event, which then is in none of its rows; returns
    what it had stopped at. A rebuild of the same version passes over the event, too.

    Raises NotRegistered (no such projection), ProjectionError (it did not stop).
    """
    return await _go_on(database, clock, name, "skip", who, why)


async def _go_on(
    database: Database, clock: Clock, name: str, action: str, who: str, why: str
) -> Fault:
    def go_on(connection: Connection) -> Fault:
        record = _stopped(connection, name)
        fault = record.fault
        assert fault is not None
        position = Position(fault.position) if action == "skip" else record.position
        if not records.go_on(connection, record, position=position):
            raise ProjectionError(f"somebody else has decided about {name!r} just now; look again")
        records.note(
            connection, record, action, now=clock.now(), position=fault.position,
            who=who, why=why, detail=fault._asdict(),
        )  # fmt: skip
        return fault

    return await database.run(go_on)


def _stopped(connection: Connection, name: str) -> Record:
    record = records.load(connection, name, lock=True)
    if record is None:
        known = sorted({record.name for record in records.load_all(connection)})
        raise NotRegistered(
            f"there is no projection {name!r} in this database; it has {', '.join(known) or 'none'}"
        )
    if record.fault is None:
        raise ProjectionError(f"projection {name!r} did not stop; nothing was changed")
    return record

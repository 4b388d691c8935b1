"""What people decide about a projection: to let one that stopped try again or pass over its event, and
to drop one that is no longer needed.

It goes on record with who decided and why.
"""

from __future__ import annotations

from sqlalchemy import Connection

from amends.domain.clock import Clock
from amends.domain.ids import Position
from amends.errors import NotRegistered, ProjectionError
from amends.projections import records
from amends.projections.database import Database
from amends.projections.records import Fault, Record, Target


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


async def drop(database: Database, clock: Clock, name: str, *, who: str, why: str) -> Record:
    """Drop the tables of a projection that nobody runs any more, and what is on record of it, but
    for its history. If it runs again, it is built from the first event on. Returns what it was.

    Raises NotRegistered (no such projection), ProjectionError (somebody runs or rebuilds it).
    """

    def drop(connection: Connection) -> Record:
        live = _known(connection, name)
        shadow = records.load(connection, name, Target.SHADOW)
        for record in (live, shadow):
            if record is None:
                continue
            if record.owner and record.leased_until and record.leased_until > clock.now():
                raise ProjectionError(
                    f"projection {name!r} is run by {record.owner}; nothing was changed. Stop it, or "
                    "take the projection out of the application"
                )
            records.drop_tables(connection, record)
        records.note(
            connection, live, "drop", now=clock.now(), position=live.position, who=who, why=why
        )
        return live

    return await database.run(drop)


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


def _known(connection: Connection, name: str) -> Record:
    record = records.load(connection, name, lock=True)
    if record is None:
        known = sorted({record.name for record in records.load_all(connection)})
        raise NotRegistered(
            f"there is no projection {name!r} in this database; it has {', '.join(known) or 'none'}"
        )
    return record


def _stopped(connection: Connection, name: str) -> Record:
    record = _known(connection, name)
    if record.fault is None:
        raise ProjectionError(f"projection {name!r} did not stop; nothing was changed")
    return record

"""What is kept about projections beside their tables: checkpoint, lease, faults, and what was done.

The functions run in the database's thread, in a transaction. A projection has a record for its live
tables, and one for those that are being built beside them, if there are any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    and_,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from amends.domain.ids import START, Position
from amends.errors import LeaseLost
from amends.projections.moment import Moment

metadata: Final = MetaData()

projections: Final = Table(
    "amends_projections",
    metadata,
    Column("name", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("shape", Text, nullable=False),
    Column("build", Integer, nullable=False),
    Column("tables", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("at", Moment),
    Column("updated", Moment, nullable=False),
    Column("state", String, nullable=False),
    Column("fault", Text),
    Column("owner", String),
    Column("token", BigInteger, nullable=False),
    Column("leased_until", Moment),
)
history: Final = Table(
    "amends_projection_history",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("at", Moment, nullable=False),
    Column("action", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("who", String),
    Column("why", Text),
    Column("detail", Text),
)


#: Of an advisory lock in PostgreSQL; any number that others do not use.
_SCHEMA_LOCK: Final = 0x616D656E6473


def lock_schema(connection: Connection) -> None:
    """Let nobody else make tables until the transaction ends."""
    if connection.dialect.name == "postgresql":  # in SQLite one writes at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))


class Target(StrEnum):
    """Which of its tables a record is about."""

    LIVE = "live"
    SHADOW = "shadow"


class RunState(StrEnum):
    """Whether a projection goes on."""

    RUNNING = "running"
    STOPPED = "stopped"


class Fault(NamedTuple):
    """The event at which a projection stopped, and why."""

    position: int
    stream: str
    version: int
    type: str
    error: str
    traceback: str
    at: str


class Record(NamedTuple):
    """What is on record of a projection."""

    name: str
    target: Target
    version: int
    shape: str
    build: int
    tables: tuple[str, ...]
    position: Position
    events: int
    at: datetime | None
    updated: datetime
    state: RunState
    fault: Fault | None
    owner: str | None
    token: int
    leased_until: datetime | None

    @property
    def is_stopped(self) -> bool:
        """Whether it waits for a person."""
        return self.state is RunState.STOPPED

    def other_version_text(self, version: int) -> str:
        """What to do about it where the code has another version."""
        if self.version > version:
            return (
                f"version {self.version} is in the database, and this code has {version}: deploy "
                "the newer code, which runs it"
            )
        return (
            f"version {self.version} is in the database, and the code has {version}: "
            f"amends projections rebuild {self.name}"
        )

    @property
    def stopped_text(self) -> str:
        """What to tell of a projection that has a fault."""
        fault = self.fault
        assert fault is not None
        return (
            f"projection {self.name!r} stopped at position {fault.position} ({fault.type} in "
            f"{fault.stream}): {fault.error}. All before it is in its tables, nothing after. "
            f"Correct its code, then: amends projections resume {self.name}; or pass over the "
            f"event: amends projections skip {self.name}"
        )


def _record(row: RowMapping) -> Record:
    values = dict(row)
    values["target"] = Target(row["target"])
    values["state"] = RunState(row["state"])
    values["position"] = Position(row["position"])
    values["tables"] = tuple(json.loads(row["tables"]))
    values["fault"] = None if row["fault"] is None else Fault(**json.loads(row["fault"]))
    return Record(**values)


def _is(name: str, target: Target) -> Any:
    return and_(projections.c.name == name, projections.c.target == target.value)


def load(
    connection: Connection, name: str, target: Target = Target.LIVE, *, lock: bool = False
) -> Record | None:
    """The record of a projection, if there is one; `lock` keeps others from changing it."""
    wanted = select(projections).where(_is(name, target))
    row = connection.execute(wanted.with_for_update() if lock else wanted).mappings().first()
    return None if row is None else _record(row)


def load_all(connection: Connection) -> list[Record]:
    """The records of all, by name."""
    wanted = select(projections).order_by(projections.c.name, projections.c.target)
    return [_record(row) for row in connection.execute(wanted).mappings()]


def create(connection: Connection, record: Record) -> None:
    """Put a new projection on record."""
    connection.execute(insert(projections).values(**_values(record)))


def _values(record: Record) -> dict[str, Any]:
    return {
        **record._asdict(),
        "target": record.target.value,
        "state": record.state.value,
        "tables": json.dumps(record.tables),
        "fault": None if record.fault is None else json.dumps(record.fault._asdict()),
    }


def fresh(name: str, target: Target, *, version: int, shape: str, build: int,
          tables: tuple[str, ...], now: datetime) -> Record:  # fmt: skip
    """The record of a projection to which nothing has happened yet."""
    return Record(
        name, target, version, shape, build, tables, START, 0, None, now, RunState.RUNNING, None,
        None, 0, None,
    )  # fmt: skip


def replace(
    connection: Connection, shadow: Record, token: int, *, tables: tuple[str, ...], now: datetime
) -> None:
    """Make the shadow's record that of the live tables, whose lease is ours. Raises LeaseLost."""
    values = _values(shadow._replace(tables=tables, state=RunState.RUNNING, fault=None))
    for own in ("name", "target", "token", "owner", "leased_until"):
        del values[own]
    _change(connection, shadow.name, Target.LIVE, token, **(values | {"updated": now}))
    delete(connection, shadow)


def delete(connection: Connection, record: Record) -> None:
    """Take a record away."""
    connection.execute(projections.delete().where(_is(record.name, record.target)))


def drop_tables(connection: Connection, record: Record) -> None:
    """Drop the tables that a record is about, and the record."""
    quote = connection.dialect.identifier_preparer.quote
    for table in record.tables:
        connection.execute(text(f"DROP TABLE IF EXISTS {quote(table)}"))
    delete(connection, record)


# --- the lease


def take_lease(
    connection: Connection, name: str, target: Target, *,
    owner: str, now: datetime, lease_s: float, by_force: bool = False,
) -> int | None:  # fmt: skip
    """Become the one runner of a projection: its token, or None while another has it.

    A token is good until somebody else gets a higher one, however late its owner notices.
    """
    c = projections.c
    free = or_(c.owner.is_(None), c.leased_until <= now)
    taken = connection.execute(
        update(projections)
        .where(_is(name, target), *(() if by_force else (free,)))
        .values(token=c.token + 1, owner=owner, leased_until=now + timedelta(seconds=lease_s))
    )
    if not taken.rowcount:
        return None
    token: int = connection.execute(select(c.token).where(_is(name, target))).scalar_one()
    return token


def _change(connection: Connection, name: str, target: Target, token: int, **values: Any) -> None:
    """Change a record whose lease is ours. It is then locked until the transaction ends.

    Raises LeaseLost.
    """
    changed = connection.execute(
        update(projections).where(_is(name, target), projections.c.token == token).values(**values)
    )
    if not changed.rowcount:
        raise LeaseLost(f"another runner has projection {name!r}; nothing was written")


def renew_lease(
    connection: Connection, name: str, target: Target, token: int, *,
    now: datetime, lease_s: float,
) -> None:  # fmt: skip
    """Keep the lease. Raises LeaseLost."""
    until = now + timedelta(seconds=lease_s)
    _change(connection, name, target, token, leased_until=until)


def release_lease(connection: Connection, name: str, target: Target, token: int) -> None:
    """Let others run it at once. Raises LeaseLost."""
    _change(connection, name, target, token, owner=None, leased_until=None)


def advance(
    connection: Connection, name: str, target: Target, token: int, *,
    position: Position, events: int, at: datetime | None, now: datetime, lease_s: float,
) -> None:  # fmt: skip
    """Move the checkpoint, by so many events. Raises LeaseLost.

    To be called before the rows are written: whoever has lost his lease then writes none.
    """
    values: dict[str, Any] = {} if at is None else {"at": at}
    _change(
        connection, name, target, token,
        position=position, events=projections.c.events + events, updated=now,
        leased_until=now + timedelta(seconds=lease_s), **values,
    )  # fmt: skip


# --- faults, and what people do about them


def stop(connection: Connection, name: str, target: Target, token: int, fault: Fault) -> None:
    """Put on record at which event the projection stopped. Raises LeaseLost."""
    _change(
        connection, name, target, token,
        state=RunState.STOPPED.value, fault=json.dumps(fault._asdict()),
    )  # fmt: skip


def go_on(connection: Connection, record: Record, *, position: Position) -> bool:
    """Let a stopped projection go on from a position; whether it was still stopped there."""
    changed = connection.execute(
        update(projections)
        .where(
            _is(record.name, record.target),
            projections.c.state == RunState.STOPPED.value,
            projections.c.position == record.position,
        )
        .values(state=RunState.RUNNING.value, fault=None, position=position)
    )
    return bool(changed.rowcount)


def note(
    connection: Connection, record: Record, action: str, *, now: datetime, position: int,
    who: str | None = None, why: str | None = None, detail: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Put on record what was done to a projection."""
    connection.execute(
        insert(history).values(
            name=record.name,
            at=now,
            action=action,
            version=record.version,
            position=position,
            who=who,
            why=why,
            detail=None if detail is None else json.dumps(detail),
        )
    )


def load_history(connection: Connection) -> list[dict[str, Any]]:
    """What was done to all of them, oldest first."""
    done = connection.execute(select(history).order_by(history.c.n))
    return [dict(row) for row in done.mappings()]


def skipped(connection: Connection, name: str, version: int) -> frozenset[int]:
    """The positions of the events that were skipped in this version."""
    c = history.c
    wanted = select(c.position).where(c.name == name, c.version == version, c.action == "skip")
    return frozenset(connection.execute(wanted).scalars())

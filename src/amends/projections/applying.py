"""Applying events to one set of a projection's tables: rows and checkpoint in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, inspect

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import JOURNAL_PREFIX, Position
from amends.errors import ProjectionMismatch, UnknownEventType
from amends.projections import records
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.projections.event import Event
from amends.projections.records import Record, Target
from amends.projections.rows import Rows
from amends.projections.tables import physical, shape

Method = Callable[[Event[Any], Rows], None]


class Applier:
    """Applies events to the tables that a record is about. Its methods run in a transaction."""

    def __init__(self, projection: Projection, record: Record, database: Database) -> None:
        self.projection = projection
        self.record = record
        self.tables = tables_of(projection, record)
        self._statements = database.statements
        handlers = projection.handlers
        self._journals = _methods(projection, handlers.journals)
        self._others = _methods(projection, handlers.others)
        self._every = None if handlers.every is None else getattr(projection, handlers.every)

    def apply(
        self, connection: Connection, token: int, events: Sequence[RecordedEvent], end: Position, *,
        now: datetime, lease_s: float, skipping: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        """Apply events, and move the checkpoint to `end`. All or nothing.

        Raises LeaseLost, and what handlers and the database raise.
        """
        # First: whoever has lost the lease must not even try to write the rows.
        records.advance(
            connection, self.record.name, self.record.target, token,
            position=end, events=len(events), at=events[-1].recorded_at if events else None,
            now=now, lease_s=lease_s,
        )  # fmt: skip
        rows = Rows(connection, self.tables, self._statements)
        for record in events:
            if record.position not in skipping:
                self._handle(record, rows)
        rows.flush()

    def _handle(self, record: RecordedEvent, rows: Rows) -> None:
        is_journal = record.stream.startswith(JOURNAL_PREFIX)
        method = (self._journals if is_journal else self._others).get(record.type, self._every)
        if method is not None:
            method(Event(record, self.projection.decode), rows)
        elif not self.projection.skips_unknown:
            raise UnknownEventType(
                f"projection {self.projection.name!r} has no handler for this event, and does not "
                "say skips_unknown: nothing was skipped. Give it a handler, narrow its `streams`, "
                "or set skips_unknown = True",
                stream=record.stream,
                position=record.position,
                type=record.type,
            )


def _methods(projection: Projection, names: Any) -> dict[str, Method]:
    return {type: getattr(projection, name) for type, name in names.items()}


def tables_of(projection: Projection, record: Record) -> Any:
    """The tables in the database that a record is about."""
    return physical(projection.table_list, record.build, shadow=record.target is Target.SHADOW)


def prepare(
    connection: Connection, projection: Projection, database: Database, now: datetime
) -> Record:
    """The record of a projection, whose tables are made if this is the first time.

    The record may be of another version; the tables then are, too. Raises ProjectionMismatch when
    the version is the same and the tables are not, or when there are tables of these names that
    belong to somebody else.
    """
    record = records.load(connection, projection.name)
    if record is None:
        records.lock_schema(connection)
        record = records.load(connection, projection.name)  # somebody may have been faster
    if record is None:
        return _create(connection, projection, database, now)
    if record.version == projection.version:
        _check(connection, projection, record, database)
    return record


def _create(
    connection: Connection, projection: Projection, database: Database, now: datetime
) -> Record:
    record = new_record(projection, Target.LIVE, database, build=0, now=now)
    check_free(connection, projection, record.tables)
    for table in tables_of(projection, record).values():
        table.create(connection)
    records.create(connection, record)
    records.note(connection, record, "create", now=now, position=record.position)
    return record


def new_record(
    projection: Projection, target: Target, database: Database, *, build: int, now: datetime
) -> Record:
    """The record of tables that are still to be made."""
    tables = physical(projection.table_list, build, shadow=target is Target.SHADOW)
    return records.fresh(
        projection.name,
        target,
        version=projection.version,
        shape=shape(projection.table_list, database.dialect),
        build=build,
        tables=tuple(table.name for table in tables.values()),
        now=now,
    )


def check_free(connection: Connection, projection: Projection, names: Sequence[str]) -> None:
    """Raise ProjectionMismatch if a table of one of these names exists."""
    if taken := sorted(set(names) & _existing(connection)):
        raise ProjectionMismatch(
            f"projection {projection.name!r} is new here, and the database has a table "
            f"{', '.join(map(repr, taken))} already, which is not its own. Nothing was changed. Give "
            "the projection's table another name, or name another database: AMENDS_PROJECTIONS"
        )


def _existing(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _check(
    connection: Connection, projection: Projection, record: Record, database: Database
) -> None:
    wanted = shape(projection.table_list, database.dialect)
    advice = (
        f"Nothing was changed. Raise its version to {projection.version + 1}, and rebuild it: "
        f"amends projections rebuild {projection.name}"
    )
    if wanted != record.shape:
        raise ProjectionMismatch(
            f"the tables of projection {projection.name!r} in the database are not those of the "
            f"code, and both are version {record.version}: {_difference(record.shape, wanted)}. "
            + advice
        )
    if missing := sorted(set(record.tables) - _existing(connection)):
        raise ProjectionMismatch(
            f"projection {projection.name!r} has lost its table {', '.join(map(repr, missing))}: "
            f"somebody has dropped it. {advice}"
        )
    look = inspect(connection)
    for table in tables_of(projection, record).values():
        have = {column["name"] for column in look.get_columns(table.name)}
        want = {column.name for column in table.columns}
        if have != want:
            raise ProjectionMismatch(
                f"somebody has changed table {table.name!r} of projection {projection.name!r}: "
                f"it has the columns {', '.join(sorted(have))}. {advice}"
            )


def _difference(have: str, want: str) -> str:
    """The first thing that differs, for people."""
    for one, other in zip(have.splitlines(), want.splitlines(), strict=False):
        if one != other:
            return f"there: {one!r}, here: {other!r}"
    return "another number of tables or indexes"

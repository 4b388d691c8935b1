"""Building a projection anew beside the live one, comparing the two, and swapping them.

The live tables are kept up to date meanwhile, and can be read throughout. Only for the comparison is
the projection held where it is, by taking its lease. The swap is one transaction.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Table, text

from amends.domain.clock import Clock
from amends.domain.ids import Position
from amends.errors import NotRegistered, ProjectionError, ProjectionUnavailable
from amends.projections import records
from amends.projections.applying import Applier, check_free, new_record, prepare, tables_of
from amends.projections.build import Progress, advance, patiently
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.projections.diff import TableDiff, compare
from amends.projections.lease import Lease
from amends.projections.records import Record, Target
from amends.projections.tables import physical
from amends.stores.port import EventStore

T = TypeVar("T")

#: While it is held still, and between two steps of the building.
LEASE_S: Final = 60.0
#: How often the shadow follows the live tables before these are held.
CATCH_UPS: Final = 10


class Rebuilt(NamedTuple):
    """What came of a rebuild. If it was not `swapped`, all is as it was before."""

    swapped: bool
    reason: str
    """Why it was not swapped."""
    version: int
    position: Position
    events: int
    diff: tuple[TableDiff, ...]

    @property
    def differences(self) -> int:
        """How many rows are different."""
        return sum(table.size for table in self.diff)


class Rebuild:
    """One rebuild. Use `run`."""

    def __init__(
        self,
        projection: Projection,
        store: EventStore,
        database: Database,
        clock: Clock,
        *,
        who: str | None = None,
        why: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._projection = projection
        self._store = store
        self._database = database
        self._clock = clock
        self._who = who
        self._why = why
        self._progress = progress
        self._owner = f"rebuild {socket.gethostname()}:{os.getpid()}"

    async def run(self, *, allow: int | None = 0, dry_run: bool = False) -> Rebuilt:
        """Build, compare and swap; or do not swap if more than `allow` rows are different (None:
        however many), or on a dry run.

        Where the version is another one than before, rows are different by intention: `allow` then
        counts only if it is not 0.

        Raises NotRegistered (it never ran here: there is nothing to rebuild), ProjectionError
        (somebody else rebuilds it), ProjectionStopped (an event that cannot be applied),
        ProjectionMismatch, LeaseLost, and what store and database raise. Then all is as it was.
        """
        live, shadow, token = await self._database.run(self._begin)
        building = self._lease(Target.SHADOW, token)
        try:
            return await self._run(live, shadow, building, allow, dry_run)
        finally:
            await self._clean_up(token)

    async def _run(
        self, live: Record, shadow: Record, building: Lease, allow: int | None, dry_run: bool
    ) -> Rebuilt:
        applier = Applier(self._projection, shadow, self._database)
        same = live.version == shadow.version
        skipping = await self._skipped() if same else frozenset[int]()
        for _ in range(CATCH_UPS):  # so that little is left to do while the live one is held
            shadow, live = await self._renewed(building), await self._live()
            until = live.position if same else await self._store.end()
            if shadow.position >= until:
                break
            await advance(
                applier, building, self._store,
                until=until, skipping=skipping, progress=self._progress,
            )  # fmt: skip
        token = await patiently(self._clock, lambda: self._database.run(self._hold))
        holding = self._lease(Target.LIVE, token)
        try:
            live = await self._renewed(holding)
            if same:
                # What it has taken in meanwhile, to the very same event.
                await advance(
                    applier, building, self._store, until=live.position, skipping=skipping
                )
            diff = await self._compare(live, shadow, building, holding)
            found = sum(table.size for table in diff)
            reason = _reason(found, allow if same or allow else None, dry_run)
            if not reason:
                await self._swap(live, building, holding, diff)
            final = await self._renewed(building) if reason else await self._live()
            return Rebuilt(
                not reason, reason, shadow.version, final.position, final.events, tuple(diff)
            )
        finally:
            await holding.release()

    async def _look(self, work: Callable[[Connection], T]) -> T:
        return await patiently(self._clock, lambda: self._database.look(work))

    async def _renewed(self, lease: Lease) -> Record:
        return await patiently(self._clock, lease.renewed)

    def _lease(self, target: Target, token: int) -> Lease:
        return Lease(self._database, self._clock, self._projection.name, target, token, LEASE_S)

    def _begin(self, connection: Connection) -> tuple[Record, Record, int]:
        projection, now = self._projection, self._clock.now()
        live = records.load(connection, projection.name, lock=True)
        if live is None:
            raise NotRegistered(
                f"projection {projection.name!r} never ran here, so there is nothing to rebuild. "
                "Nothing was changed. An engine builds it: amends dev, amends projector"
            )
        live = prepare(connection, projection, self._database, now)
        before = records.load(connection, projection.name, Target.SHADOW)
        if before is not None:
            if before.owner is not None and before.leased_until and before.leased_until > now:
                raise ProjectionError(
                    f"projection {projection.name!r} is being rebuilt ({before.owner}); nothing was "
                    "changed. Wait for its end; if it died, for a minute"
                )
            records.drop_tables(connection, before)
        build = max(live.build, before.build if before else 0) + 1
        shadow = new_record(projection, Target.SHADOW, self._database, build=build, now=now)
        check_free(connection, projection, shadow.tables)
        new_names = {table.name for table in projection.table_list} - set(live.tables)
        check_free(connection, projection, sorted(new_names))
        for table in tables_of(projection, shadow).values():
            table.create(connection)
        records.create(connection, shadow)
        token = records.take_lease(
            connection, projection.name, Target.SHADOW,
            owner=self._owner, now=now, lease_s=LEASE_S,
        )  # fmt: skip
        assert token is not None  # it is new
        return live, shadow, token

    async def _skipped(self) -> frozenset[int]:
        name, version = self._projection.name, self._projection.version
        return await self._look(lambda c: records.skipped(c, name, version))

    async def _live(self) -> Record:
        record = await self._look(lambda c: records.load(c, self._projection.name))
        assert record is not None
        return record

    def _hold(self, connection: Connection) -> int:
        token = records.take_lease(
            connection, self._projection.name, Target.LIVE,
            owner=self._owner, now=self._clock.now(), lease_s=LEASE_S, by_force=True,
        )  # fmt: skip
        assert token is not None  # by force
        return token

    async def _compare(
        self, live: Record, shadow: Record, building: Lease, holding: Lease
    ) -> list[TableDiff]:
        after = tables_of(self._projection, shadow)
        before = physical(self._projection.table_list, live.build, shadow=False)
        # Of another version it is not known what columns there are, unless the tables are the same.
        comparable = live.shape == shadow.shape
        found = []
        for table in self._projection.table_list:
            old = before[table] if comparable else None
            comparison = _comparison(table.name, old, after[table])
            found.append(await self._look(comparison))
            await self._renewed(building)
            await self._renewed(holding)
        return found

    async def _swap(
        self, live: Record, building: Lease, holding: Lease, diff: Sequence[TableDiff]
    ) -> None:
        detail = {
            table.table: {
                "rows": table.rows, "added": table.added, "missing": table.missing,
                "changed": table.changed,
            }
            for table in diff
        }  # fmt: skip

        def swap(connection: Connection) -> None:
            now, name = self._clock.now(), self._projection.name
            records.renew_lease(
                connection, name, Target.SHADOW, building.token, now=now, lease_s=LEASE_S
            )
            shadow = records.load(connection, name, Target.SHADOW)
            assert shadow is not None  # its lease was renewed
            quote = connection.dialect.identifier_preparer.quote
            for table in live.tables:
                connection.execute(text(f"DROP TABLE {quote(table)}"))
            names = [table.name for table in self._projection.table_list]
            for made, wanted in zip(shadow.tables, names, strict=True):
                connection.execute(text(f"ALTER TABLE {quote(made)} RENAME TO {quote(wanted)}"))
            records.replace(connection, shadow, holding.token, tables=tuple(names), now=now)
            records.note(
                connection, shadow, "rebuild", now=now, position=shadow.position,
                who=self._who, why=self._why, detail=detail,
            )  # fmt: skip

        async def attempt() -> None:
            await building.renewed()
            await holding.renewed()
            await self._database.run(swap)

        await patiently(self._clock, attempt)  # who reads the live tables holds it up

    async def _clean_up(self, token: int) -> None:
        """Drop what was built, unless it is the live one now, or somebody else's."""

        def drop(connection: Connection) -> None:
            record = records.load(connection, self._projection.name, Target.SHADOW)
            if record is not None and record.token == token and record.owner == self._owner:
                records.drop_tables(connection, record)

        with suppress(ProjectionUnavailable):  # then the next rebuild drops it
            await self._database.run(drop)


def _comparison(name: str, before: Table | None, after: Table) -> Any:
    return lambda connection: compare(connection, name, before, after)


def _reason(found: int, allow: int | None, dry_run: bool) -> str:
    if dry_run:
        return "it was a dry run"
    if allow is not None and found > allow:
        return f"{found:,} rows are different, and {allow:,} may be"
    return ""

"""An application's projections from outside: their rows, how far they are, and who runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic_core import from_json

from amends.domain.clock import Clock
from amends.domain.ids import Position
from amends.errors import NotRegistered, ProjectionMismatch, ProjectionStopped, UsageError
from amends.stores.port import EventStore

if TYPE_CHECKING:  # SQLAlchemy is imported when there is something to do
    from sqlalchemy import Select

    from amends.projections.database import Database
    from amends.projections.definition import Projection
    from amends.projections.projector import Projector
    from amends.projections.records import Record

#: How often it is looked whether another process has got on.
LOOK_S: Final = 0.5


class ProjectionSettings(Protocol):
    """Of the settings, what is about projections."""

    @property
    def projections_lease_s(self) -> float:
        """After how many seconds others may take over from a process that died."""
        ...

    @property
    def rebuild_projections(self) -> bool:
        """Whether a projection whose version has grown is rebuilt, or waits for that."""
        ...

    @property
    def projections_address(self) -> str:
        """The address of their database. Raises UsageError when there is none."""
        ...

    @property
    def audit_key_file(self) -> str | None:
        """With which key the audit trail is signed, if there is one."""
        ...

    @property
    def audit_every(self) -> int:
        """How many records there are from one of its checkpoints to the next."""
        ...


def names_of(own: Iterable[str], settings: ProjectionSettings) -> list[str]:
    """What the projections of an application are called, its audit trail's included."""
    return sorted({*own, *(() if settings.audit_key_file is None else ("audit",))})


class Projections:
    """The projections of an application, in their database. Made by `Client`."""

    def __init__(
        self,
        own: Mapping[str, Projection],
        settings: ProjectionSettings,
        store: EventStore,
        clock: Clock,
    ) -> None:
        self._own = own
        self._settings = settings
        self._store = store
        self._clock = clock
        self._database: Database | None = None

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return names_of(self._own, self._settings)

    @cached_property
    def known(self) -> Mapping[str, Projection]:
        """The application's by name, and the audit trail if the settings have a key for it.

        Raises KeyUnusable, and DefinitionError if one of the application's is in its way.
        """
        key_file = self._settings.audit_key_file
        if key_file is None:
            return self._own
        # Imported here: it needs what an extra brings.
        from amends.projections.audit.keys import SigningKey  # noqa: PLC0415
        from amends.projections.audit.projection import AuditTrail  # noqa: PLC0415
        from amends.projections.definition import check_together  # noqa: PLC0415

        trail = AuditTrail(SigningKey.load(key_file), every=self._settings.audit_every)
        return check_together([*self._own.values(), trail])

    @property
    def database(self) -> Database:
        """Their database. Raises UsageError when the settings name none that could be."""
        if self._database is None:
            from amends.projections.database import Database  # noqa: PLC0415

            self._database = Database.at(self._settings.projections_address)
        return self._database

    @property
    def are_there(self) -> bool:
        """Whether there may be any: a file that does not exist is not made by looking for it."""
        try:
            address = self._settings.projections_address
        except UsageError:  # nobody said where
            return False
        file = address.removeprefix("sqlite://")
        return file == address or Path(file.removeprefix("/") or "/").is_file()

    async def query(self, statement: Select[Any]) -> list[dict[str, Any]]:
        """The rows of a SELECT over their tables. Raises ProjectionUnavailable."""
        return await self.database.query(statement)

    async def records(self) -> list[Record]:
        """What is on record of each: checkpoint, lease, fault. Raises ProjectionUnavailable."""
        from amends.projections import records  # noqa: PLC0415

        return await self.database.look(records.load_all)

    async def history(self) -> list[dict[str, Any]]:
        """What was done to them: made, rebuilt, resumed, events skipped. Oldest first.

        Raises ProjectionUnavailable.
        """
        from amends.projections import records  # noqa: PLC0415

        done = await self.database.look(records.load_history)
        return [one | {"detail": from_json(one["detail"] or "null")} for one in done]

    async def caught_up(self, *names: str, timeout: float | None = None) -> None:
        """Wait until projections, by default all, have taken in whatever is in the log by now.

        `timeout` is in seconds. Raises ProjectionStopped, which says at which event,
        ProjectionMismatch (it has another version here, and nobody rebuilds it by himself),
        NotRegistered, ProjectionUnavailable and TimeoutError.
        """
        if unknown := set(names) - set(self.names):
            raise NotRegistered(f"the application has no projection {', '.join(sorted(unknown))}")
        end = await self._store.end()
        waited_for = set(names or self.names)
        async with nullcontext() if timeout is None else asyncio.timeout(timeout):
            while True:
                for record in await self.records():
                    if record.name in waited_for and self._is_at(record, end):
                        waited_for.remove(record.name)
                if not waited_for:
                    return
                due = self._clock.now() + timedelta(seconds=LOOK_S)
                await self.database.changed.wait_until(self._clock, due)

    def _is_at(self, record: Record, end: Position) -> bool:
        """Whether a projection has taken in the log up to a position. Raises if it never will."""
        if record.target != "live":
            return False
        projection = self.known[record.name]
        if record.version != projection.version:
            if self._settings.rebuild_projections and record.version < projection.version:
                return False
            raise ProjectionMismatch(
                f"projection {record.name!r}: {record.other_version_text(projection.version)}"
            )
        if record.position < end and record.fault is not None:
            raise ProjectionStopped(record.stopped_text)
        return record.position >= end

    async def projector(self) -> Projector:
        """What runs them; their tables are made if need be.

        Raises ProjectionMismatch, KeyUnusable, and DefinitionError like `known`.
        """
        from amends.projections.projector import Projector  # noqa: PLC0415

        projector = Projector(
            self.known.values(),
            self._store,
            self.database,
            self._clock,
            lease_s=self._settings.projections_lease_s,
            rebuilds=self._settings.rebuild_projections,
        )
        await projector.check()
        return projector

    async def close(self) -> None:
        """Release the database. Idempotent."""
        if self._database is not None:
            await self._database.close()

"""All projections of an application in one process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection

from amends.domain.clock import Clock
from amends.domain.ids import START, Position
from amends.errors import ProjectionUnavailable, StoreUnavailable
from amends.projections.applying import prepare
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.projections.log import LogWatch, check_reaches
from amends.projections.runner import Runner
from amends.stores.port import EventStore
from amends.telemetry import Log

log = Log("amends.projections")

LEASE_S: Final = 10.0


class Projector:
    """Runs projections: each by itself, so that one that stops or waits holds up no other."""

    def __init__(
        self,
        projections: Iterable[Projection],
        store: EventStore,
        database: Database,
        clock: Clock,
        *,
        lease_s: float = LEASE_S,
        rebuilds: bool = False,
    ) -> None:
        """`lease_s`: after how many seconds others may take over from a process that died.
        `rebuilds`: whether a projection whose version has grown is rebuilt, or waits for that.
        """
        self._projections = tuple(projections)
        self._store = store
        self._database = database
        self._clock = clock
        self._watch = LogWatch(store, clock)
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._runners = [
            Runner(
                projection,
                store,
                database,
                clock,
                self._watch,
                owner=owner,
                lease_s=lease_s,
                rebuilds=rebuilds,
            )
            for projection in self._projections
        ]

    async def check(self) -> None:
        """Make the tables of new projections, and see that the others' fit, and are of this log.

        A database or store that cannot be used now is waited for later. Raises ProjectionMismatch.
        """

        def check(connection: Connection) -> Position:
            now = self._clock.now()
            made = [prepare(connection, one, self._database, now) for one in self._projections]
            return max((record.position for record in made), default=START)

        try:
            furthest = await self._database.run(check)
            check_reaches(await self._store.end(), furthest)
        except (ProjectionUnavailable, StoreUnavailable) as error:
            log.warning("projections_wait", reason=str(error))

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run())
            for runner in self._runners:
                group.create_task(runner.run())

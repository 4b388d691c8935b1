"""The rebuild of `benchmarks/projections.py` on the `eventsourcing` library's projection runner.

    python3 -m venv other && other/bin/pip install eventsourcing
    other/bin/python benchmarks/projections_eventsourcing.py [--events 50000]

It needs nothing of ours, and runs where that library is. Its application on SQLite has no
subscriptions, so the events are in its store in memory, which reads nothing from a disk: that is to
its advantage. The projection is in a SQLite file, one row for each event, as there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteTrackingRecorder

EVENTS_OF_ONE = 10


class Transfer(Aggregate):  # type: ignore[misc]
    @event("Begun")  # type: ignore[untyped-decorator]
    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.seq = 0

    @event("Stepped")  # type: ignore[untyped-decorator]
    def step(self, seq: int) -> None:
        self.seq = seq


class Transfers(Application):  # type: ignore[misc]
    def add(self, count: int) -> None:
        made = []
        for _ in range(count):
            transfer = Transfer(amount=5)
            for seq in range(1, EVENTS_OF_ONE):
                transfer.step(seq)
            made.append(transfer)
        self.save(*made)


class View(SQLiteTrackingRecorder):  # type: ignore[misc]
    def construct_create_table_statements(self) -> list[str]:
        statements: list[str] = super().construct_create_table_statements()
        columns = "position INTEGER PRIMARY KEY, instance TEXT, type TEXT, seq INTEGER, at TEXT"
        return [*statements, f"CREATE TABLE IF NOT EXISTS steps ({columns})"]

    def insert(self, tracking: Tracking, row: tuple[Any, ...]) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?)", row)


class Steps(Projection):  # type: ignore[misc]
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.insert(
            tracking,
            (
                tracking.notification_id,
                str(domain_event.originator_id),
                type(domain_event).__name__,
                getattr(domain_event, "seq", None),
                domain_event.timestamp.isoformat(),
            ),
        )


class Filled(Transfers):
    """The application of a runner, which is filled before the runner subscribes to it."""

    name = "Filled"
    wanted = 0

    def __init__(self, env: Any = None) -> None:
        super().__init__(env)
        for _ in range(self.wanted // EVENTS_OF_ONE // 100):
            self.add(100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    Filled.wanted = parser.parse_args().events
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "STEPS_PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "STEPS_SQLITE_DBNAME": str(Path(folder) / "view.db"),
            "PERSISTENCE_MODULE": "eventsourcing.popo",
        }
        last = Filled.wanted
        with ProjectionRunner(
            application_class=Filled, projection_class=Steps, view_class=View, env=env
        ) as runner:
            done = runner.view.max_tracking_id(runner.app_name) or 0
            began, cpu = time.perf_counter(), time.process_time()
            runner.wait(last, timeout=3600)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(
        json.dumps(
            {
                "what": f"rebuild, eventsourcing {version('eventsourcing')}",
                "events": last - done,
                "events_per_s": round((last - done) / took),
                "cpu_s_per_100k": round(cpu / (last - done) * 1e5, 2),
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()

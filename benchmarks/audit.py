"""How fast the audit trail is kept, and verified.

    python -m benchmarks.audit [--events 200000] [--folder DIRECTORY]

Over the log of `benchmarks.projections`: journals of ten events. Prints, of building the chain and
of verifying it, events a second, the CPU it took, and the peak of the process's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil

from amends.projections.audit.keys import SigningKey
from amends.projections.audit.projection import AuditTrail
from amends.projections.audit.verify import verify
from amends.projections.build import build
from amends.projections.database import Database
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from benchmarks.projections import fill, peak_mib

T = TypeVar("T")


async def measure(events: int, folder: Path) -> None:
    log = await SqliteDatabase.open(folder / "log.db")
    store = SqliteStore(log)
    await fill(store, events)
    key = SigningKey.new()
    async with Database.at(f"sqlite:///{folder / 'audit.db'}") as database:
        await timed("keep", events, build(AuditTrail(key), store, database))
        keys = {key.public.id: key.public}
        verified = await timed("verify", events, verify(store, database, keys))
        assert (verified.records, verified.difference) == (events, None)
    await store.close()


async def timed(what: str, events: int, work: Coroutine[Any, Any, T]) -> T:
    began, cpu = time.perf_counter(), time.process_time()
    result = await work
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    told = {
        "what": what,
        "events": events,
        "events_per_s": round(events / took),
        "cpu_s_per_100k": round(cpu / events * 1e5, 2),
        "peak_mib": round(peak_mib(), 1),
        "load": round(psutil.getloadavg()[0], 1),
    }
    print(json.dumps(told), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(measure(options.events, folder))


if __name__ == "__main__":
    main()

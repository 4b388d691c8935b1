"""W5/restart: how soon an engine works again on a file full of sleeping sagas.

Each saga is started by a turn of the engine's own, so that its journal and its timer are real; all
but a few sleep for hours to months. Then new processes open the file: after a clean end, and after
a SIGKILL in the middle of work. Before each, the file is put out of the system's cache. Memory is
compared with that of the same process on a file without sleepers.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from amends import Client
from amends.backend import open_backend
from amends.broker.commit import TurnCommit
from amends.broker.mail import to_inbox
from amends.broker.port import Delivery
from amends.broker.topology import command_queue, inbox_queue
from amends.domain.ids import InstanceId
from amends.domain.messages import StartSaga
from amends.domain.unique import new_id
from amends.sagas.dispatch import Dispatcher
from amends.sagas.outside import outside_tasks
from amends.sagas.turn import Inbound, TurnTaker
from amends.settings import Settings
from benchmarks import sagas as s
from benchmarks.children import child, heard, say
from benchmarks.measure import TIMEOUT_S, Figures, check, quiet, rss_bytes

N: Final = 20_000
#: Sagas that are due when the process starts, and must wake.
DUE: Final = 100
#: Turns that are committed together while the file is made.
CHUNK: Final = 1_000
YEAR_S: Final = 365 * 86_400


def restart(folder: Path, n: int = N) -> Figures:
    """Make two files, restart on both, and once more after a kill. Raises CheckFailed."""
    empty, full = folder / "empty.db", folder / "full.db"
    built = {file: _build(file, count) for file, count in ((empty, 0), (full, n))}
    base = _restarted(empty, built[empty])
    clean = _restarted(full, built[full])
    killed = _restarted(full, clean.naps)
    return Figures(
        workload="W5",
        what="restart with sleepers",
        n=n,
        inflight=1,
        restarted_s=clean.running_s,
        answered_s=clean.answered_s,
        answered_after_kill_s=killed.answered_s,
        woken_s=max(clean.woken_s, killed.woken_s),
        rss_per_sleeper_bytes=(clean.rss_bytes - base.rss_bytes) / n,
        file_per_sleeper_bytes=(full.stat().st_size - empty.stat().st_size) / n,
    )


class Restarted(NamedTuple):
    """When a new process was how far, and which sagas were due soon when it was killed."""

    running_s: float
    answered_s: float
    woken_s: float
    rss_bytes: int
    naps: list[str]


def _build(file: Path, n: int) -> list[str]:
    with child("benchmarks.restart", "build", str(file), str(n)) as process:
        due = heard(process, "built")["due"]
        check(process.wait() == 0, "the file was not made", exit_status=process.returncode)
    return list(due)


def _restarted(file: Path, due: list[str]) -> Restarted:
    _put_out_of_cache(file)
    began = time.perf_counter()
    with child("benchmarks.restart", "work", str(file), json.dumps(due)) as process:
        heard(process, "running")
        running_s = time.perf_counter() - began
        heard(process, "answered")
        answered_s = time.perf_counter() - began
        rss = heard(process, "woken")["rss_bytes"]
        woken_s = time.perf_counter() - began
        naps = heard(process, "busy")["naps"]
    return Restarted(running_s, answered_s, woken_s, rss, naps)


def _put_out_of_cache(file: Path) -> None:
    """As after a boot: what is read comes from the disk."""
    for part in file.parent.glob(f"{file.name}*"):
        descriptor = os.open(part, os.O_RDWR)
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# --- the children


async def _make(file: Path, n: int) -> None:
    """`n` sagas that sleep, and some that should have woken a moment ago."""
    soon = datetime.now(UTC)
    due = [f"due-{number}" for number in range(DUE)]
    async with open_backend(Settings.of(file), engine=True) as backend:
        await backend.broker.declare([inbox_queue(0), *map(command_queue, s.app.queues)])
        starter = _Starter(soon - timedelta(seconds=1))
        sleepers = ((f"sleeper-{number}", starter.later()) for number in range(n))
        waiting = [*((id, soon) for id in due), *sleepers]
        for start in range(0, len(waiting), CHUNK):
            chunk = waiting[start : start + CHUNK]
            turns = await outside_tasks(partial(starter.start_all, chunk))
            check(not any(await backend.committer.commit(turns)), "a turn was not committed")
    say("built", due=due)


class _Starter:
    """Takes the first turn of sagas, as an orchestrator does when their starts are delivered."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._taker = TurnTaker(s.app.sagas, s.app.activities, Dispatcher(1, s.app.activities))
        self._random = random.Random(5)

    def later(self) -> datetime:
        """Some time from an hour to a year ahead."""
        return self._now + timedelta(seconds=self._random.uniform(3_600, YEAR_S))

    def start_all(self, sleepers: Sequence[tuple[str, datetime]]) -> list[TurnCommit]:
        """What the first turns of sagas come to, each by its id and when it is to wake."""
        return [self._start(id, until) for id, until in sleepers]

    def _start(self, id: str, until: datetime) -> TurnCommit:
        message = StartSaga(saga=s.nap.name, id=id, input=until.isoformat())
        envelope = to_inbox(
            message, new_id(), partitions=1, correlation_id=str(new_id()), causation_id=id
        )
        live = self._taker.begin(InstanceId(s.nap.name, id))
        turn = self._taker.take(live, [Inbound(Delivery(envelope, 1, None), message)], self._now)
        live.discard()
        return turn.commit._replace(acknowledge=())


async def _work(file: Path, due: list[str]) -> None:
    """An engine that answers, wakes what is due, and is then killed while it is busy."""
    async with s.app.run(file) as client, asyncio.timeout(TIMEOUT_S):
        say("running")
        await _transfer(client)
        say("answered")
        for id in due:
            result = await client.handle(s.nap, id).result()
            check(result == "woke", "a sleeper did not wake as it should", found=result)
        gc.collect()
        say("woken", rss_bytes=rss_bytes())
        until = datetime.now(UTC) + timedelta(seconds=0.5)
        naps = [await client.start(s.nap, until) for _ in range(DUE)]
        transfers = asyncio.gather(*(_transfer(client) for _ in range(100)))
        await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)
        say("busy", naps=[nap.id for nap in naps])
        await transfers
        await asyncio.sleep(TIMEOUT_S)


async def _transfer(client: Client) -> None:
    handle = await client.start(s.transfer, s.Order())
    check(await handle.result() == 20, "wrong outcome")


def main() -> None:
    """Be one of the processes."""
    verb, file, more = sys.argv[1:]
    quiet()
    asyncio.run(
        _make(Path(file), int(more)) if verb == "build" else _work(Path(file), json.loads(more))
    )


if __name__ == "__main__":
    main()

"""Real worker processes, killed with SIGKILL under load at points chosen by a seed.

A client process keeps some dozens of payments under way, approves and cancels them, also while no
worker lives, and opens accounts for which payments are parked. Workers are killed after a number
of events in the journal, at a number of bookings in the ledger (before, amid or after one), and
after a time that is measured by how long a worker takes to start: often while it starts and
recovers. What a kill finds in flight is counted, so that the test cannot come to prove nothing.
The judge has a ledger of its own, which knows nothing of the engine.

A failing seed is printed. `AMENDS_SEED=3 pytest tests/acceptance/test_kill.py` runs it again:
the same payments and kill points, though not the same interleaving. `AMENDS_KILLS=1000` kills so
often for each seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from amends import Client, Status
from tests.acceptance.customers import JOURNALS, Customers
from tests.acceptance.flight import found_in_flight
from tests.acceptance.judge import Books, Record, judge, records_of, refused_signals
from tests.acceptance.ledger import Ledger
from tests.acceptance.ledger_app import app
from tests.acceptance.nursery import APP, Child, Nursery

SEEDS = [int(os.environ["AMENDS_SEED"])] if "AMENDS_SEED" in os.environ else [1, 2, 3, 4, 5]
KILLS = int(os.environ.get("AMENDS_KILLS", "50"))
LEDGER, WORKER = "ledger.db", "worker"
#: Far more than it takes, also on a machine that is busy.
TIMEOUT_S = 60 + 3 * KILLS

#: What the kills must find in flight, in what share of them at least.
FOUND = {
    "an open instance": 0.8,
    "a worker that starts": 0.06,
    "a call that is not on record": 0.3,
    "a backoff": 0.3,
    "parallel steps": 0.1,
    "an abandoned step": 0.1,
    "a parked step": 0.02,
    "a probe": 0.01,
    "a timer": 0.3,
    "a wait for a signal": 0.04,
    "an undo": 0.3,
    "a way that only goes forward": 0.1,
    "news while no worker lives": 0.1,
}

#: What the kills of each seed found.
found_by_all: list[Counter[str]] = []


@dataclass(frozen=True)
class Kill:
    """When a worker dies, counted from its start: `starts` is the time that one takes to start."""

    by: Literal["starts", "events", "bookings"]
    count: float
    place: str = ""

    @property
    def fuse(self) -> str:
        return f"{self.count} {self.place}" if self.by == "bookings" else ""


def draw_kills(seed: int, number: int) -> Iterator[Kill]:
    draw = random.Random(f"kills {seed}")
    kinds = [
        "starting",
        "starting",
        "later",
        "events",
        "events",
        "bookings",
        "bookings",
        "bookings",
    ]
    for _ in range(number):
        match draw.choice(kinds):
            case "starting":
                yield Kill("starts", draw.uniform(0, 1))
            case "later":
                yield Kill("starts", draw.uniform(1, 5))
            case "events":
                yield Kill("events", draw.randint(1, 150))
            case _:
                yield Kill(
                    "bookings", draw.randint(1, 50), draw.choice(["before", "amid", "after"])
                )


class Killer:
    """Kills one worker after another, and counts what the kills found."""

    def __init__(
        self, nursery: Nursery, client: Client, customers: Customers, folder: Path
    ) -> None:
        self._nursery = nursery
        self._client = client
        self._customers = customers
        self._folder = folder
        self._ledger = Ledger(str(folder / LEDGER))
        self._start_s = 0.1
        self.found: Counter[str] = Counter()

    async def kill(self, kill: Kill) -> None:
        """Start a worker, and kill it when its time has come."""
        events = self._customers.events
        began = time.time()
        worker = await self._start(kill.fuse)
        if kill.by == "bookings":
            await worker.until_killed()
        elif kill.by == "starts":
            await worker.kill_at(asyncio.sleep(kill.count * self._start_s))
        else:
            await worker.kill_at(self._customers.until_events(events + int(kill.count)))
        calls = self._ledger.calls(since=began)
        if calls:
            self._start_s = calls[0].at - began
        elif self._customers.events == events:
            self.found["a worker that starts"] += 1
        instances = [plan.instance for plan in self._customers.open.values()]
        called = {call.key for call in calls}
        self.found.update(await found_in_flight(self._client, instances, called))
        self.found["news while no worker lives"] += await self._customers.run_errands() > 0

    async def finish(self) -> None:
        """Let a last worker bring everything to its end."""
        worker = await self._start()
        await worker.kill_at(self._customers.until_all_have_ended())
        self._ledger.close()

    async def _start(self, fuse: str = "") -> Child:
        db, ledger = str(self._folder / "engine.db"), str(self._folder / LEDGER)
        dev = ("dev", APP, "--db", db, "--log-level", "warning")
        return await self._nursery.start(*dev, name=WORKER, LEDGER=ledger, FUSE=fuse)


# --- a run


@dataclass(frozen=True)
class Run:
    """What is left when all is over."""

    folder: Path
    customers: Customers
    records: dict[str, Record]
    refused: set[str]
    found: Counter[str]

    def judge(self) -> None:
        orders = {id: plan.order for id, plan in self.customers.plans.items()}
        ledger = Ledger(str(self.folder / LEDGER))
        try:
            judge(orders, self.records, self.customers.sent, self.refused, Books(ledger))
        finally:
            ledger.close()


async def run(seed: int, kills: int, folder: Path) -> Run:
    """Kill so many workers, and let the last one finish."""
    print(f"AMENDS_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    ledger = Ledger.create(str(folder / LEDGER))
    nursery = await Nursery.open(folder)
    try:
        async with app.client(folder / "engine.db") as client:
            customers = Customers(client, ledger, seed)
            killer = Killer(nursery, client, customers, folder)
            await kill_all(killer, customers, draw_kills(seed, kills))
            events = await client.backend.store.read_all(filter=JOURNALS, limit=10**9)
            late = await refused_signals(client.backend.broker)
            return Run(folder, customers, records_of(events), late, killer.found)
    finally:
        await nursery.close()
        ledger.close()


async def kill_all(killer: Killer, customers: Customers, kills: Iterator[Kill]) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S), customers:
            for kill in kills:
                await killer.kill(kill)
            await killer.finish()
    except TimeoutError:
        pytest.fail(f"after {TIMEOUT_S} s these have not ended: {sorted(customers.open)}")


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_money_is_conserved_whenever_the_worker_is_killed(seed: int, tmp_path: Path) -> None:
    done = await run(seed, KILLS, tmp_path)

    done.judge()
    assert '"level": "error"' not in (tmp_path / f"{WORKER}.log").read_text()
    found_by_all.append(done.found)
    ends = {record.ending.status for record in done.records.values()}
    assert ends == {Status.COMPLETED, Status.COMPENSATED, Status.CANCELLED}


def test_the_kills_hit_enough() -> None:
    """All those above together: what is rare may be missed by the few of one seed."""
    if not found_by_all:
        pytest.skip("there were no kills in this run")
    found = sum(found_by_all, start=Counter[str]())
    kills = KILLS * len(found_by_all)
    too_seldom = {w: found[w] for w, share in FOUND.items() if found[w] < int(share * kills)}
    assert not too_seldom, f"{kills} kills found too little: {found}"


# --- the judge

SOME_EFFECT = "rowid = (SELECT min(rowid) FROM entries WHERE reverses IS NULL)"
SOME_UNDO = "rowid = (SELECT min(rowid) FROM entries WHERE reverses IS NOT NULL)"
SOME_STANDING = (
    "rowid = (SELECT min(rowid) FROM entries WHERE reverses IS NULL AND key NOT IN "
    "(SELECT reverses FROM entries WHERE reverses IS NOT NULL))"
)
FORGERIES = [
    ("no journal knows of that", f"UPDATE entries SET key = 'transfer/0/1' WHERE {SOME_EFFECT}"),
    ("no journal knows of that", f"UPDATE entries SET cents = cents + 1 WHERE {SOME_EFFECT}"),
    (
        "undone 2 times",
        "INSERT INTO entries SELECT key || 'again', reverses, account, cents, at "
        f"FROM entries WHERE {SOME_UNDO}",
    ),
    (
        "undoes .* no journal knows of that",
        "INSERT INTO entries SELECT key || '/refund', key, account, -cents, at FROM entries "
        f"WHERE {SOME_STANDING}",
    ),
    (r"compensated, and \[.*\] stand|cancelled, and", f"DELETE FROM entries WHERE {SOME_UNDO}"),
    ("is completed with", f"DELETE FROM entries WHERE {SOME_STANDING}"),
    ("cents were made or lost", f"UPDATE entries SET cents = cents + 1 WHERE {SOME_UNDO}"),
    ("attempt 99 is not on record", "INSERT INTO calls SELECT key, 99, at FROM calls LIMIT 1"),
    ("went on after", "UPDATE calls SET at = at - 5"),
]


async def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    done = await run(1, 2, tmp_path)
    done.judge()

    for number, (verdict, forgery) in enumerate(FORGERIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(tmp_path / LEDGER, folder)
        with closing(sqlite3.connect(folder / LEDGER)) as ledger:
            ledger.execute(forgery)
            ledger.commit()
        with pytest.raises(AssertionError, match=verdict):
            replace(done, folder=folder).judge()
    done.customers.sent[next(iter(done.records))] = {"approval 99"}
    with pytest.raises(AssertionError, match="approval 99"):
        done.judge()

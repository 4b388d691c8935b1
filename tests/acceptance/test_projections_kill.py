"""Runners of projections killed at any moment (SIGKILL): no event is taken in twice or left out.

The child runs a projection over a log that is there already, and says after each commit how far it
is. The parent kills it after a seeded number of lines and a seeded moment more; then the next one
goes on, as soon as the lease of the dead one is over. At the end the rows are compared with the log.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from amends.domain.clock import SystemClock
from amends.domain.envelope import NewEvent
from amends.domain.ids import START
from amends.projections import build as building
from amends.projections import rebuild as rebuilding
from amends.projections import runner as running
from amends.projections.database import Database
from amends.projections.projector import Projector
from amends.projections.reading import Projections
from amends.projections.rebuild import Rebuild
from amends.settings import Settings
from amends.stores.sqlite import SqliteDatabase, SqliteStore
from tests.integration.projections.sample import Ledger, accounts, append, moves, new_event, totals

SEEDS = {"sqlite": 1, "postgres": 2}
KILLS = 4
EVENTS = 12_000
#: Small, so that there are many commits.
BATCH = 40
LEASE_S = 1.0


# --- the child


class SayingDatabase(Database):
    """Says when it has committed."""

    async def run(self, work):  # type: ignore[no-untyped-def]
        done = await super().run(work)
        os.write(1, b"committed\n")
        return done


async def child(log: str, address: str) -> None:
    vars(running)["BATCH"] = BATCH
    store = SqliteStore(await SqliteDatabase.open(log))
    database = SayingDatabase.at(address)
    projector = Projector([Ledger()], store, database, SystemClock(), lease_s=LEASE_S)
    reader = Projections({"ledger": Ledger()}, Settings(), store, SystemClock())
    reader._database = database
    await projector.check()
    task = asyncio.create_task(projector.run())
    await reader.caught_up()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    os.write(1, b"done\n")


async def rebuilding_child(log: str, address: str) -> None:
    vars(building)["BATCH"] = BATCH
    vars(rebuilding)["LEASE_S"] = LEASE_S
    store = SqliteStore(await SqliteDatabase.open(log))
    await Rebuild(Ledger(), store, SayingDatabase.at(address), SystemClock()).run()
    os.write(1, b"done\n")


# --- the parent


async def fill(log: Path, drawn: random.Random) -> dict[str, int]:
    """The log, and the balances that come of it."""
    balances: dict[str, int] = {}
    store = SqliteStore(await SqliteDatabase.open(log))
    for _ in range(EVENTS // 200):
        account = f"a{drawn.randrange(20)}"
        events: list[NewEvent] = []
        for _ in range(200):
            amount = drawn.randint(1, 9)
            type, sign = drawn.choice([("Deposited", 1), ("Withdrawn", -1)])
            events.append(new_event(type, amount=amount))
            balances[account] = balances.get(account, 0) + sign * amount
        await append(store, f"account-{account}", *events)
    await store.close()
    return balances


def run_child(
    log: Path, address: str, drawn: random.Random, *, kill: bool, what: str = "run", most: int = 25
) -> int:
    """Run a child, to a moment of its life or to its end; how many commits it told of."""
    heard = 0
    with subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.test_projections_kill", what, str(log), address],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    ) as process:
        assert process.stdout is not None
        until = drawn.randint(2, most) if kill else -1
        for line in process.stdout:
            heard += line == b"committed\n"
            if heard == until:
                time.sleep(drawn.random() * 0.01)  # anywhere in the next transaction
                process.kill()
                break
        else:
            assert not kill, "it was done before it could be killed"
            assert line == b"done\n"
        process.wait()
    return heard


@pytest.mark.parametrize("database", SEEDS)
def test_no_event_is_taken_in_twice_or_left_out(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    drawn = random.Random(SEEDS[database])
    address = f"sqlite:///{tmp_path / 'projections.db'}"
    if database == "postgres":
        address = request.getfixturevalue("postgres_database")
    log = tmp_path / "log.db"
    balances = asyncio.run(fill(log, drawn))
    for _ in range(KILLS):
        assert run_child(log, address, drawn, kill=True) >= 2
    run_child(log, address, drawn, kill=False)
    asyncio.run(check(log, address, balances))
    for _ in range(2):  # and rebuilds, at any of some 600 transactions
        run_child(log, address, drawn, kill=True, what="rebuild", most=500)
        time.sleep(1.5 * LEASE_S)
        asyncio.run(check_balances(address, balances))
    run_child(log, address, drawn, kill=False, what="rebuild")
    asyncio.run(check(log, address, balances))


async def check_balances(address: str, balances: dict[str, int]) -> None:
    async with Database.at(address) as database:
        rows = await database.query(select(accounts))
        assert {row["id"]: row["balance"] for row in rows} == balances


async def check(log: Path, address: str, balances: dict[str, int]) -> None:
    store = SqliteStore(await SqliteDatabase.open(log))
    await check_balances(address, balances)
    async with Database.at(address) as database:
        places = await database.query(select(moves.c.position).order_by(moves.c.position))
        events = await store.read_all(START, limit=EVENTS + 1)
        assert [row["position"] for row in places] == [event.position for event in events]
        (counted,) = await database.query(select(func.sum(totals.c.events).label("n")))
        assert counted["n"] == EVENTS
        rebuilt = await Rebuild(Ledger(), store, database, SystemClock()).run()
        assert (rebuilt.swapped, rebuilt.differences, rebuilt.events) == (True, 0, EVENTS)
    await store.close()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    asyncio.run({"run": child, "rebuild": rebuilding_child}[what](*arguments))

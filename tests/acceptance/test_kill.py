"""Real worker processes, killed with SIGKILL under load at seeded points.

The judge is a ledger of its own, which knows nothing of the engine. A failing seed is printed and
can be run again: `AMENDS_SEED=… pytest tests/acceptance/test_kill.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amends import Client, Status
from amends.domain.ids import START
from amends.stores.port import EventFilter
from tests.acceptance.ledger_app import (
    Transfer,
    app,
    approved,
    create_oracle,
    open_oracle,
    transfer,
)

ROOT = Path(__file__).parents[2]
TRANSFERS = 240
KILLS = 12
FINAL = ("SagaCompleted", "SagaCompensated", "SagaFailed", "SagaCancelled", "SagaTerminated")
SEEDS = [int(os.environ["AMENDS_SEED"])] if "AMENDS_SEED" in os.environ else [11, 12]


class Worker:
    """`amends dev` in a process of its own."""

    def __init__(self, db: Path, oracle: Path, log: Path) -> None:
        self._db = db
        self._oracle = oracle
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = ["-m", "amends", "dev", "tests.acceptance.ledger_app:app"]
            self._process = subprocess.Popen(
                [sys.executable, *command, "--db", str(self._db)],
                cwd=ROOT,
                env={**os.environ, "ORACLE_DB": str(self._oracle)},
                stdout=log,
                stderr=log,
            )

    def end(self, by: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(by)
        return self._process.wait(timeout=60)


@contextmanager
def worker_of(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "engine.db", tmp_path / "oracle.db", tmp_path / "worker.log")
    worker.start()
    try:
        yield worker
    finally:
        worker.end(signal.SIGKILL)


def orders(seed: int) -> dict[str, Transfer]:
    draw = random.Random(seed)
    return {
        f"t{number}": Transfer(
            payer=f"a{draw.randrange(20)}",
            payee=draw.choice(["closed", f"b{draw.randrange(20)}", f"b{draw.randrange(20)}"]),
            cents=draw.randint(1, 10_000),
            approval=draw.random() < 0.3,
        )
        for number in range(TRANSFERS)
    }


async def run_with_kills(client: Client, worker: Worker, kill_at: list[int], count: int) -> int:
    """Follow the log; kill when it has so many events. Returns the kills, once all is final."""
    ended: set[str] = set()
    kills = 0
    seen = 0
    async for event in client.backend.store.subscribe(
        START, filter=EventFilter(stream_prefixes=("saga.",))
    ):
        seen += 1
        if event.type in FINAL:
            ended.add(event.stream)
        if len(ended) == count:
            break
        if kills < len(kill_at) and seen >= kill_at[kills]:
            worker.end(signal.SIGKILL)
            worker.start()
            kills += 1
    return kills


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
async def test_money_is_conserved_whenever_the_worker_is_killed(seed: int, tmp_path: Path) -> None:
    print(f"AMENDS_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    todo = orders(seed)
    create_oracle(str(tmp_path / "oracle.db"))
    # A transfer leaves some eight events; the kills lie where there is still work to do.
    kill_at = sorted(random.Random(seed).sample(range(30, TRANSFERS * 6), KILLS))
    with worker_of(tmp_path) as worker:
        async with app.client(tmp_path / "engine.db") as client, asyncio.timeout(240):
            handles = {
                id: await client.submit(transfer, order, id=id) for id, order in todo.items()
            }
            following = asyncio.create_task(run_with_kills(client, worker, kill_at, len(todo)))
            for id, order in todo.items():
                if order.approval:
                    await handles[id].started()
                    await handles[id].signal(approved, "ok")
            assert await following == KILLS
            finals = {id: (await handle.state()).final for id, handle in handles.items()}
    judge(todo, finals, tmp_path / "oracle.db")


def judge(todo: dict[str, Transfer], finals: dict[str, Status | None], oracle_path: Path) -> None:
    oracle = open_oracle(str(oracle_path))
    entries = oracle.execute("SELECT key, about, account, cents FROM entries").fetchall()
    attempts = oracle.execute("SELECT key FROM attempts").fetchall()
    oracle.close()
    assert sum(cents for *_, cents in entries) == 0
    of_transfer: dict[str, list[tuple[str, int]]] = {id: [] for id in todo}
    for key, _, account, cents in entries:
        of_transfer[key.split("/")[1]].append((account, cents))
    for id, order in todo.items():
        booked = Counter(of_transfer[id])
        moved = Counter([(order.payer, -order.cents), (order.payee, order.cents)])
        undone = Counter([(order.payer, -order.cents), (order.payer, order.cents)])
        if finals[id] is Status.COMPLETED:
            assert not order.payee.startswith("closed")
            assert booked == moved, (id, booked)
        elif finals[id] is Status.COMPENSATED:
            assert booked in (undone, Counter()), (id, booked)
        else:
            assert finals[id] is Status.FAILED, (id, finals[id])
            assert not booked, (id, booked)
    undos = Counter(about for key, about, *_ in entries if key != about)
    assert all(times == 1 for times in undos.values())
    assert len(attempts) >= len(entries)

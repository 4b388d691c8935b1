"""The whole production shape at once: the event store, RabbitMQ, orchestrators and workers.

Each is a process of its own, and is killed at seeded points; the event store is the protocol double,
which keeps in a file what it has answered. Then all payments must come to their end, and be judged,
as in `test_rabbitmq_chaos`.

A failing seed is printed. `AMENDS_SEED=3` runs it again: the same payments and moments, though not
the same interleaving. `AMENDS_KILLS=100` kills so often.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.acceptance.deployment import Deployment, deployed
from tests.acceptance.nursery import Child
from tests.esdb.process import DoubleProcess

Deploy = Callable[..., AbstractAsyncContextManager[Deployment]]

SEED = int(os.environ.get("AMENDS_SEED", "1"))
KILLS = int(os.environ.get("AMENDS_KILLS", "4"))
#: Far more than it takes, also on a machine that is busy.
TIMEOUT_S = 120 + 20 * KILLS

pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)


@pytest.fixture
async def event_store(tmp_path: Path) -> AsyncIterator[DoubleProcess]:
    folder = tmp_path / "store"
    folder.mkdir()
    async with DoubleProcess(folder) as double:
        yield double


@pytest.fixture
def deploy(
    event_store: DoubleProcess,
    private_rabbitmq: PrivateRabbitMQ,
    rabbit_prefix: str,
    tmp_path: Path,
) -> Deploy:
    """See `deployed`: called with the number of `orchestrators` and `workers` (1 of each)."""
    where = (private_rabbitmq, rabbit_prefix, tmp_path)
    return partial(deployed, *where, SEED, TIMEOUT_S, store=event_store.uri)


async def test_the_event_store_is_killed_again_and_again(
    deploy: Deploy, event_store: DoubleProcess
) -> None:
    async with deploy() as payments:
        for _ in range(KILLS):
            await payments.some_events(20, 200)
            await payments.look()
            event_store.kill()
            async with payments.errands():
                await event_store.start()

    assert payments.found["an open instance"] == KILLS


async def test_everything_is_killed_again_and_again(
    deploy: Deploy, event_store: DoubleProcess
) -> None:
    async with deploy(orchestrators=2, workers=2) as payments:
        for _ in range(KILLS):
            await payments.some_events(20, 200)
            await payments.look()
            struck = payments.draw.sample(PARTS, payments.draw.randint(1, 3))
            await asyncio.gather(*(kill(part, payments, event_store) for part in struck))
            async with payments.errands():
                for part in sorted(struck, key=PARTS.index):
                    await start(part, payments, event_store)

    assert payments.found["an open instance"] == KILLS


#: In the order in which they come back: a process that finds no broker does not start.
PARTS = ["event store", "broker", "orchestrator", "worker"]


async def kill(part: str, payments: Deployment, event_store: DoubleProcess) -> None:
    match part:
        case "event store":
            event_store.kill()
        case "broker":
            await asyncio.to_thread(payments.server.kill)
        case "orchestrator":
            await one_of(payments.orchestrators, payments).kill()
        case "worker":
            await one_of(payments.workers, payments).kill()


async def start(part: str, payments: Deployment, event_store: DoubleProcess) -> None:
    match part:
        case "event store":
            await event_store.start()
        case "broker":
            await asyncio.to_thread(payments.server.start)
        case "orchestrator":
            await payments.start_orchestrator()
        case "worker":
            await payments.start_worker()


def one_of(children: list[Child], payments: Deployment) -> Child:
    return payments.draw.choice([child for child in children if not child.has_ended])

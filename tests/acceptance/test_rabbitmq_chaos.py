"""What may happen to RabbitMQ, and to those who use it, happens under load: nothing is lost.

Each test runs a deployment of its own (see `tests.acceptance.deployment`) and does harm to it, again
and again, after a number of events that is drawn from a seed. Then all payments must come to their
end, no message may be left, and the judge compares the bank's ledger, which knows nothing of the
engine, with the journals. What each fault found in flight is counted, so that no test can come to
prove nothing.

A failing seed is printed. `AMENDS_SEED=3 pytest tests/acceptance/test_rabbitmq_chaos.py` runs it
again: the same payments and moments, though not the same interleaving. `AMENDS_KILLS=100` kills the
server so often.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.acceptance.deployment import Deployment, deployed

Deploy = Callable[..., AbstractAsyncContextManager[Deployment]]

SEED = int(os.environ.get("AMENDS_SEED", "1"))
KILLS = int(os.environ.get("AMENDS_KILLS", "10"))
#: Far more than it takes, also on a machine that is busy.
TIMEOUT_S = 120 + 20 * KILLS

pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)


@pytest.fixture
def deploy(private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str, tmp_path: Path) -> Deploy:
    """Called with the number of `orchestrators` and `workers`, 1 each unless it is said."""
    return partial(deployed, private_rabbitmq, rabbit_prefix, tmp_path, SEED, TIMEOUT_S)


async def test_the_server_is_killed_again_and_again(deploy: Deploy) -> None:
    async with deploy() as payments:
        for _ in range(KILLS):
            await payments.some_events(20, 200)
            await asyncio.to_thread(payments.server.kill)
            await payments.look()
            async with payments.errands():
                await asyncio.to_thread(payments.server.start)

    assert payments.found["an open instance"] == KILLS
    assert payments.found["a call that is not on record"] >= KILLS / 2


async def test_the_server_closes_all_connections_again_and_again(deploy: Deploy) -> None:
    async with deploy() as payments:
        for _ in range(KILLS):
            await payments.some_events(10, 100)
            await asyncio.to_thread(payments.server.close_all_connections)
            await payments.look()
            async with payments.errands():
                pass

    assert payments.found["an open instance"] == KILLS
    assert len(payments.logged("subscription_lost")) >= KILLS


async def test_the_server_is_stopped_in_an_orderly_way_and_started_again(deploy: Deploy) -> None:
    async with deploy() as payments:
        for _ in range(2):
            await payments.some_events(20, 200)
            await asyncio.to_thread(payments.server.stop_app)
            await payments.look()
            async with payments.errands():
                await asyncio.to_thread(payments.server.start_app)

    assert payments.found["an open instance"] == 2


async def test_the_server_is_silent_for_longer_than_heartbeats_may_be_missing(
    deploy: Deploy,
) -> None:
    async def everybody_misses_it() -> bool:
        return {entry["pid"] for entry in payments.logged("subscription_lost")} == {
            child.pid for child in payments.alive()
        }

    async with deploy() as payments:
        await payments.some_events(20, 200)
        payments.server.pause()
        await payments.look()
        async with payments.errands():
            await payments.until(everybody_misses_it)
            payments.server.resume()
        await payments.some_events(20, 200)

    assert payments.found["an open instance"] == 1


async def test_orchestrators_and_workers_are_killed_again_and_again(deploy: Deploy) -> None:
    def fuse() -> str:
        draw = payments.draw
        return f"{draw.randint(1, 30)} {draw.choice(['before', 'amid', 'after'])}"

    async with deploy(workers=0) as payments:
        orchestrator = payments.orchestrators[0]
        workers = [await payments.start_worker(fuse()) for _ in range(2)]
        for _ in range(KILLS):
            victim = payments.draw.choice([orchestrator, *workers])
            if victim is orchestrator:
                await payments.some_events(5, 100)
                await orchestrator.kill()
                await payments.look()
                orchestrator = await payments.start_orchestrator()
            else:
                await victim.until_killed()
                await payments.look()
                workers.remove(victim)
                workers.append(await payments.start_worker(fuse()))
        for worker in workers:
            await worker.kill()
        await payments.start_worker()

    assert payments.found["an open instance"] == KILLS
    assert payments.found["a call that is not on record"] >= KILLS / 2

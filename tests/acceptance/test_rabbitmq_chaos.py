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
from pathlib import Path

import pytest

from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.acceptance.deployment import deployed

SEED = int(os.environ.get("AMENDS_SEED", "1"))
KILLS = int(os.environ.get("AMENDS_KILLS", "10"))
#: Far more than it takes, also on a machine that is busy.
TIMEOUT_S = 120 + 20 * KILLS

pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)


async def test_the_server_is_killed_again_and_again(
    private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str, tmp_path: Path
) -> None:
    async with deployed(private_rabbitmq, rabbit_prefix, tmp_path, SEED, TIMEOUT_S) as payments:
        for _ in range(KILLS):
            await payments.some_events(20, 200)
            await asyncio.to_thread(private_rabbitmq.kill)
            await payments.look()
            async with payments.errands():
                await asyncio.to_thread(private_rabbitmq.start)

    assert payments.found["an open instance"] == KILLS
    assert payments.found["a call that is not on record"] >= KILLS / 2

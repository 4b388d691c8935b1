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
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from amends.domain.events import StepCompleted
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.acceptance.customers import Plan
from tests.acceptance.deployment import Deployment, connections, deployed, purge
from tests.acceptance.ledger_app import Order, transfer

Deploy = Callable[..., AbstractAsyncContextManager[Deployment]]

SEED = int(os.environ.get("AMENDS_SEED", "1"))
KILLS = int(os.environ.get("AMENDS_KILLS", "10"))
#: Customers try for so long: far more than it takes, also on a machine that is busy.
TIMEOUT_S = 120 + 20 * KILLS
#: "Within seconds": an orchestrator that says nothing is missed after four.
SHARED_S = 20

pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)


@pytest.fixture
def deploy(private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str, tmp_path: Path) -> Deploy:
    """See `deployed`: called with the number of `orchestrators` and `workers` (1 of each)."""
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


async def first_of(*events: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these is over."""
    waiting = [asyncio.ensure_future(event) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


async def test_orchestrators_and_workers_are_killed_again_and_again(deploy: Deploy) -> None:
    def fuse() -> str:
        draw = payments.draw
        return f"{draw.randint(1, 30)} {draw.choice(['before', 'amid', 'after'])}"

    async with deploy(workers=0) as payments:
        orchestrator = payments.orchestrators[0]
        workers = [await payments.start_worker(fuse()) for _ in range(2)]
        for _ in range(KILLS):
            deaths = [worker.ended() for worker in workers]
            if payments.draw.random() < 0.4:
                # Without workers, there may be no more events.
                await first_of(payments.some_events(5, 100), *deaths)
                await orchestrator.kill()
            else:
                await first_of(*deaths)
            await payments.look()
            # Or else all that is open waits for its customers in the end, and nobody dies any more.
            async with payments.errands():
                if orchestrator.has_ended:
                    orchestrator = await payments.start_orchestrator()
                for worker in [worker for worker in workers if worker.has_ended]:
                    await worker.until_killed()
                    workers.remove(worker)
                    workers.append(await payments.start_worker(fuse()))
        for worker in workers:
            await worker.kill()
        await payments.start_worker()

    assert payments.found["an open instance"] == KILLS
    assert payments.found["a call that is not on record"] >= KILLS / 2


async def test_an_alarm_slows_all_down_and_says_so(deploy: Deploy) -> None:
    async def everybody_says_that_he_is_blocked() -> bool:
        blocked = {entry["pid"] for entry in payments.logged("broker_blocks")}
        return blocked == {child.pid for child in payments.alive()}

    async def nothing_moves() -> bool:
        before = payments.customers.events
        [status] = await payments.ask("status")
        assert [process for process in status["processes"] if process["blocked_since"]]
        return payments.customers.events == before

    async with deploy() as payments:
        await payments.some_events(20, 200)
        await asyncio.to_thread(payments.server.set_memory_alarm)
        async with payments.errands():
            await payments.until(everybody_says_that_he_is_blocked)
            await payments.until(nothing_moves)
            await payments.look()
            await asyncio.to_thread(payments.server.clear_memory_alarm)
        await payments.some_events(20, 200)

    assert payments.found["an open instance"] == 1
    assert len(payments.logged("broker_blocks_no_more")) == len(payments.logged("broker_blocks"))


async def test_inboxes_change_hands_while_turns_are_taken(deploy: Deploy) -> None:
    async with deploy() as payments:
        [one] = payments.orchestrators
        took_s = [await payments.until_shared_by(one)]
        two, three = [await payments.start_orchestrator() for _ in range(2)]
        took_s.append(await payments.until_shared_by(one, two, three))
        await payments.some_events(10, 100)
        await payments.look()
        await payments.stop(one)
        took_s.append(await payments.until_shared_by(two, three))
        await payments.some_events(10, 100)
        await two.kill()
        took_s.append(await payments.until_shared_by(three))
        await payments.look()

    assert max(took_s) < SHARED_S
    assert payments.found["an open instance"] == 2


async def test_an_orchestrator_that_was_given_up_comes_back_amid_its_turns(deploy: Deploy) -> None:
    async def the_server_missed_its_heartbeats() -> bool:
        return len(connections(payments.server)) == len(before) - 2

    async with deploy(orchestrators=2) as payments:
        sleeper, other = payments.orchestrators
        await payments.until_shared_by(sleeper, other)
        await payments.some_events(10, 100)
        before = connections(payments.server)
        await payments.pause(sleeper)
        await payments.look()
        took_s = [await payments.until_shared_by(other)]
        await payments.until(the_server_missed_its_heartbeats)
        await payments.some_events(10, 100)
        payments.resume(sleeper)
        took_s.append(await payments.until_shared_by(sleeper, other))

    assert max(took_s) < SHARED_S
    assert payments.found["an open instance"] == 1
    assert payments.logged("turn_overtaken")


async def test_all_queues_are_emptied_and_then_deleted(deploy: Deploy) -> None:
    async with deploy() as payments:
        await payments.some_events(100, 300)
        for child in payments.alive():
            await child.kill()
        purged = await asyncio.to_thread(purge, payments.server, payments.settings.broker_prefix)
        await payments.start_orchestrator()
        await payments.start_worker()
        await payments.ask("reconcile")
        await payments.some_events(50, 100)
        await payments.look()
        await asyncio.to_thread(payments.server.delete, payments.settings.broker_prefix)
        payments.customers.order_no_more()
        await payments.customers.run_errands()
        [reconciled] = await payments.ask("reconcile")
        await payments.until(payments.is_idle)
        await payments.customers.send_again()

    assert purged >= 10
    assert reconciled["waiting"] >= 10


async def test_a_command_that_comes_ten_times_has_one_effect(deploy: Deploy) -> None:
    async with deploy(workers=0, open_max=0) as payments:
        order = Order(payer="a1", payees=["b1"], cents=100)
        plan = Plan("1", transfer, order, approvals=0, cancels=False, waits_for_a_death=False)
        payments.customers.order(plan)
        for _ in range(10):
            worker = await payments.start_worker("1 after")
            await worker.until_killed()
        await payments.start_worker()

    assert len(payments.books.calls["transfer/1/1"]) == 11
    completed = [e for e in payments.records["1"].events if isinstance(e, StepCompleted)]
    assert [event.seq for event in completed] == [1, 2]

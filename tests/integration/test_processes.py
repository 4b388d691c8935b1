"""An application that runs as several processes: an orchestrator here, consumers there.

Each has a view of its own of one broker (in memory, in the place of RabbitMQ) and opens the file
for itself; that they are in one process of the system changes nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amends import App, SagaContext, Settings, UsageError, activity, saga
from amends.backend import Backend, memory_backend
from amends.broker.memory import MemoryBroker
from amends.broker.topology import inbox_queue
from amends.client import Client
from amends.domain.clock import Clock
from amends.domain.removals import REMOVALS
from amends.errors import BrokerClosed, NotRegistered
from amends.testing.clock import VirtualClock
from amends.testing.contracts.broker_base import depth_of
from amends.testing.contracts.data import soon
from amends.worker import Engine
from tests.integration.apart import ADDRESS, BrokerApart, apart

__all__ = ["apart"]


class Shop:
    """An application with two queues, and who did what in it."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.writing = asyncio.Event()
        self.gate = asyncio.Event()

        @activity(queue="ledger")
        async def pay(n: int) -> str:
            self.did.append(f"pay {n}")
            return f"paid {n}"

        @activity(queue="mail")
        async def write(n: int) -> str:
            self.did.append(f"write {n}")
            self.writing.set()
            await self.gate.wait()
            return f"written {n}"

        @saga
        async def buy(ctx: SagaContext, n: int) -> str:
            paid = await ctx.do(pay, n)
            written = await ctx.do(write, n)
            return f"{paid}, {written}"

        self.buy = buy
        self.app = App(sagas=[buy], activities=[pay, write], concurrency={"mail": 1})


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=f"sqlite:///{tmp_path / 'a.db'}", broker=ADDRESS)


def consumed(broker: MemoryBroker) -> list[str]:
    """The queues that one process consumes."""
    return [consumer._queue for consumer in broker._consumers]


async def test_each_process_does_its_part(
    apart: BrokerApart, settings: Settings, shop: Shop
) -> None:
    shop.gate.set()
    async with (
        shop.app.run(settings, queues=()) as here,
        shop.app.work(settings, queues=["ledger"]) as ledger,
        shop.app.work(settings, queues=iter(["mail", "mail"])) as mail,
        shop.app.client(settings) as client,
    ):
        assert (ledger.queues, mail.queues) == (("ledger",), ("mail",))
        handles = [await client.start(shop.buy, n) for n in range(20)]
        for n, handle in enumerate(handles):
            assert await soon(handle.result()) == f"paid {n}, written {n}"
            assert await here.handle(shop.buy, handle.id).result() == f"paid {n}, written {n}"
        assert [consumed(broker) for broker in apart.opened] == [
            [inbox_queue(number) for number in range(8)], ["commands.ledger"], ["commands.mail"], [],
        ]  # fmt: skip


async def test_what_nobody_consumes_waits_until_somebody_comes(
    apart: BrokerApart, settings: Settings, shop: Shop
) -> None:
    shop.gate.set()
    async with shop.app.run(settings, queues=["ledger"]) as client:
        handle = await client.start(shop.buy, 1)
        while not (await depth_of(client.backend.broker, "commands.mail")).ready:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert shop.did == ["pay 1"]
        async with shop.app.work(settings) as worker:
            assert worker.queues == ("ledger", "mail")
            assert await soon(handle.result()) == "paid 1, written 1"


async def test_several_orchestrators_and_workers_share_the_work(
    apart: BrokerApart, settings: Settings, shop: Shop
) -> None:
    shop.gate.set()
    async with (
        shop.app.run(settings, queues=()) as client,
        shop.app.run(settings, queues=["mail"]),
        shop.app.work(settings),
        shop.app.work(settings),
    ):
        handles = [await client.submit(shop.buy, n) for n in range(50)]
        results = [await soon(handle.result()) for handle in handles]
    assert results == [f"paid {n}, written {n}" for n in range(50)]


async def test_a_worker_that_stops_finishes_what_runs_and_hands_back_the_rest(
    apart: BrokerApart, settings: Settings, shop: Shop
) -> None:
    async with shop.app.run(settings, queues=["ledger"]) as client:
        async with shop.app.work(settings, queues=["mail"]):
            handles = [await client.start(shop.buy, n) for n in range(3)]
            await soon(shop.writing.wait())
            asyncio.get_running_loop().call_soon(shop.gate.set)
        written = [what for what in shop.did if what.startswith("write")]
        assert len(written) == 1  # the bound of the queue
        async with shop.app.work(settings, queues=["mail"]):
            for n, handle in enumerate(handles):
                assert await soon(handle.result()) == f"paid {n}, written {n}"
    assert sorted(shop.did) == [f"{what} {n}" for what in ("pay", "write") for n in range(3)]


async def test_a_worker_tells_when_it_fails(
    apart: BrokerApart, settings: Settings, shop: Shop
) -> None:
    async with shop.app.work(settings) as worker:
        failing = asyncio.ensure_future(worker.failed())
        await asyncio.sleep(0)
        assert not failing.done()
        await apart.opened[0].close()
        with pytest.raises(BrokerClosed):
            await soon(failing)


@pytest.mark.virtual_time
async def test_retention_is_the_orchestrators(clock: VirtualClock, shop: Shop) -> None:
    shop.gate.set()
    settings = Settings(store="memory://", retention_days=1.0, calm_gc=False)

    def engine(backend: Backend, **part: Any) -> Engine:
        return Engine(shop.app, backend, settings, **part)

    async def ended_and_forgotten(backend: Backend, clock: Clock) -> bool:
        await clock.sleep_until(clock.now() + timedelta(days=3))
        return all(record.stream == REMOVALS for record in await backend.store.read_all())

    backend = memory_backend(clock)
    async with Client(shop.app, backend, settings) as client:
        async with engine(backend, queues=()), engine(backend, orchestrates=False):
            await (await client.start(shop.buy, 1)).result()
        async with engine(backend, orchestrates=False):
            assert not await ended_and_forgotten(backend, clock)
        async with engine(backend, queues=()):
            assert await ended_and_forgotten(backend, clock)


# --- what is refused, before anything is opened

Part = Callable[[App, Any], AbstractAsyncContextManager[object]]
PARTS: dict[str, Part] = {
    "run, nothing": lambda app, where: app.run(where, queues=()),
    "run, some": lambda app, where: app.run(where, queues=["ledger"]),
    "work": lambda app, where: app.work(where),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
async def test_the_embedded_broker_has_one_engine(part: Part, tmp_path: Path, shop: Shop) -> None:
    for where in (tmp_path / "a.db", "memory://"):
        with pytest.raises(UsageError, match=r"one engine.*app\.run\(\).*AMENDS_BROKER=amqp"):
            async with part(shop.app, where):
                pass
    assert is_empty(tmp_path)


@pytest.mark.parametrize("how", [App.run, App.work])
async def test_queues_that_there_are_not_are_named_with_those_there_are(
    how: Any, apart: BrokerApart, settings: Settings, shop: Shop, tmp_path: Path
) -> None:
    with pytest.raises(NotRegistered, match=r"'post', 'x'; there are: ledger, mail\."):
        async with how(shop.app, settings, queues=["post", "mail", "x"]):
            pass
    with pytest.raises(UsageError, match=r"write queues=\['mail'\]"):
        async with how(shop.app, settings, queues="mail"):
            pass
    assert apart.opened == []
    assert is_empty(tmp_path)


@pytest.mark.parametrize("queues", [None, ()])
async def test_a_worker_without_work_is_refused(
    queues: Any, apart: BrokerApart, settings: Settings
) -> None:
    with pytest.raises(UsageError, match="no activity queue to consume"):
        async with App().work(settings, queues=queues):
            pass
    assert apart.opened == []


def is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())

"""A server that has lost everything, as with its disk, while processes work on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from amends import App, SagaContext, Settings, Signal, activity, saga
from amends.client import Client
from amends.sagas.reconcile import reconcile
from amends.testing.contracts.data import soon
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import eventually

approved = Signal("approved", str)


class Shop:
    """An application whose activity may be held up."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.may_go_on = asyncio.Event()

        @activity
        async def pay(n: int) -> str:
            self.begun.append(n)
            await self.may_go_on.wait()
            return f"paid {n}"

        @saga
        async def buy(ctx: SagaContext, n: int) -> str:
            return await ctx.do(pay, n)

        @saga
        async def sleep(ctx: SagaContext, seconds: int) -> str:
            await asyncio.sleep(seconds)
            return "awake"

        @saga
        async def ask(ctx: SagaContext) -> str:
            return await ctx.receive(approved)

        self.buy, self.sleep, self.ask = buy, sleep, ask
        self.app = App(sagas=[buy, sleep, ask], activities=[pay])


@pytest.fixture
def settings(private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str, tmp_path: Path) -> Settings:
    return Settings(
        store=f"sqlite:///{tmp_path / 'a.db'}",
        broker=private_rabbitmq.url,
        broker_prefix=rabbit_prefix,
        partitions=2,
        calm_gc=False,
    )


def lose_everything(server: PrivateRabbitMQ) -> None:
    server.stop()
    server.start()


async def served(client: Client) -> bool:
    """Whether somebody consumes every queue."""
    depths = [depth for depth in await client.backend.broker.depths() if "." in depth.queue]
    return len(depths) == 3 and all(depth.consumers for depth in depths)


async def reconciled(client: Client) -> int:
    """How many messages were brought back."""
    backend = client.backend
    return (await reconcile(backend.store, backend.broker, partitions=2)).messages


async def test_what_the_journals_wait_for_is_brought_back(
    private_rabbitmq: PrivateRabbitMQ, settings: Settings
) -> None:
    shop = Shop()
    async with (
        shop.app.run(settings, queues=()) as client,
        shop.app.work(settings),
        shop.app.client(settings) as other,
    ):
        paying = await client.start(shop.buy, 1, id="p")
        sleeping = await client.start(shop.sleep, 5, id="s")
        await eventually(lambda: shop.begun)
        await asyncio.to_thread(lose_everything, private_rabbitmq)
        # Those who consume make anew what they need, though nobody publishes anything.
        await eventually(lambda: served(other), within_s=30)
        shop.may_go_on.set()
        await reconciled(other)
        assert await soon(paying.result()) == "paid 1"
        assert await soon(sleeping.result()) == "awake"


async def test_what_was_in_no_journal_yet_is_lost_and_sent_again(
    private_rabbitmq: PrivateRabbitMQ, settings: Settings
) -> None:
    shop = Shop()
    async with shop.app.run(settings, queues=()) as client:
        await client.start(shop.ask, id="a")
    async with shop.app.client(settings) as client:
        await client.submit(shop.buy, 1, id="p")
        await client.handle(shop.ask, "a").signal(approved, "by anna")
        await asyncio.to_thread(lose_everything, private_rabbitmq)
        shop.may_go_on.set()
        async with shop.app.run(settings), shop.app.client(settings) as again:
            assert await reconciled(again) == 0
            with pytest.raises(TimeoutError):
                await again.handle(shop.buy, "p").started(timeout=1)
            paid = await again.start(shop.buy, 1, id="p")
            assert await soon(paid.result()) == "paid 1"
            asked = again.handle(shop.ask, "a")
            assert not any(event.type == "SignalReceived" for event in await asked.journal())
            await asked.signal(approved, "by anna")
            assert await soon(asked.result()) == "by anna"

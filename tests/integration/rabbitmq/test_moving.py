"""Open sagas go on elsewhere: on another broker, or over another number of partitions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from amends import App, SagaContext, Settings, Signal, activity, saga
from amends.broker.topology import partition_of
from amends.client import Client
from amends.domain.ids import InstanceId
from amends.sagas.reconcile import reconcile
from amends.testing.contracts.data import soon
from tests.integration.rabbitmq.site import Plain, Site, eventually

#: Of timers: the one that is left behind is not due before the other process runs.
SLEEP_S = 4
approved = Signal("approved", str)


@activity
async def pay(n: int) -> str:
    return f"paid {n}"


@saga
async def sleep_and_pay(ctx: SagaContext, n: int) -> str:
    await asyncio.sleep(SLEEP_S)
    return await ctx.do(pay, n)


@saga
async def ask_and_pay(ctx: SagaContext, n: int) -> str:
    await ctx.receive(approved)
    return await ctx.do(pay, n)


APP = App(sagas=[sleep_and_pay, ask_and_pay], activities=[pay])
IDS = [str(n) for n in range(8)]


def settings(tmp_path: Path, site: Site, **other: object) -> Settings:
    return Settings(
        **{  # type: ignore[arg-type]
            "store": f"sqlite:///{tmp_path / 'a.db'}",
            "broker": site.url,
            "broker_prefix": site.prefix,
            "calm_gc": False,
            **other,
        }
    )


async def begun(before: Settings) -> None:
    """Sagas that wait: for a timer, and for somebody."""
    async with APP.run(before) as client:
        for id in IDS:
            await client.start(sleep_and_pay, 1, id=id)
            await client.start(ask_and_pay, 2, id=id)


async def ended(client: Client) -> None:
    """They all go on, and end."""
    for id in IDS:
        await client.handle(ask_and_pay, id).signal(approved, "by anna")
    for id in IDS:
        assert await soon(client.handle(ask_and_pay, id).result()) == "paid 2"
        assert await soon(client.handle(sleep_and_pay, id).result()) == "paid 1"


async def reconciled(after: Settings, client: Client) -> None:
    backend = client.backend
    await reconcile(backend.store, backend.broker, partitions=after.partitions)


@pytest.mark.parametrize("before", ["the embedded broker", "another prefix"])
async def test_reconcile_brings_them_to_another_broker(
    site: Site, tmp_path: Path, before: str
) -> None:
    other = {"broker_prefix": f"{site.prefix}-before"}
    if before == "the embedded broker":
        other = {"broker": "embedded"}
    after = settings(tmp_path, site)
    await begun(settings(tmp_path, site, **other))
    async with APP.run(after) as client:
        await reconciled(after, client)
        await ended(client)


async def test_more_partitions_take_over_what_fewer_had(
    site: Site, plain: Plain, tmp_path: Path
) -> None:
    await begun(settings(tmp_path, site, partitions=2))
    await plain.wire.exchange_delete(f"{site.prefix}.partitions")
    async with APP.run(settings(tmp_path, site, partitions=4)) as client:
        await ended(client)
        assert await client.backend.broker.dead_letters() == []


async def test_fewer_partitions_take_over_what_more_had(
    site: Site, plain: Plain, tmp_path: Path
) -> None:
    await begun(settings(tmp_path, site, partitions=4))
    await plain.wire.exchange_delete(f"{site.prefix}.partitions")
    for partition in (2, 3):
        assert await plain.count(f"inbox.{partition}") == 0
        await plain.delete(f"inbox.{partition}")
    after = settings(tmp_path, site, partitions=2)
    async with APP.run(after) as client:
        await reconciled(after, client)
        await ended(client)
        # The old timers find no inbox. They are copies of those that have come.
        old = sum(partition_of(InstanceId("sleep_and_pay", id), 4) > 1 for id in IDS)
        broker = client.backend.broker

        async def letters() -> list[str]:
            return [letter.detail for letter in await broker.dead_letters()]

        async def have_come() -> bool:
            return len(await letters()) == old

        await eventually(have_come)
        assert old > 0
        assert all("its queue was gone when it was due" in detail for detail in await letters())

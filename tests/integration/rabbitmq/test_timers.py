"""Timers fire when they are due, by the server's own delays. These few are timed for real."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from pydantic_core import from_json

from amends import App, SagaContext, Settings, saga
from amends.broker.rabbitmq.wire import Arrived, unpack
from amends.domain.ids import START
from amends.stores.port import EventFilter, EventStore

TIMERS = 1000
SHORTEST_S, LONGEST_S = 1.0, 30.0
SEED = 1


@saga
async def nap(ctx: SagaContext, seconds: float) -> None:
    await asyncio.sleep(seconds)


async def read(store: EventStore, *types: str) -> list[Any]:
    """All events of these types, as (stream, data, when it was recorded)."""
    events = await store.read_all(filter=EventFilter(types=types), limit=100_000)
    return [(event.stream, from_json(event.data), event.recorded_at) for event in events]


async def test_a_thousand_timers_fire_in_time_and_once(
    rabbitmq: str, rabbit_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second of due, each. How late the server delivers is told apart from how late the
    engine is, which shares its processors with whatever else runs here.
    """
    lateness: list[float] = []

    def noting(queue: str, raw: DeliveredMessage) -> list[Arrived]:
        arrived = unpack(queue, raw)
        dues = [message.due for message, _ in arrived if message.due is not None]
        lateness.extend(time.time() - due.timestamp() for due in dues)
        return arrived

    monkeypatch.setattr("amends.broker.rabbitmq.consumer.unpack", noting)
    settings = Settings(
        store=f"sqlite:///{tmp_path / 'timers.db'}",
        broker=rabbitmq,
        broker_prefix=rabbit_prefix,
        partitions=4,
    )
    random = Random(SEED)
    delays = [random.uniform(SHORTEST_S, LONGEST_S) for _ in range(TIMERS)]
    async with App(sagas=[nap]).run(settings) as client:
        ended = client.backend.store.subscribe(START, filter=EventFilter(types=("SagaCompleted",)))
        for first in range(0, TIMERS, 100):
            await asyncio.gather(
                *(client.submit(nap, delay, id=f"{first + n}")
                  for n, delay in enumerate(delays[first : first + 100]))
            )  # fmt: skip
        async with asyncio.timeout(LONGEST_S + 20):
            for _ in range(TIMERS):
                await anext(ended)
        store = client.backend.store
        due = {stream: data["due"] for stream, data, _ in await read(store, "TimerStarted")}
        fired = await read(store, "TimerFired")
    assert sorted(stream for stream, _, _ in fired) == sorted(due)
    assert len(due) == TIMERS
    recorded = [
        (at - datetime.fromisoformat(due[stream])).total_seconds() for stream, _, at in fired
    ]
    told = shown("delivered", lateness) + shown("on record", recorded)
    print(told)  # noqa: T201
    assert min(lateness) > -0.01, told
    assert max(lateness) < 1, told
    assert max(recorded) < 1, told


def shown(what: str, seconds: list[float]) -> str:
    """How late they were."""
    cuts = quantiles(seconds, n=100)
    return (
        f"{what}: {len(seconds)} timers, late by {min(seconds):.3f} to {max(seconds):.3f} s, "
        f"median {cuts[49]:.3f} s, 99 of 100 by at most {cuts[98]:.3f} s (seed {SEED})\n"
    )

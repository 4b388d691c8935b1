"""What a timer that is not due costs RabbitMQ, in memory and on disk.

    python -m benchmarks.rabbitmq_timers [COUNT]

Starts a server, parks so many timers of a year (100,000), and prints a JSON object: how many were
parked and confirmed in a second, and what each added to the server's memory and to its folder. Then
it kills the server, and says how long it takes until all are there again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from amends.broker.mail import message_id, to_inbox
from amends.broker.port import Message
from amends.broker.rabbitmq import BrokerAddress, RabbitBroker
from amends.broker.topology import inbox_queue
from amends.domain.clock import SystemClock
from amends.domain.ids import InstanceId
from amends.domain.messages import FireTimer
from amends.domain.unique import new_id
from amends.testing.rabbitmq import PrivateRabbitMQ
from benchmarks.measure import check, quiet

PARTITIONS: Final = 8
#: Published, and waited for, together.
BATCH: Final = 1_000
#: For what the server writes and frees after it has confirmed.
SETTLING_S: Final = 5
RESTART_S: Final = 300


class Size(NamedTuple):
    """Of a server, in bytes."""

    memory: int
    disk: int


def size_of(server: PrivateRabbitMQ, folder: Path) -> Size:
    files = (file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Size(psutil.Process(server.pid).memory_info().rss, sum(files))


def timers(count: int, due: datetime) -> Iterator[Message]:
    """As sagas have them, each of an instance of its own."""
    for number in range(count):
        instance = InstanceId("transfer_money", f"payment-{number:012}")
        id = str(new_id())
        yield to_inbox(
            FireTimer(saga=instance.saga, id=instance.id, seq=1),
            message_id(instance, "timer", 1),
            partitions=PARTITIONS,
            correlation_id=id,
            causation_id=id,
            due=due,
        )


async def measure(server: PrivateRabbitMQ, folder: Path, count: int) -> dict[str, Any]:
    clock = SystemClock()
    broker = await RabbitBroker.open(
        BrokerAddress.parse(server.url), "bench", clock, partitions=PARTITIONS, publish_timeout_s=60
    )
    await broker.set_up([])
    await broker.declare([inbox_queue(number) for number in range(PARTITIONS)])
    before = size_of(server, folder)
    parked = list(timers(count, clock.now() + timedelta(days=365)))
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        await broker.publish(parked[start : start + BATCH])
    took_s = time.perf_counter() - began
    await asyncio.sleep(SETTLING_S)
    after = size_of(server, folder)
    began = time.perf_counter()
    await asyncio.to_thread(server.restart)
    await until_there(broker, count)
    back_s = time.perf_counter() - began
    await broker.close()
    return {
        "n": count,
        "server": server.eval("rabbit_data_coercion:to_list(rabbit_misc:version())").strip('"'),
        "parked_per_s": round(count / took_s),
        "memory_bytes_per_timer": round((after.memory - before.memory) / count),
        "disk_bytes_per_timer": round((after.disk - before.disk) / count),
        "restarted_s": round(back_s, 1),
    }


async def until_there(broker: RabbitBroker, count: int) -> None:
    """Wait until all are counted again: queues count nothing while they are read back."""
    found = 0
    for _ in range(RESTART_S):
        found = sum(depth.delayed for depth in await broker.depths())
        if found >= count:
            break
        await asyncio.sleep(1)
    check(found == count, "not all timers are there after the restart", parked=count, found=found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print what came out."""
    quiet()
    parser = argparse.ArgumentParser()
    parser.add_argument("count", nargs="?", type=int, default=100_000)
    count = parser.parse_args(arguments).count
    with tempfile.TemporaryDirectory() as folder, PrivateRabbitMQ(where=Path(folder)) as server:
        row = asyncio.run(measure(server, Path(folder), count))
    print(json.dumps(row))


if __name__ == "__main__":
    main()

"""The embedded file alone, without the saga runtime: events, messages and turns per second.

    python -m benchmarks.raw_store [--repeats 3] [--folder DIRECTORY] [workload ...]

Prints one JSON object per workload: the median of the repeats for what is per second, CPU seconds
(of all threads) per 100,000 units, and latencies in milliseconds. The disk decides much of it: the
first line says how long a synchronised write of 4 KiB takes in the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from amends.broker.commit import TurnCommit
from amends.broker.embedded import EmbeddedBroker
from amends.broker.port import Delivery, Message
from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.ids import ExpectedVersion, StreamName
from amends.stores.port import Append
from amends.stores.sqlite import SqliteDatabase, SqliteStore

CAUSE = "0190a0b0-1111-7000-8000-123456789abc"
DATA = b'{"input":"%s"}' % (b"x" * 200)
METADATA = encode_metadata(correlation_id="transfer/abc-123456", causation_id=CAUSE)
INBOX, COMMANDS = "inbox.0", "commands.ledger"


class Result(NamedTuple):
    units: int
    seconds: float
    cpu_s: float
    latencies_ms: list[float]


Workload = Callable[[SqliteDatabase], Awaitable[Result]]


def new_id() -> UUID:
    # Not uuid4: the operating system's entropy takes longer than an append.
    return UUID(int=random.getrandbits(128))


def events(count: int) -> list[NewEvent]:
    return [NewEvent(new_id(), "StepScheduled", DATA, METADATA) for _ in range(count)]


def message(queue: str) -> Message:
    return Message(new_id(), queue, "RunStep", "transfer/abc", DATA, "transfer/abc", CAUSE)


class Stopwatch:
    def __init__(self) -> None:
        self._cpu_s, self._at = time.process_time(), time.perf_counter()

    def result(self, units: int, latencies_ms: list[float] | None = None) -> Result:
        seconds = time.perf_counter() - self._at
        return Result(units, seconds, time.process_time() - self._cpu_s, latencies_ms or [])


def appends(callers: int, size: int, total: int, *, busy: bool = False) -> Workload:
    """So many callers, each appending `size` events to a stream of its own, again and again."""

    async def run(database: SqliteDatabase) -> Result:
        store = SqliteStore(database)
        rounds = total // callers // size
        work = [[events(size) for _ in range(rounds)] for _ in range(callers)]
        latencies_ms: list[float] = []

        async def caller(number: int) -> None:
            stream = StreamName.of("raw", str(number))
            for n, batch in enumerate(work[number]):
                began = time.perf_counter()
                await store.append(Append(stream, batch, ExpectedVersion(n * size - 1)))
                latencies_ms.append((time.perf_counter() - began) * 1000)

        with spinning() if busy else nothing():
            watch = Stopwatch()
            await asyncio.gather(*map(caller, range(callers)))
            return watch.result(callers * rounds * size, latencies_ms)

    return run


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def spinning() -> Iterator[None]:
    """A thread beside that never gives up the interpreter lock by itself, as a busy loop does."""
    stop = False

    def spin() -> None:
        while not stop:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop = True
        thread.join()


async def messages(database: SqliteDatabase) -> Result:
    """Published one by one by 500 callers, received, acknowledged in hundreds."""
    broker = EmbeddedBroker(database)
    await broker.declare([INBOX])
    consumer = broker.consume(INBOX, limit=2000)
    total = 50_000
    sent = [message(INBOX) for _ in range(total)]

    async def consume() -> None:
        left = total
        while left:
            deliveries = await consumer.receive()
            left -= len(deliveries)
            for start in range(0, len(deliveries), 100):
                await broker.ack(deliveries[start : start + 100])

    async def publish(number: int) -> None:
        for one in sent[number::500]:
            await broker.publish([one])

    watch = Stopwatch()
    await asyncio.gather(consume(), *map(publish, range(500)))
    result = watch.result(total)
    await broker.close()
    return result


async def round_trip(database: SqliteDatabase) -> Result:
    """One message at a time: published, received, acknowledged."""
    broker = EmbeddedBroker(database)
    await broker.declare([INBOX])
    consumer = broker.consume(INBOX, limit=10)
    latencies_ms: list[float] = []
    watch = Stopwatch()
    for _ in range(2000):
        began = time.perf_counter()
        await broker.publish([message(INBOX)])
        await broker.ack(await consumer.receive())
        latencies_ms.append((time.perf_counter() - began) * 1000)
    result = watch.result(2000, latencies_ms)
    await broker.close()
    return result


def turns(instances: int) -> Workload:
    """Turns as the orchestrator commits them, without sagas: so many instances side by side, each
    with a reply in, three events and a command out, and an activity that replies at once.
    """

    async def run(database: SqliteDatabase) -> Result:
        broker = EmbeddedBroker(database)
        await broker.declare([INBOX, COMMANDS])
        inbox = broker.consume(INBOX, limit=instances)
        commands = broker.consume(COMMANDS, limit=instances)
        total = 30_000 if instances > 1 else 1000
        versions: dict[str, int] = {}
        taken = 0

        async def turn(delivery: Delivery) -> None:
            key = delivery.message.key
            version = versions.get(key, -1)
            versions[key] = version + 3
            append = Append(StreamName.of("saga.raw", key), events(3), ExpectedVersion(version))
            publish = [message(COMMANDS)._replace(key=key)]
            await broker.commit([TurnCommit(append, publish, [delivery])])

        async def orchestrate() -> None:
            nonlocal taken
            working: set[asyncio.Task[None]] = set()
            while taken < total:
                for delivery in await inbox.receive():
                    taken += 1
                    task = asyncio.create_task(turn(delivery))
                    working.add(task)
                    task.add_done_callback(working.discard)
            await asyncio.gather(*working)

        async def work() -> None:
            while deliveries := await commands.receive():
                for delivery in deliveries:
                    reply = message(INBOX)._replace(key=delivery.message.key)
                    await broker.reply(delivery, reply)

        await broker.publish([message(INBOX)._replace(key=str(n)) for n in range(instances)])
        working = asyncio.ensure_future(work())
        watch = Stopwatch()
        await orchestrate()
        result = watch.result(taken)
        await broker.close()
        await working
        return result

    return run


async def backlog(database: SqliteDatabase) -> Result:
    """200,000 messages that wait in the file, then pass through a consumer of 500."""
    broker = EmbeddedBroker(database)
    await broker.declare([INBOX])
    total = 200_000
    for _ in range(total // 5000):
        await broker.publish([message(INBOX) for _ in range(5000)])
    consumer = broker.consume(INBOX, limit=500)
    watch = Stopwatch()
    left = total
    while left:
        deliveries = await consumer.receive()
        left -= len(deliveries)
        await broker.ack(deliveries)
    result = watch.result(total)
    await broker.close()
    return result


WORKLOADS: dict[str, Workload] = {
    "append_lone": appends(1, 1, 2000),
    "append_100_by_1_caller": appends(1, 100, 100_000),
    "append_100_by_10_callers": appends(10, 100, 200_000),
    "append_1_by_100_callers": appends(100, 1, 50_000),
    "append_3_by_100_callers": appends(100, 3, 100_000),
    "append_1_by_1000_callers": appends(1000, 1, 100_000),
    "append_3_by_100_callers_beside_a_busy_thread": appends(100, 3, 15_000, busy=True),
    "messages": messages,
    "message_round_trip": round_trip,
    "turns_1_instance": turns(1),
    "turns_200_instances": turns(200),
    "turns_1000_instances": turns(1000),
    "backlog": backlog,
}


def fsync_ms(folder: Path) -> float:
    times: list[float] = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def measure(workload: Workload, folder: Path) -> Result:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        async with await SqliteDatabase.open(Path(place) / "raw.db") as database:
            return await workload(database)


def summary(name: str, results: list[Result]) -> dict[str, Any]:
    latencies_ms = sorted(latency for result in results for latency in result.latencies_ms)
    line: dict[str, Any] = {
        "workload": name,
        "per_s": round(statistics.median(result.units / result.seconds for result in results)),
        "per_s_best": round(max(result.units / result.seconds for result in results)),
        "cpu_s_per_100k": round(
            statistics.median(result.cpu_s / result.units * 100_000 for result in results), 2
        ),
    }
    if latencies_ms:
        line["p50_ms"] = round(latencies_ms[len(latencies_ms) // 2], 3)
        line["p99_ms"] = round(latencies_ms[len(latencies_ms) * 99 // 100], 3)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("workloads", nargs="*", help=", ".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    print(json.dumps({"fsync_ms": round(fsync_ms(options.folder), 3), "cores": os.cpu_count()}))
    for name in options.workloads or WORKLOADS:
        results = [
            asyncio.run(measure(WORKLOADS[name], options.folder)) for _ in range(options.repeats)
        ]
        print(json.dumps(summary(name, results)), flush=True)


if __name__ == "__main__":
    main()

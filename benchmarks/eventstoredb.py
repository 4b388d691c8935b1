"""The store on EventStoreDB alone, beside the bare client: CPU seconds of this process.

    python -m benchmarks.eventstoredb [--repeats 5] [--scale 1] [--uri esdb://…]

Without an address it runs against the protocol double of the tests, as a process of its own. That is
a stand-in in Python: what it takes itself, and how long one waits for it, says nothing about a server.
So only the CPU of this process is compared, in rounds that take turns; the other program on the
machine still shows in it, and the best round is the one that it disturbed least.

Prints one JSON object for each measure: the median and the best of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.ids import NO_STREAM, START, ExpectedVersion, Position, StreamName
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.port import Append, EventFilter
from tests.esdb import clients
from tests.esdb.process import DoubleProcess

DATA: Final = b'{"input":"%s"}' % (b"x" * 200)
METADATA: Final = encode_metadata(correlation_id="transfer/abc-123456", causation_id=str(uuid4()))
TYPE: Final = "StepScheduled"
EVENTS: Final = 3

#: How many were done, and what is measured: CPU seconds of this process.
Measure = Callable[[], Awaitable[int]]


def new_id() -> UUID:
    # Not uuid4: the operating system's entropy takes longer than the rest.
    return UUID(int=random.getrandbits(128))


def events() -> list[NewEvent]:
    return [NewEvent(new_id(), TYPE, DATA, METADATA) for _ in range(EVENTS)]


class Bench:
    """Ours and theirs on one server."""

    def __init__(self, store: EventStoreDb, client: Any, scale: float) -> None:
        self.store = store
        self.client = client
        self.appends = max(1, int(2000 * scale))
        self.read = max(10, int(20_000 * scale))
        self.category = f"bench{uuid4().hex}"
        self.after: Position = START

    async def prepare(self) -> None:
        """What is read later: journals of 20 events."""
        self.after = await self.store.end()
        for n in range(0, self.read, 20):
            stream = StreamName.of(self.category, str(n))
            batch = [NewEvent(new_id(), TYPE, DATA, METADATA) for _ in range(20)]
            await self.store.append(Append(stream, batch, NO_STREAM))

    # --- appending

    async def _append(self, writers: int, write: Callable[[str, int], Awaitable[Any]]) -> int:
        each = -(-self.appends // writers)

        async def one() -> None:
            name = f"{self.category}w-{uuid4().hex}"
            for n in range(each):
                await write(name, n * EVENTS - 1)

        await asyncio.gather(*(one() for _ in range(writers)))
        return each * writers

    async def ours_one(self) -> int:
        return await self._append(1, self._write)

    async def ours_many(self) -> int:
        return await self._append(64, self._write)

    async def theirs_one(self) -> int:
        return await self._append(1, self._write_bare)

    async def theirs_many(self) -> int:
        return await self._append(64, self._write_bare)

    async def _write(self, name: str, version: int) -> None:
        append = Append(StreamName(name), events(), ExpectedVersion(version))
        assert (await self.store.append(append)).version == version + EVENTS

    async def _write_bare(self, name: str, version: int) -> None:
        state = clients.StreamState.NO_STREAM if version < 0 else version
        new = [
            clients.NewEvent(type=TYPE, data=DATA, metadata=METADATA, id=new_id())
            for _ in range(EVENTS)
        ]
        await self.client.append_to_stream(name, current_version=state, events=new, timeout=10)

    # --- reading

    async def ours_follow(self) -> int:
        async with aclosing(
            self.store.subscribe(self.after, filter=EventFilter((f"{self.category}-",)))  # type: ignore[type-var]
        ) as subscription:
            return await self._count(subscription)

    async def theirs_follow(self) -> int:
        subscription = await self.client.subscribe_to_all(
            commit_position=None if self.after < 0 else self.after,
            filter_include=[f"{self.category}-.*"],
            filter_by_stream_name=True,
        )
        try:
            return await self._count(subscription)
        finally:
            await subscription.stop()

    async def _count(self, subscription: AsyncIterator[Any]) -> int:
        for _ in range(self.read):
            event = await anext(subscription)
            assert event.data == DATA
        return self.read

    async def ours_pages(self) -> int:
        after, count = self.after, 0
        filter = EventFilter((f"{self.category}-",))
        while page := await self.store.read_all(after, filter=filter):
            after, count = page[-1].position, count + len(page)
        assert count == self.read
        return count


async def measure(rounds: Sequence[tuple[str, Measure]], repeats: int) -> None:
    """Take turns, and say what each took."""
    took: dict[str, list[float]] = {name: [] for name, _ in rounds}
    for _ in range(repeats):
        for name, run in rounds:
            began = time.process_time()
            done = await run()
            took[name].append((time.process_time() - began) / done)
    for name, each in took.items():
        median_s, best_s = statistics.median(each), min(each)
        print(
            json.dumps(
                {
                    "measure": name,
                    "cpu_ms": round(median_s * 1e3, 4),
                    "best_cpu_ms": round(best_s * 1e3, 4),
                    "per_cpu_s": round(1 / median_s),
                    "best_per_cpu_s": round(1 / best_s),
                    "repeats": repeats,
                }
            ),
            flush=True,
        )


async def run(uri: str | None, *, scale: float, repeats: int) -> None:
    """All measures."""
    async with AsyncExitStack() as stack:
        if uri is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            uri = (await stack.enter_async_context(DoubleProcess(folder, keeps=False))).uri
        client = await stack.enter_async_context(clients.connected(uri))
        store = EventStoreDb(StoreAddress.parse(uri))
        stack.push_async_callback(store.close)
        bench = Bench(store, client, scale)
        await bench.prepare()
        await measure(
            [
                ("append of 3 events, one at a time", bench.ours_one),
                ("the same, bare client", bench.theirs_one),
                ("append of 3 events, 64 at once", bench.ours_many),
                ("the same at once, bare client", bench.theirs_many),
                ("event of a catch-up subscription to $all", bench.ours_follow),
                ("the same event, bare client", bench.theirs_follow),
                ("event of $all in pages of 1000", bench.ours_pages),
            ],
            repeats,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.eventstoredb")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--uri", help="a server instead of the double")
    chosen = parser.parse_args(arguments)
    asyncio.run(run(chosen.uri, scale=chosen.scale, repeats=chosen.repeats))


if __name__ == "__main__":
    main()

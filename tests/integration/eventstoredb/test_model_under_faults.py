"""Whatever is done through two stores, in whatever order, and whatever goes wrong meanwhile: the
server and the contract's model agree.

Drawn from a seed, as `AMENDS_SEED=3` runs one alone and `AMENDS_SEEDS=500` more of them. Who does not
hear what became of an append or of a removal asks again, as the port says that one may.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4

import pytest

from amends.domain.bell import Bell
from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import START, ExpectedVersion, StreamName
from amends.errors import AppendOutcomeUnknown, StoreUnavailable, WrongExpectedVersion
from amends.stores.eventstoredb import EventStoreDb
from amends.stores.port import Append, EventFilter, Removal
from amends.testing.contracts.store_model import Model, Operation
from amends.testing.simulation import seeds
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault
from tests.integration.eventstoredb.support import opened

T = TypeVar("T")

OPERATIONS = 60
#: Shorter than what stalls, and longer than everything else.
TIMEOUT_S = 0.4

CHANCES = {
    Call.APPEND: {
        Fault.DROP_BEFORE: 0.03,
        Fault.DROP_AFTER: 0.05,
        Fault.TIMEOUT_AFTER: 0.05,
        Fault.NOT_READY: 0.03,
        Fault.NEW_LEADER: 0.03,
        Fault.CUT: 0.01,
        Fault.LATE: 0.01,
        Fault.STALL_AFTER: 0.01,
    },
    Call.READ: {Fault.DROP_BEFORE: 0.05, Fault.NOT_READY: 0.03},
    Call.EVENT: {Fault.END: 0.05, Fault.TOO_SLOW: 0.05, Fault.CUT: 0.01},
}


def draw(rng: random.Random, model: Model) -> Operation:
    """An append or a removal that is often right, and often a repeat."""
    stream, first = rng.randrange(3), rng.randrange(7)
    last = len(model.streams[stream]) - 1
    expected = last if rng.random() < 0.7 else rng.randint(-1, 5)
    count = 0 if rng.random() < 0.15 else rng.randint(1, 3)
    return Operation(stream, list(range(first, first + count)), expected)


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except (StoreUnavailable, AppendOutcomeUnknown):
            continue


class Game:
    """One history of three streams, and what is known of it."""

    def __init__(self, stores: list[EventStoreDb], rng: random.Random) -> None:
        self.category = f"m{uuid4().hex}"
        self.streams = [StreamName.of(self.category, str(number)) for number in range(3)]
        self.model = Model()
        self.appended: Counter[tuple[str, int]] = Counter()
        self.seen: list[RecordedEvent] = []
        self._saw = Bell()
        self._stores = stores
        self._rng = rng

    @property
    def store(self) -> EventStoreDb:
        return self._rng.choice(self._stores)

    async def play(self) -> None:
        operation = draw(self._rng, self.model)
        if operation.ids:
            await self._append(operation)
        elif operation.expected >= 0:
            await self._remove(operation)
        if self._rng.random() < 0.3:
            await self.compare(self.store)

    async def _append(self, operation: Operation) -> None:
        stream = self.streams[operation.stream]
        events = [NewEvent(UUID(int=id), "E", b"{}", b"{}") for id in operation.ids]
        append = Append(stream, events, ExpectedVersion(operation.expected))
        known = len(self.model.log)
        wanted = self.model.append(operation)
        if wanted is not None:
            for _, id in self.model.log[known:]:
                self.appended[stream, id] += 1
            assert (await insist(lambda: self.store.append(append))).version == wanted
            return
        with pytest.raises(WrongExpectedVersion) as caught:
            await insist(lambda: self.store.append(append))
        assert caught.value.actual == len(self.model.streams[operation.stream]) - 1

    async def _remove(self, operation: Operation) -> None:
        """Of a repeat, the first try may have removed it."""
        removal = Removal(self.streams[operation.stream], operation.expected)
        is_wanted = self.model.remove(operation)
        removed = await insist(lambda: self.store.remove([removal]))
        assert not removed or is_wanted

    async def compare(self, store: EventStoreDb) -> None:
        for stream, ids in zip(self.streams, self.model.streams, strict=True):
            found = await insist(partial(store.read, stream))
            assert [event.id.int for event in found] == ids
            assert [event.version for event in found] == list(range(len(ids)))
            back = await insist(partial(store.read_backwards, stream))
            assert back == found[::-1]

    async def follow(self, store: EventStoreDb) -> None:
        async for record in store.subscribe(START, filter=EventFilter((self.category,))):
            self.seen.append(record)
            self._saw.ring()

    async def judge_subscription(self) -> None:
        """It had what stands, in order and once, and besides only what was removed since."""
        store = self._stores[0]
        standing = [
            event for stream in self.streams for event in await insist(partial(store.read, stream))
        ]
        end = max((event.position for event in standing), default=START)
        async with asyncio.timeout(10):
            while (self.seen[-1].position if self.seen else START) < end:
                await self._saw.wait()
        positions = [event.position for event in self.seen]
        assert positions == sorted(set(positions))
        assert {event.position for event in standing} <= set(positions)
        assert Counter((event.stream, event.id.int) for event in self.seen) <= self.appended


@pytest.mark.parametrize("seed", seeds(12))
async def test_the_server_and_the_model_agree_whatever_goes_wrong(seed: int) -> None:
    rng = random.Random(f"model {seed}")
    async with (
        ProtocolDouble.running() as first,
        ProtocolDouble.running(beside=first) as second,
        opened(first.cluster_uri, timeout_s=TIMEOUT_S) as one,
        opened(first.cluster_uri, timeout_s=TIMEOUT_S) as other,
    ):
        for number, node in enumerate((first, second)):
            node.faults.late_after_s = 1.5 * TIMEOUT_S
            node.faults.by_chance(2 * seed + number, CHANCES)
        game = Game([one, other], rng)
        following = asyncio.create_task(game.follow(other))
        for _ in range(OPERATIONS):
            await game.play()
            if rng.random() < 0.05:
                first.log.scavenge()
        for store in (one, other):
            await game.compare(store)
        await game.judge_subscription()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

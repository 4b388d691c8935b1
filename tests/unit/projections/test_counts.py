"""Counting by one pass says what all the summaries say together."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

import pytest

from amends.domain import events as e
from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.ids import NO_STREAM, InstanceId, StreamName
from amends.domain.status import Status
from amends.projections.counts import count_states
from amends.projections.sagas import newest_first
from amends.stores.memory import MemoryStore
from amends.stores.port import Append
from amends.testing.clock import EPOCH, VirtualClock

ERROR = e.ErrorInfo(type="Broken", message="the bank is gone")
METADATA = encode_metadata(correlation_id="c", causation_id="c", schema_version=1)

STARTED = e.SagaStarted(at=EPOCH, saga="pay", id="x", input=None)
SCHEDULED = e.StepScheduled(seq=1, activity="a", queue="q", input=None)
UNKNOWN = e.StepUnknown(at=EPOCH, seq=1, error=ERROR, then=e.AfterUnknown.PARK)
SKIPPED = e.StepResolved(at=EPOCH, seq=1, resolution=e.Resolution.SKIP, who="ann", why="ok")
COMPENSATING = e.CompensationStarted(seq=0, reason="failed", error=ERROR)
COMPLETED = e.SagaCompleted(seq=0, result=None)

#: Every way to stand somewhere that differs in what the pass sees of it.
JOURNALS: dict[str, list[e.JournalEvent]] = {
    "just begun": [STARTED],
    "waiting": [STARTED, e.TimerStarted(seq=1, due=EPOCH)],
    "completed": [STARTED, COMPLETED],
    "parked": [STARTED, SCHEDULED, UNKNOWN],
    "helped": [STARTED, SCHEDULED, UNKNOWN, SKIPPED],
    "helped and completed": [STARTED, SCHEDULED, UNKNOWN, SKIPPED, COMPLETED],
    "compensating": [STARTED, COMPENSATING],
    "compensated": [STARTED, COMPENSATING, e.SagaCompensated(seq=0, error=ERROR)],
    "failed": [STARTED, COMPENSATING, e.SagaFailed(seq=0, error=ERROR)],
    "cancelled": [STARTED, COMPENSATING, e.SagaCancelled(seq=0, undone=1)],
    "terminated": [STARTED, e.SagaTerminated(at=EPOCH, who="ann", why="ok")],
    "stalled": [STARTED, e.SagaStalled(at=EPOCH, error=ERROR)],
    "resumed": [STARTED, e.SagaStalled(at=EPOCH, error=ERROR), e.SagaResumed(at=EPOCH)],
    "stalled after its end": [STARTED, COMPLETED, e.SagaStalled(at=EPOCH, error=ERROR)],
}


async def put(store: MemoryStore, stream: StreamName, events: Sequence[e.JournalEvent]) -> None:
    encoded = [
        NewEvent(uuid4(), type(event).__name__, event.model_dump_json().encode(), METADATA)
        for event in events
    ]
    await store.append(Append(stream, encoded, NO_STREAM))


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", JOURNALS)
async def test_one_instance_is_counted_where_it_is(clock: VirtualClock, kind: str) -> None:
    store = MemoryStore(clock)
    instance = InstanceId("pay", kind)
    await put(store, instance.stream, JOURNALS[kind])
    [summary] = [each async for each in newest_first(store)]
    assert await count_states(store) == {("pay", summary.state): 1}


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(3))
async def test_many_are_counted_like_their_summaries(clock: VirtualClock, seed: int) -> None:
    store = MemoryStore(clock)
    rng = random.Random(seed)
    for number in range(200):
        instance = InstanceId(rng.choice(["pay", "ship"]), str(number))
        await put(store, instance.stream, rng.choice(list(JOURNALS.values())))
    await put(store, StreamName.of("account", "1"), [COMPLETED])
    summaries = [summary async for summary in newest_first(store)]
    wanted = Counter((each.instance.saga, each.state) for each in summaries)
    assert await count_states(store) == wanted
    assert wanted.total() == 200


@pytest.mark.virtual_time
async def test_trouble_that_cannot_be_read_is_counted_as_such(clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    await put(store, InstanceId("pay", "good").stream, [STARTED])
    stream = InstanceId("pay", "bad").stream
    events = [("SagaStarted", STARTED.model_dump_json().encode()), ("StepParked", b"not json")]
    encoded = [NewEvent(uuid4(), type, data, METADATA) for type, data in events]
    await store.append(Append(stream, encoded, NO_STREAM))
    assert await count_states(store) == {("pay", Status.RUNNING): 1, ("pay", None): 1}

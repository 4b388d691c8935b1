"""Journals that no engine can have written: named errors, messages put aside, nothing run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from amends import App, InstanceId, Saga, SagaContext, Status, saga
from amends.domain import events as e
from amends.domain.envelope import NewEvent, RecordedEvent, encode_metadata
from amends.domain.ids import ANY, Position
from amends.errors import (
    DecodeError,
    InvalidJournal,
    UnknownEventType,
    UnknownSchemaVersion,
)
from amends.sagas import journal
from amends.sagas.replay import fold
from amends.stores.port import Append
from amends.testing.clock import EPOCH
from amends.testing.harness import Harness
from tests.integration.sagas.support import Order, Receipt, World, app_of

INSTANCE = InstanceId("it", "x")


def sleeper(world: World) -> tuple[Saga[Order, Receipt], App]:
    """A step, a pause of a year, and another step."""
    a, b = world.activity("a"), world.activity("b")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        await ctx.do(a, order)
        await asyncio.sleep(365 * 86400)
        return await ctx.do(b, order)

    return it, app_of(it, activities=[a, b])


async def half_a_journal() -> list[RecordedEvent]:
    """Started, scheduled, completed, timer."""
    world = World()
    it, app = sleeper(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(n=1), id="x")
        await harness.settle()
        return await handle.journal()


def typed(record: RecordedEvent, **changes: Any) -> RecordedEvent:
    return record._replace(**changes)


def renumbered(records: list[RecordedEvent]) -> list[RecordedEvent]:
    return [record._replace(version=number) for number, record in enumerate(records)]


def without(index: int) -> Callable[[list[RecordedEvent]], list[RecordedEvent]]:
    return lambda records: [r for r in records if r.version != index]


NEWER = encode_metadata(correlation_id="c", causation_id="c", schema_version=10)

SPOILED: dict[str, tuple[Callable[[list[RecordedEvent]], list[RecordedEvent]], Any, str]] = {
    "its beginning is missing": (
        lambda records: records[1:], InvalidJournal, "version 1 where 0 must stand",
    ),
    "its beginning is missing, and nobody can see it in the numbers": (
        lambda records: renumbered(records[1:]), InvalidJournal, "begins with StepScheduled",
    ),
    "one is missing": (without(1), InvalidJournal, "version 2 where 1 must stand"),
    "one is missing, and nobody can see it in the numbers": (
        lambda records: renumbered(without(1)(records)), InvalidJournal, "a report on step 1",
    ),
    "one is doubled": (
        lambda records: [*records[:2], *records[1:]], InvalidJournal, "version 1 where 2",
    ),
    "one is doubled, and nobody can see it in the numbers": (
        lambda records: renumbered([*records[:2], *records[1:]]),
        InvalidJournal, "schedules step 1 twice",
    ),
    "two have changed places": (
        lambda records: [records[0], records[2], records[1], *records[3:]],
        InvalidJournal, "version 2 where 1",
    ),
    "it begins twice": (
        lambda records: renumbered([records[0], *records]), InvalidJournal, "SagaStarted twice",
    ),
    "time goes back": (
        lambda records: [
            *records[:2],
            typed(records[2], data=records[2].data.replace(b"2026", b"2025")),
            *records[3:],
        ],
        InvalidJournal, "goes back in time",
    ),
    "a type that nobody knows": (
        lambda records: [*records[:3], typed(records[3], type="TimerPaused")],
        UnknownEventType, "TimerPaused",
    ),
    "a newer schema": (
        lambda records: [*records[:3], typed(records[3], metadata=NEWER)],
        UnknownSchemaVersion, "deploy the version that wrote it",
    ),
    "fields that nobody knows": (
        lambda records: [*records[:3], typed(records[3], data=b'{"seq":2,"due":"x"}')],
        DecodeError, "due: datetime",
    ),
    "no JSON": (
        lambda records: [*records[:3], typed(records[3], data=b"{")], DecodeError, "cannot be read",
    ),
    "metadata that is no JSON": (
        lambda records: [*records[:3], typed(records[3], metadata=b"{")], DecodeError, "not JSON",
    ),
}  # fmt: skip


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", SPOILED)
async def test_each_has_an_error_that_says_what_is_wrong(how: str) -> None:
    spoil, error, says = SPOILED[how]
    records = spoil(await half_a_journal())
    with pytest.raises(error, match=says):
        fold(INSTANCE, records)


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", SPOILED)
async def test_messages_for_it_are_put_aside_and_nothing_runs(how: str) -> None:
    spoil, _, says = SPOILED[how]
    world = World()
    it, app = sleeper(world)
    async with Harness(app) as harness:
        records = spoil(await half_a_journal())
        await put(harness, records)
        stored = await harness.client.backend.store.read(INSTANCE.stream)
        await harness.client.submit(it, Order(n=1), id="x")
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert letter.reason == "unreadable journal"
        if [record.version for record in records] == list(range(len(records))):
            assert says in letter.detail
        assert await harness.client.backend.store.read(INSTANCE.stream) == stored
        assert world.did == []
        # The rest goes on.
        await harness.run(it, Order(n=2), id="other")


async def put(harness: Harness, records: list[RecordedEvent]) -> None:
    """Into the store, which numbers them as it likes: gaps come from a store that is broken."""
    store = harness.client.backend.store
    events = [NewEvent(uuid4(), r.type, r.data, r.metadata) for r in records]
    await store.append(Append(INSTANCE.stream, events, ANY))
    stream = store._log.streams[INSTANCE.stream]  # type: ignore[attr-defined]
    for index, record in enumerate(records):
        stream[index] = stream[index]._replace(version=record.version)


@pytest.mark.virtual_time
async def test_a_client_is_told_the_same() -> None:
    it, app = sleeper(World())
    async with Harness(app) as harness:
        await put(harness, renumbered((await half_a_journal())[1:]))
        handle = harness.client.handle(it, "x")
        with pytest.raises(InvalidJournal, match="its beginning is missing"):
            await handle.status()


@pytest.mark.virtual_time
async def test_an_event_of_the_users_own_with_no_number_is_not_taken_for_one() -> None:
    records = await half_a_journal()
    foreign = typed(
        records[3],
        type="Paid",
        data=b"{}",
        metadata=encode_metadata(correlation_id="c", causation_id="c"),
    )
    with pytest.raises(UnknownEventType):
        journal.decode(foreign)


@pytest.mark.virtual_time
async def test_a_dead_letter_of_a_journal_that_was_restored_can_be_redriven() -> None:
    world = World()
    it, app = sleeper(world)
    async with Harness(app) as harness:
        good = await half_a_journal()
        await put(harness, [good[0], good[2], good[1], good[3]])
        await harness.client.submit(it, Order(n=1), id="x")
        await harness.settle()
        [letter] = await harness.dead_letters()
        stream = harness.client.backend.store._log.streams  # type: ignore[attr-defined]
        stream[INSTANCE.stream] = good
        await harness.client.backend.broker.redrive([letter.message.id])
        handle = harness.client.handle(it, "x")
        await harness.settle()
        assert await handle.status() == Status.RUNNING
        assert await harness.dead_letters() == []


def test_every_journal_event_survives_its_way_into_a_store_and_back() -> None:
    at = EPOCH
    error = e.ErrorInfo(type="Refused", message="no", declared=True)
    samples: list[e.JournalEvent] = [
        e.SagaStarted(at=at, saga="s", id="1", input={"n": [1, None, "x"]}, deadline=at),
        e.StepScheduled(seq=1, activity="a", queue="q", input=3, undo="u", pivot=True),
        e.StepScheduled(seq=2, activity="u", queue="q", kind=e.StepKind.UNDO, of=1),
        e.StepCompleted(at=at, seq=1, attempt=2, result={"a": 1.5}),
        e.StepAttemptFailed(
            at=at, seq=1, attempt=1, outcome=e.AttemptOutcome.TIMED_OUT, error=error, retry_at=at
        ),
        e.StepRetried(at=at, seq=1, attempt=2),
        e.StepFailed(at=at, seq=1, error=error),
        e.StepUnknown(at=at, seq=1, error=error, then=e.AfterUnknown.PROBE),
        e.StepParked(at=at, seq=1, error=error),
        e.StepResolved(at=at, seq=1, resolution=e.Resolution.SKIP, who="w", why="y"),
        e.StepReportedLate(at=at, seq=1, attempt=1, completed=True, result=[1]),
        e.StepAbandoned(seq=1),
        e.TimerStarted(seq=1, due=at),
        e.TimerCancelled(seq=1),
        e.TimerFired(at=at, seq=0),
        e.SignalReceived(at=at, name="n", payload={"k": "v"}),
        e.CancelRequested(at=at, who="w", why="y"),
        e.SagaTerminated(at=at, who="w", why="y"),
        e.DomainEventEmitted(seq=3, type="Paid", schema_version=2, data={"cents": 1}),
        e.CompensationStarted(seq=0, reason="deadline", error=error),
        e.SagaCompleted(seq=0, result={"text": "t"}),
        e.SagaCompensated(seq=0, error=error),
        e.SagaFailed(seq=0, error=error),
        e.SagaCancelled(seq=0, undone=3),
        e.SagaStalled(at=at, error=error.model_copy(update={"traceback": "…"})),
        e.SagaResumed(at=at),
        e.TurnSplit(at=at),
    ]
    assert {type(event) for event in samples} == {*e.JOURNAL_EVENTS, e.DomainEventEmitted}
    ids = [UUID(int=number) for number in range(len(samples))]
    encoded = journal.encode_turn(
        samples,
        map(journal.encode_data, samples),
        ids,
        correlation_id="c",
        causation_id="x",
        trace_parent="t",
    )
    for event, new in zip(samples, encoded, strict=True):
        record = RecordedEvent(
            INSTANCE.stream, 0, Position(0), new.id, new.type, new.data, new.metadata, at
        )
        assert journal.decode(record) == event

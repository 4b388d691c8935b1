"""Retention: which journals go, which stay, and what may still come for those that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from amends import App, Handle, SagaContext, Settings, Signal, saga
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import ANY, NO_STREAM, ExpectedVersion, InstanceId, Position, StreamName
from amends.domain.removals import REMOVALS, RemovalDecided, RemovedStream
from amends.errors import InstanceNotFound, StoreUnavailable
from amends.sagas import journal, retention
from amends.sagas.retention import Purged, may_go, purge
from amends.stores.memory import MemoryStore
from amends.stores.port import Append, Removal
from amends.testing.contracts.data import new_events
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    ONCE,
    Broken,
    Late,
    Order,
    Refused,
    World,
    app_of,
    ended,
)

pytestmark = pytest.mark.virtual_time

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = timedelta(days=7)

go_on = Signal("go_on", int)


def transfers(world: World) -> tuple[Any, App]:
    """Withdraw, then deposit."""
    withdraw, deposit = world.activity("withdraw"), world.activity("deposit", undo=False)

    @saga
    async def transfer(ctx: SagaContext, order: Order) -> str:
        await ctx.do(withdraw, order)
        return (await ctx.do(deposit, order)).text

    return transfer, App(sagas=[transfer], activities=[withdraw, deposit])


async def purge_in(harness: Harness, age: timedelta = WEEK, **more: Any) -> Purged:
    return await purge(harness.client.backend.store, harness.clock, age, **more)


async def is_there(handle: Handle[Any]) -> bool:
    try:
        return bool(await handle.journal())
    except InstanceNotFound:
        return False


async def run_through(
    harness: Harness, it: Any, world: World, *plans: dict[str, list[Any]]
) -> None:
    for number, plan in enumerate(plans, 1):
        world.plan = plan
        await ended(await harness.start(it, Order(n=number), id=str(number)))


# --- which go


async def kept_in(harness: Harness) -> list[RecordedEvent]:
    """What is in the log but for the record of removals."""
    log = await harness.client.backend.store.read_all(limit=10_000)
    return [event for event in log if event.stream != REMOVALS]


async def test_a_removal_is_on_record_before_it_happens() -> None:
    it, app = transfers(World())
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(), id="old")
        await handle.result()
        (*_, last) = await handle.journal()
        await harness.advance(8 * DAY)
        assert (await purge_in(harness, dry_run=True)).journals == 1
        store = harness.client.backend.store
        assert await store.read(REMOVALS) == []
        remove, store.remove = store.remove, refuse  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await purge_in(harness)
        store.remove = remove  # type: ignore[method-assign]
        assert len(await kept_in(harness)) == last.version + 1
        assert (await purge_in(harness)).journals == 1
        told = [RemovalDecided.model_validate_json(r.data) for r in await store.read(REMOVALS)]
        stream = RemovedStream(stream=last.stream, version=last.version)
        assert told == [RemovalDecided(why="purge", streams=(stream,))] * 2


async def refuse(removals: Sequence[Removal]) -> list[StreamName]:
    raise StoreUnavailable("not now")


async def test_what_ended_long_ago_goes_and_nothing_else() -> None:
    world = World()
    it, app = transfers(world)
    async with Harness(app) as harness:
        await run_through(
            harness, it, world, {}, {"deposit": [Refused()]}, {"withdraw": [Refused()]}
        )
        await harness.advance(6 * DAY)
        await run_through(harness, it, world, {})  # the same id: the same instance
        young = await harness.start(it, Order(), id="young")
        await young.result()
        assert await purge_in(harness) == Purged()
        await harness.advance(2 * DAY)
        found = await purge_in(harness, dry_run=True)
        assert found == Purged(journals=3, events=6 + 10 + 6)
        assert await purge_in(harness) == found
        assert await purge_in(harness) == Purged()
        log = await kept_in(harness)
        assert {event.stream for event in log} == {young.instance.stream}
        await harness.advance(6 * DAY)
        assert (await purge_in(harness)).journals == 1
        assert await kept_in(harness) == []
        assert await harness.dead_letters() == []


async def test_only_one_sagas() -> None:
    @saga
    async def ab(ctx: SagaContext) -> None: ...

    @saga(name="ab.c")
    async def other(ctx: SagaContext) -> None: ...

    async with Harness(App(sagas=[ab, other])) as harness:
        handles = [await harness.start(it, id="x-1") for it in (ab, other)]
        for handle in handles:
            await handle.result()
        await harness.advance(8 * DAY)
        assert (await purge_in(harness, saga="ab")).journals == 1
        assert [await is_there(handle) for handle in handles] == [False, True]


async def test_other_streams_are_none_of_its_business() -> None:
    async with Harness(App()) as harness:
        store = harness.client.backend.store
        # Somebody's own events, one named like an ending, one in a stream named like a journal.
        for name, type in (("account-1", "SagaCompleted"), ("saga.x-1", "Paid"), ("saga.-", "P")):
            await store.append(Append(StreamName(name), new_events(1, type), NO_STREAM))
        await harness.advance(8 * DAY)
        assert (await purge_in(harness)).journals == 0
        assert len(await store.read_all()) == 3


# --- which stay


async def test_whoever_waits_for_somebody_stays() -> None:
    """However old: parked, stalled, asleep, waiting for a signal."""
    world = World()
    pivot = world.activity("pivot")

    @saga
    async def parks(ctx: SagaContext) -> None:
        await ctx.do(pivot, Order(), pivot=True)

    @saga
    async def stalls(ctx: SagaContext) -> None:
        raise TypeError("a bug")

    @saga
    async def sleeps(ctx: SagaContext) -> None:
        await asyncio.sleep(365 * DAY)

    @saga
    async def waits(ctx: SagaContext) -> None:
        await ctx.receive(go_on)

    async with Harness(app_of(parks, stalls, sleeps, waits, activities=[pivot])) as harness:
        world.plan = {"pivot": [Late(99), Late(99)]}
        for it in (parks, stalls, sleeps, waits):
            await harness.start(it, id="1")
        await harness.advance(3 * HOUR)
        before = await harness.client.backend.store.read_all()
        assert await purge_in(harness, timedelta(hours=1)) == Purged()
        assert await harness.client.backend.store.read_all() == before


def unknown_then_compensated(world: World) -> tuple[Any, App]:
    """Step 1 ends unknown, the saga fails of it, and step 1 is undone without its result."""
    a = world.activity("a", timeout=10, retry=ONCE)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await ctx.do(a, order)

    world.plan["a"] = [Late(100)]
    return it, app_of(it, activities=[a])


async def report_late(harness: Harness, saga: str = "it", id: str = "1") -> None:
    message = m.ReportCompleted(saga=saga, id=id, seq=1, attempt=1, result={"text": "late"})
    await harness.client.send(message)
    await harness.settle()


async def test_what_is_parked_after_its_end_stays_until_somebody_decides() -> None:
    world = World()
    it, app = unknown_then_compensated(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(), id="1")
        assert await ended(handle) == "compensated"
        world.plan["undo_a"] = [Broken(), Broken()]
        await report_late(harness)
        await harness.advance(30 * DAY)
        assert await purge_in(harness) == Purged(kept=1)
        await handle.resolve("skip", who="ann", why="seen to")
        await harness.settle()
        await harness.advance(6 * DAY)
        assert await purge_in(harness) == Purged(kept=1)
        await harness.advance(2 * DAY)
        assert (await purge_in(harness)).journals == 1


async def test_whatever_is_open_after_the_end_keeps_it() -> None:
    world = World()
    it, app = unknown_then_compensated(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(), id="1")
        await ended(handle)
        await report_late(harness)
        records = await handle.journal()
        verdicts = {
            count: await may_go(handle.instance, records[:count], harness.now() + WEEK)
            for count in range(1, len(records) + 1)
        }
        types = [record.type for record in records]
        end = types.index("SagaCompensated")
        assert types[end + 1 :] == ["StepReportedLate", "StepScheduled", "StepCompleted"]
        # The report and what it asked for are one append.
        del verdicts[end + 2]
        assert [count for count, verdict in verdicts.items() if verdict] == [end + 1, end + 4]

        bug = e.SagaStalled(at=harness.now(), error=e.ErrorInfo(type="TypeError", message=""))
        stalled = journal.encode_turn(
            [bug],
            [journal.encode_data(bug)],
            [uuid4()],
            correlation_id="",
            causation_id="",
            trace_parent=None,
        )
        version = ExpectedVersion(len(records) - 1)
        store = harness.client.backend.store
        await store.append(Append(handle.instance.stream, stalled, version))
        assert not await may_go(handle.instance, await handle.journal(), harness.now() + WEEK)


async def test_a_late_report_is_news() -> None:
    """What matters is for how long nothing has happened, not only when the end was."""
    world = World()
    it, app = unknown_then_compensated(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(), id="1")
        await ended(handle)
        await harness.advance(6 * DAY)
        await report_late(harness)
        await harness.advance(2 * DAY)
        assert await purge_in(harness) == Purged(kept=1)
        await harness.advance(6 * DAY)
        assert (await purge_in(harness)).journals == 1


async def test_it_stays_while_a_message_for_it_is_to_come() -> None:
    @saga(deadline=20 * DAY)
    async def in_time(ctx: SagaContext) -> None: ...

    @saga
    async def hasty(ctx: SagaContext) -> None:
        async with asyncio.timeout(20 * DAY):
            await ctx.receive(go_on)

    async with Harness(App(sagas=[in_time, hasty])) as harness:
        handles = [await harness.start(it, id="1") for it in (in_time, hasty)]
        await handles[1].signal(go_on, 1)
        for handle in handles:
            await handle.result()
        await harness.advance(19 * DAY)
        assert await purge_in(harness) == Purged(kept=2)
        await harness.advance(2 * DAY)
        assert (await purge_in(harness)).journals == 2
        assert await harness.dead_letters() == []


async def test_what_was_terminated_waits_for_nobody() -> None:
    world = World()
    pivot = world.activity("pivot", timeout=10, retry=ONCE)

    @saga
    async def parks(ctx: SagaContext) -> None:
        await ctx.do(pivot, Order(), pivot=True)

    async with Harness(app_of(parks, activities=[pivot])) as harness:
        world.plan["pivot"] = [Late(99)]
        handle = await harness.start(parks)
        await harness.advance(HOUR)
        await handle.terminate(who="ann", why="seen to by hand")
        assert await ended(handle) == "terminated"
        await harness.advance(8 * DAY)
        assert (await purge_in(harness)).journals == 1


async def test_a_journal_that_cannot_be_read_stays() -> None:
    @saga
    async def done(ctx: SagaContext) -> None: ...

    async with Harness(App(sagas=[done])) as harness:
        store = harness.client.backend.store
        handles = [await harness.start(done) for _ in range(2)]
        for handle in handles:
            await handle.result()
        newer = new_events(1, "OfANewerRelease")
        await store.append(Append(handles[0].instance.stream, newer, ANY))
        await harness.advance(8 * DAY)
        assert await purge_in(harness) == Purged(journals=1, events=2, kept=1)
        assert [await is_there(handle) for handle in handles] == [True, False]


async def test_whoever_comes_in_between_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    it, app = unknown_then_compensated(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(), id="1")
        await ended(handle)
        await harness.advance(8 * DAY)
        remove = MemoryStore.remove

        async def late(self: MemoryStore, removals: Sequence[Removal]) -> list[StreamName]:
            await report_late(harness)
            return await remove(self, removals)

        monkeypatch.setattr(MemoryStore, "remove", late)
        assert (await purge_in(harness)).journals == 0
        assert world.did[1:] == ["undo_a 0 None", "undo_a 0 late"]
        assert await ended(handle) == "compensated"


# --- afterwards


async def test_what_still_comes_for_it_starts_nothing() -> None:
    """The engine's own messages are nobody's concern; that an effect happened is somebody's."""
    world = World()
    it, app = unknown_then_compensated(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order(), id="1")
        await ended(handle)
        await harness.advance(8 * DAY)
        await purge_in(harness)
        did = list(world.did)
        failed = m.ReportFailed(
            saga="it",
            id="1",
            seq=1,
            attempt=1,
            error=e.ErrorInfo(type="E", message=""),
            outcome=e.AttemptOutcome.FAILED,
        )
        for message in (
            failed,
            m.FireTimer(saga="it", id="1", seq=0),
            m.ExpireStep(saga="it", id="1", seq=1),
            m.RetryStep(saga="it", id="1", seq=1, attempt=2),
            m.WakeSaga(saga="it", id="1"),
        ):
            await harness.client.send(message)
            await harness.settle()
        assert await harness.dead_letters() == []
        await report_late(harness)
        [letter] = await harness.dead_letters()
        assert (letter.message.type, letter.reason) == ("ReportCompleted", "no such instance")
        assert "removed" in letter.detail
        for ask in (handle.state, handle.journal, lambda: handle.signal("s", 1)):
            with pytest.raises(InstanceNotFound, match="removed"):
                await ask()
        await harness.advance(DAY)
        assert world.did == did
        assert await kept_in(harness) == []
        assert all(depth.ready == 0 for depth in await harness.client.backend.broker.depths())


async def test_its_id_is_free_for_another_that_does_everything_again() -> None:
    world = World()
    it, app = transfers(world)
    async with Harness(app) as harness:
        for _ in range(2):
            handle = await harness.start(it, Order(n=1), id="x")
            assert await handle.result() == "deposit1"
        assert world.did == ["withdraw 1", "deposit 1"]
        await harness.advance(8 * DAY)
        await purge_in(harness)
        # With another input, even.
        assert await (await harness.start(it, Order(n=2), id="x")).result() == "deposit2"
        assert world.did[2:] == ["withdraw 2", "deposit 2"]
        # Whoever remembers keys outside takes them for repeats.
        assert world.keys[2:] == world.keys[:2]


# --- the engine, by itself


def keeping(days: float) -> Settings:
    return Settings(store="memory://", cache_max=0, retention_days=days)


async def test_by_default_everything_is_kept() -> None:
    world = World()
    it, app = transfers(world)
    async with Harness(app) as harness:
        handle = await harness.start(it, Order())
        await handle.result()
        await harness.advance(3650 * DAY)
        assert await is_there(handle)


async def test_an_engine_keeps_to_a_retention() -> None:
    world = World()
    it, app = transfers(world)
    async with Harness(app, settings=keeping(7)) as harness:
        for day in range(30):
            for n in range(5):
                handle = await harness.start(it, Order(n=n), id=f"{day}-{n}")
                await handle.result()
            await harness.advance(DAY)
            kept = {event.stream for event in await kept_in(harness)}
            assert len(kept) == 5 * min(day + 1, 7)
        await harness.restart()
        await harness.advance(8 * DAY)
        assert await kept_in(harness) == []
        assert await harness.dead_letters() == []


async def test_an_engine_comes_back_to_what_it_had_to_leave() -> None:
    @saga(deadline=2.5 * DAY)
    async def in_time(ctx: SagaContext) -> None: ...

    async with Harness(App(sagas=[in_time]), settings=keeping(1)) as harness:
        handle = await harness.start(in_time)
        await handle.result()
        await harness.advance(2.4 * DAY)
        assert await is_there(handle)
        await harness.advance(1.2 * DAY)
        assert not await is_there(handle)


async def test_an_engine_goes_on_when_the_store_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    it, app = transfers(world)
    async with Harness(app, settings=keeping(1)) as harness:
        handle = await harness.start(it, Order())
        await handle.result()

        async def fails(*_: object) -> list[StreamName]:
            raise StoreUnavailable("on purpose")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryStore, "remove", fails)
            await harness.advance(1.5 * DAY)
        assert await is_there(handle)
        await harness.advance(DAY)
        assert not await is_there(handle)


async def test_batches_are_small_and_no_journal_is_looked_at_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @saga
    async def done(ctx: SagaContext) -> None: ...

    @saga
    async def sleeps(ctx: SagaContext) -> None:
        await asyncio.sleep(100 * DAY)

    async with Harness(App(sagas=[done, sleeps]), settings=keeping(10)) as harness:
        await asyncio.gather(*(harness.start(sleeps) for _ in range(50)))
        for _ in range(20):
            handles = [await harness.start(done) for _ in range(10)]
            await asyncio.gather(*(handle.result() for handle in handles))
            await harness.advance(HOUR / 2)
        sizes: list[int] = []
        reads: list[StreamName] = []
        rounds = 0
        remove, read, end = MemoryStore.remove, MemoryStore.read, MemoryStore.end

        async def asked(self: MemoryStore) -> Position:
            nonlocal rounds
            rounds += 1
            return await end(self)

        async def removed(self: MemoryStore, removals: Sequence[Removal]) -> list[StreamName]:
            sizes.append(len(removals))
            return await remove(self, removals)

        async def looked(self: MemoryStore, stream: StreamName, **more: Any) -> list[Any]:
            reads.append(stream)
            return await read(self, stream, **more)

        monkeypatch.setattr(MemoryStore, "remove", removed)
        monkeypatch.setattr(MemoryStore, "read", looked)
        monkeypatch.setattr(MemoryStore, "end", asked)
        monkeypatch.setattr(retention, "BATCH_JOURNALS_MAX", 4)
        await harness.advance(12 * DAY)
        assert sum(sizes) == 200
        assert max(sizes) == 4
        assert sorted(reads) == sorted(set(reads))
        assert len(reads) == 200
        # It wakes when something is due, and once a day.
        assert rounds < 100


async def test_a_purge_beside_an_engine_that_does_the_same() -> None:
    world = World()
    it, app = transfers(world)
    async with Harness(app, settings=keeping(1)) as harness:
        for n in range(100):
            await (await harness.start(it, Order(n=n))).result()
        await harness.advance(DAY + 30)
        purged = await asyncio.gather(*(purge_in(harness, timedelta(days=1)) for _ in range(3)))
        assert sum(one.journals for one in purged) <= 100
        assert await kept_in(harness) == []
        with pytest.raises(InstanceNotFound):
            await harness.client.state(InstanceId("transfer", "1"))

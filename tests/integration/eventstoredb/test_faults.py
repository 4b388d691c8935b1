"""One fault at a time: what the caller is told is true, and nothing is written twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START
from amends.errors import (
    AppendOutcomeUnknown,
    StoreClosed,
    StoreReadOnly,
    StoreUnavailable,
    WrongExpectedVersion,
)
from amends.stores.eventstoredb import EventStoreDb, connection, writing
from amends.stores.eventstoredb.errors import NotWritten
from amends.stores.port import Appended, EventFilter, Removal
from amends.testing.contracts.data import as_new, closing, new_event, new_events, soon, take
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault
from tests.esdb.rules import delete
from tests.integration.eventstoredb.support import TIMEOUT_S, a_stream, an_append, opened

OF_WRITES = [
    Fault.DROP_BEFORE,
    Fault.DROP_AFTER,
    Fault.STALL_BEFORE,
    Fault.STALL_AFTER,
    Fault.LATE,
    Fault.NOT_READY,
    Fault.TIMEOUT_AFTER,
    Fault.CUT,
]


@pytest.fixture
async def store(esdb_double: ProtocolDouble) -> AsyncIterator[EventStoreDb]:
    async with opened(esdb_double.uri) as store:
        yield store


# --- appending


@pytest.mark.parametrize("fault", OF_WRITES)
async def test_an_append_is_found_out_about(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault
) -> None:
    first, second = an_append(a_stream()), an_append(a_stream())
    await store.append(first)
    append = an_append(first.stream, 1)
    esdb_double.faults.next(Call.APPEND, fault)
    assert (await soon(store.append(append))).version == 3
    assert esdb_double.faults.happened[fault] == 1
    await asyncio.sleep(esdb_double.faults.late_after_s)  # what is late comes once more
    assert as_new(await store.read(first.stream)) == [*first.events, *append.events]
    assert await store.append(append) == await store.append(append)
    assert (await store.append(second)).version == 1


@pytest.mark.parametrize("fault", OF_WRITES)
async def test_an_append_that_lost_its_race_is_told_so_whatever_happens(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault
) -> None:
    first = an_append(a_stream())
    await store.append(first)
    esdb_double.faults.next(Call.APPEND, fault)
    with pytest.raises(WrongExpectedVersion) as lost:
        await soon(store.append(an_append(first.stream)))
    assert lost.value.actual == 1
    assert as_new(await store.read(first.stream)) == first.events


async def test_several_faults_in_a_row(esdb_double: ProtocolDouble, store: EventStoreDb) -> None:
    append = an_append(a_stream())
    esdb_double.faults.next(Call.APPEND, Fault.NOT_READY, times=3)
    esdb_double.faults.next(Call.APPEND, Fault.DROP_AFTER, skip=3)
    esdb_double.faults.next(Call.READ, Fault.DROP_BEFORE, times=2)
    assert (await soon(store.append(append))).version == 1
    assert as_new(await store.read(append.stream)) == append.events


async def test_nothing_was_written_where_nobody_answers(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    esdb_double.faults.next(Call.APPEND, Fault.NOT_READY, times=1000)
    append = an_append(a_stream())
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable, match="Server Is Not Ready"):
        await soon(store.append(append))
    assert asyncio.get_running_loop().time() - began < 2 * TIMEOUT_S
    esdb_double.faults.stop()
    assert await store.read(append.stream) == []


WRITTEN = [Fault.STALL_AFTER, Fault.DROP_AFTER, Fault.TIMEOUT_AFTER]


@pytest.mark.parametrize("fault", WRITTEN)
async def test_reading_is_enough_to_find_out(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault
) -> None:
    """Where nothing can be written any more."""
    append = an_append(a_stream())
    esdb_double.faults.next(Call.APPEND, fault)
    esdb_double.faults.next(Call.APPEND, Fault.NOT_READY, skip=1, times=1000)
    appended = await soon(store.append(append))
    assert appended == (1, (await store.read(append.stream))[-1].position)


@pytest.mark.parametrize("fault", [*WRITTEN, Fault.STALL_BEFORE, Fault.DROP_BEFORE])
@pytest.mark.parametrize("readable", [True, False])
async def test_what_cannot_be_found_out_is_unknown(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault, readable: bool
) -> None:
    """Also when the server says of a later try that nothing was written."""
    if readable and fault in WRITTEN:
        return  # that is found out, see above
    append = an_append(a_stream())
    esdb_double.faults.next(Call.APPEND, fault)
    esdb_double.faults.next(Call.APPEND, Fault.NOT_READY, skip=1, times=1000)
    if not readable:
        esdb_double.faults.next(Call.READ, Fault.DROP_BEFORE, times=1000)
    with pytest.raises(AppendOutcomeUnknown):
        await soon(store.append(append))
    esdb_double.faults.stop()
    written = append.events if fault in WRITTEN else []
    assert as_new(await store.read(append.stream)) == written
    assert (await store.append(append)).version == 1
    assert as_new(await store.read(append.stream)) == append.events


async def test_a_repeat_that_cannot_be_looked_at_is_unknown(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    """The server takes it for one, and does not say whether it is there still."""
    append = an_append(a_stream())
    await store.append(append)
    await store.remove([Removal(append.stream, 1)])
    async with opened(esdb_double.uri) as other:
        esdb_double.faults.next(Call.READ, Fault.DROP_BEFORE, times=1000)
        with pytest.raises(AppendOutcomeUnknown):
            await soon(other.append(append))
        esdb_double.faults.stop()
        assert (await other.append(append)).version == 1
        assert as_new(await other.read(append.stream)) == append.events


async def test_a_conflict_with_what_cannot_be_read_yet_is_waited_out(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    """Told at once, its caller would read the old tail, and be refused again."""
    first = an_append(a_stream())
    await store.append(first)
    log = esdb_double.log
    log.hold()
    async with opened(esdb_double.uri) as other:
        winning = asyncio.ensure_future(other.append(an_append(first.stream, 1)))
        await asyncio.sleep(0.1)
        losing = asyncio.ensure_future(store.append(an_append(first.stream, 1)))
        await asyncio.sleep(0.2)
        assert not losing.done()
        log.release()
        assert (await soon(winning)).version == 3
        with pytest.raises(WrongExpectedVersion) as lost:
            await soon(losing)
        assert lost.value.actual == 3


async def test_one_that_stalls_holds_nobody_up(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    await store.end()
    esdb_double.faults.next(Call.APPEND, Fault.STALL_BEFORE)
    stalled = asyncio.ensure_future(store.append(an_append(a_stream())))
    await asyncio.sleep(0.05)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(store.append(an_append(a_stream())) for _ in range(20)))
    assert asyncio.get_running_loop().time() - began < TIMEOUT_S
    assert (await soon(stalled)).version == 1


async def test_so_many_appends_are_under_way_and_no_more(
    esdb_double: ProtocolDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "APPENDS_MAX", 5)
    esdb_double.faults.next(Call.APPEND, Fault.STALL_AFTER, times=5)
    async with opened(esdb_double.uri) as store:
        appending = [asyncio.ensure_future(store.append(an_append(a_stream()))) for _ in range(12)]
        await asyncio.sleep(TIMEOUT_S / 2)
        assert esdb_double.faults.calls[Call.APPEND] == 5
        outcomes = await soon(asyncio.gather(*appending, return_exceptions=True))
        # Those that were under way are found; the others have waited for as long as they may.
        assert [type(outcome) for outcome in outcomes[:5]] == [Appended] * 5
        assert {type(outcome) for outcome in outcomes[5:]} <= {Appended, StoreUnavailable}


async def test_a_cancelled_append_costs_nobody_elses(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    await store.end()
    esdb_double.faults.next(Call.APPEND, Fault.STALL_AFTER)
    stalled = asyncio.ensure_future(store.append(an_append(a_stream())))
    await asyncio.sleep(0.05)
    others = [asyncio.ensure_future(store.append(an_append(a_stream()))) for _ in range(20)]
    await asyncio.sleep(0)
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(stalled)
    assert {appended.version for appended in await soon(asyncio.gather(*others))} == {1}
    assert not esdb_double.faults.happened[Fault.DROP_AFTER]


# --- where to


async def test_it_follows_the_leader() -> None:
    async with ProtocolDouble.running() as one, ProtocolDouble.running(beside=one) as other:
        for uri in (one.uri, other.uri, one.cluster_uri, other.cluster_uri):
            for leader in (one, other, one):
                async with opened(uri) as store:
                    first = an_append(a_stream())
                    await store.append(first)
                    one.node.cluster.elect(leader.node)
                    assert (await soon(store.append(an_append(first.stream, 1)))).version == 3
                    one.node.cluster.elect(one.node)
                    assert len(await soon(store.read(first.stream))) == 4


async def test_a_cluster_without_a_leader_is_waited_for() -> None:
    async with (
        ProtocolDouble.running() as one,
        ProtocolDouble.running(beside=one) as other,
        opened(one.cluster_uri) as store,
    ):
        first = an_append(a_stream())
        await store.append(first)
        cluster = one.node.cluster
        cluster.leader = None
        asyncio.get_running_loop().call_later(0.3, cluster.elect, other.node)
        assert (await soon(store.append(an_append(first.stream, 1)))).version == 3
        cluster.leader = None
        # Whoever was told that the call failed cannot know why for this append.
        with pytest.raises((StoreUnavailable, AppendOutcomeUnknown)):
            await soon(store.append(an_append(first.stream, 3)))


async def test_who_only_follows_the_log_may_do_so_elsewhere() -> None:
    async with (
        ProtocolDouble.running() as one,
        ProtocolDouble.running(beside=one) as other,
        opened(f"{one.cluster_uri}&NodePreference=follower") as store,
    ):
        append = an_append(a_stream())
        await store.append(append)
        async with closing(store.subscribe(START)) as subscription:
            assert as_new(await take(subscription, 2)) == append.events
        assert other.faults.calls[Call.SUBSCRIBE] == 1
        assert not one.faults.calls[Call.SUBSCRIBE]
        assert not other.faults.calls[Call.APPEND]


# --- reading


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.NOT_READY, Fault.CUT])
async def test_a_read_is_repeated(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault
) -> None:
    append = an_append(a_stream())
    await store.append(append)
    reads: list[Callable[[], Awaitable[list[RecordedEvent]]]] = [
        lambda: store.read(append.stream),
        store.read_all,
        lambda: store.read_all(filter=EventFilter((append.stream,))),
    ]
    for read in reads:
        esdb_double.faults.next(Call.READ, fault, times=1)
        assert as_new(await soon(read())) == append.events
    esdb_double.faults.next(Call.READ, fault)
    assert await store.end() == (await store.read_all())[-1].position


async def test_a_read_that_stalls_fails_in_time(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    append = an_append(a_stream())
    await store.append(append)
    esdb_double.faults.next(Call.READ, Fault.STALL_BEFORE)
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        await soon(store.read(append.stream))
    assert as_new(await store.read(append.stream)) == append.events


async def test_so_many_reads_are_under_way_and_no_more(
    esdb_double: ProtocolDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READS_MAX", 5)
    esdb_double.faults.next(Call.READ, Fault.STALL_BEFORE, times=5)
    async with opened(esdb_double.uri) as store:
        stream = a_stream()
        reading = [asyncio.ensure_future(store.read(stream)) for _ in range(12)]
        await asyncio.sleep(TIMEOUT_S / 2)
        assert esdb_double.faults.calls[Call.READ] == 5
        outcomes = await soon(asyncio.gather(*reading, return_exceptions=True))
        # The others have waited for as long as they may.
        assert {type(outcome) for outcome in outcomes} <= {list, StoreUnavailable}
        assert await store.read(stream) == []


async def test_a_stream_is_never_read_in_part(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    """Whatever happens to the connection meanwhile, and whoever makes it anew."""
    append = an_append(a_stream(), events=new_events(1200))
    await store.append(append)
    for n in range(12):
        reading = asyncio.ensure_future(store.read(append.stream))
        for _ in range(n * 50):
            await asyncio.sleep(0)
        link = await store._leader.link(1)
        store._leader.drop(link)
        if n % 2:
            await link.retire(0)  # ends what is on its way, as a lost connection does
        assert len(await soon(reading)) == 1200


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("again", [False, True])
async def test_a_stream_that_is_removed_between_two_pages_is_read_whole_or_is_empty(
    esdb_double: ProtocolDouble,
    store: EventStoreDb,
    monkeypatch: pytest.MonkeyPatch,
    backwards: bool,
    again: bool,
) -> None:
    append = an_append(a_stream(), events=new_events(1500))
    await store.append(append)
    anew = an_append(append.stream, events=new_events(5))
    page, pages = store._reader.page, count()

    async def page_and_removal(*args: Any, **options: Any) -> Any:
        found = await page(*args, **options)
        if next(pages) == 0:
            async with opened(esdb_double.uri) as other:
                await other.remove([Removal(append.stream, 1499)])
                if again:
                    await other.append(anew)
        return found

    monkeypatch.setattr(store._reader, "page", page_and_removal)
    read = store.read_backwards if backwards else store.read
    seen = as_new(await read(append.stream))
    assert seen == (list(anew.events)[:: -1 if backwards else 1] if again else [])


# --- following


@pytest.mark.parametrize(
    "fault", [Fault.END, Fault.ABORT, Fault.TOO_SLOW, Fault.DROP_BEFORE, Fault.CUT]
)
@pytest.mark.parametrize("beyond", [False, True])
async def test_a_subscription_goes_on(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault, beyond: bool
) -> None:
    esdb_double.node.checkpoints_beyond_the_end = beyond
    stream = a_stream()
    mine = EventFilter((stream.category,))
    events = new_events(40)
    async with closing(store.subscribe(START, filter=mine)) as subscription:
        following = asyncio.ensure_future(take(subscription, 40))
        for n, event in enumerate(events):
            if n % 8 == 5:
                esdb_double.faults.next(Call.EVENT, fault, skip=n % 3)
            await store.append(an_append(stream, n - 1, [event]))
        assert as_new(await soon(following)) == events
    assert esdb_double.faults.happened[fault] >= 3


async def test_from_now_on_means_now_however_long_it_takes_to_find_out(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    await store.append(an_append(a_stream()))
    esdb_double.faults.next(Call.READ, Fault.NOT_READY, times=3)
    async with closing(store.subscribe()) as subscription:
        coming = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        append = an_append(a_stream())
        await store.append(append)
        assert as_new([await soon(coming), *await take(subscription, 1)]) == append.events


async def test_a_subscription_survives_an_outage(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    stream = a_stream()
    await store.append(an_append(stream))
    async with closing(store.subscribe(START)) as subscription:
        await take(subscription, 2)
        coming = asyncio.ensure_future(anext(subscription))
        await esdb_double.stop()
        await asyncio.sleep(1.5 * TIMEOUT_S)
        assert not coming.done()
        await esdb_double.start()
        await store.append(an_append(stream, 1))
        assert (await soon(coming)).version == 2


@pytest.mark.parametrize("up", [True, False])
async def test_cancelling_a_subscription_cancels(
    esdb_double: ProtocolDouble, store: EventStoreDb, up: bool
) -> None:
    """However the cancellation comes: to one who waits, by a timeout, or from within."""
    await store.append(an_append(a_stream()))
    if not up:
        esdb_double.faults.unavailable = True

    async def follow() -> None:
        async for _ in store.subscribe(START):
            pass

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.1)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(following)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await follow()

    async def cancelled_from_within() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await follow()

    with pytest.raises(asyncio.CancelledError):
        await soon(asyncio.ensure_future(cancelled_from_within()))


async def test_closing_a_store_that_is_away_ends_its_subscriptions(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    await store.append(an_append(a_stream()))
    async with closing(store.subscribe(START)) as subscription:
        await take(subscription, 2)
        coming = asyncio.ensure_future(anext(subscription))
        await esdb_double.stop()
        await asyncio.sleep(0.1)
        await store.close()
        with pytest.raises(StoreClosed):
            await soon(coming)
        await esdb_double.start()


# --- removing


@pytest.mark.parametrize("fault", OF_WRITES)
@pytest.mark.parametrize("skip", [0, 1])
async def test_a_removal_is_found_out_about(
    esdb_double: ProtocolDouble, store: EventStoreDb, fault: Fault, skip: int
) -> None:
    append = an_append(a_stream())
    await store.append(append)
    esdb_double.faults.next(Call.APPEND, fault, skip=skip)
    assert await soon(store.remove([Removal(append.stream, 1)])) == [append.stream]
    assert await store.read(append.stream) == []
    assert (await store.append(append)).version == 1
    assert as_new(await store.read(append.stream)) == append.events


async def test_a_removal_that_was_left_half_done_is_finished(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    append = an_append(a_stream())
    await store.append(append)
    esdb_double.faults.next(Call.APPEND, Fault.NOT_READY, skip=1, times=1000)
    with pytest.raises(StoreUnavailable):
        await soon(store.remove([Removal(append.stream, 1)]))
    esdb_double.faults.stop()
    visible = esdb_double.log.readable_numbers(append.stream)
    assert len(visible) == 3
    assert await store.read(append.stream) == await store.read_backwards(append.stream) == []
    async with opened(esdb_double.uri) as other:
        assert await other.read(append.stream) == []
        assert await other.read_backwards(append.stream, limit=1) == []
        assert await other.remove([Removal(append.stream, 1)]) == []
    assert list(esdb_double.log.readable_numbers(append.stream)) == [2]


async def test_a_scavenge_takes_what_was_removed_and_nothing_else(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    removed, kept = an_append(a_stream()), an_append(a_stream())
    await store.append(kept)
    for life in range(3):
        end = (await store.append(removed)).position
        assert await store.remove([Removal(removed.stream, 1)]) == [removed.stream]
        esdb_double.log.scavenge()
        assert as_new(await store.read_all()) == kept.events
        assert await store.end() > end, f"positions went back, life {life}"
    anew = an_append(removed.stream, events=new_events(3))
    await store.append(anew)
    async with opened(esdb_double.uri) as other:
        assert [event.version for event in await other.read(anew.stream)] == [0, 1, 2]
        assert as_new(await other.read_all()) == [*kept.events, *anew.events]
        assert (await other.append(an_append(anew.stream, 2))).version == 4


# --- what is not ours


async def test_a_stream_with_a_tombstone_is_empty_and_stays_so(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    append = an_append(a_stream())
    await store.append(append)
    delete(esdb_double.log, append.stream, 1, tombstone=True)
    assert await store.read(append.stream) == await store.read_backwards(append.stream) == []
    with pytest.raises(StoreReadOnly, match="tombstone"):
        await store.append(an_append(append.stream))


async def test_the_servers_own_events_are_nobodys(
    esdb_double: ProtocolDouble, store: EventStoreDb
) -> None:
    append = an_append(a_stream())
    await store.append(append)
    await store.remove([Removal(append.stream, 1)])
    last = an_append(a_stream(), events=[new_event("PersistentConfig")])
    await store.append(last)
    assert as_new(await store.read_all()) == [*append.events, *last.events]
    types = tuple(record.event.type for record in esdb_double.log.records)
    assert "$metadata" in types
    for filter in (
        EventFilter((), types),
        EventFilter(("$", append.stream.category, last.stream.category)),
        EventFilter(("",)),
    ):
        assert as_new(await store.read_all(filter=filter)) == [*append.events, *last.events]
        assert len(await store.read_all_backwards(filter=filter)) == 3


async def test_nobody_waits_longer_than_they_may_for_a_node_that_is_silent() -> None:
    """Also when many wait: they share an attempt, and do not make theirs one after another."""

    listening = socket.create_server(("127.0.0.1", 0))  # and nobody accepts
    port = listening.getsockname()[1]
    async with opened(f"esdb://127.0.0.1:{port}?tls=false", timeout_s=0.3) as store:
        began = asyncio.get_running_loop().time()
        outcomes = await soon(
            asyncio.gather(
                *(store.append(an_append(a_stream())) for _ in range(20)),
                *(store.read(a_stream()) for _ in range(20)),
                return_exceptions=True,
            )
        )
        assert asyncio.get_running_loop().time() - began < 5 * 0.3
        assert {type(outcome) for outcome in outcomes} <= {StoreUnavailable, NotWritten}
        waiting = asyncio.ensure_future(store.end())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(waiting)
    listening.close()

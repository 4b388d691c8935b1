"""The audit trail: every way of tampering with the log or with the chain is found, and where."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, select, text, update

from amends import Settings
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import StreamName
from amends.domain.removals import REMOVALS, RemovalDecided, RemovedStream
from amends.errors import AuditError
from amends.projections.audit import tables
from amends.projections.audit.bundle import parse
from amends.projections.audit.chain import GENESIS, content_of, link
from amends.projections.audit.check import check
from amends.projections.audit.checkpoints import Checkpoint, sign
from amends.projections.audit.export import export
from amends.projections.audit.keys import SigningKey
from amends.projections.audit.projection import AuditTrail
from amends.projections.audit.recorded import checkpoint_of
from amends.projections.audit.verify import Difference, Verified, verify
from amends.projections.build import build
from amends.projections.database import Database
from amends.projections.projector import Projector
from amends.projections.reading import Projections
from amends.projections.records import projections
from amends.stores.memory import MemoryStore
from amends.stores.port import Removal
from amends.testing.clock import VirtualClock
from tests.integration.projections.sample import append, new_event

pytestmark = pytest.mark.virtual_time

KEY = SigningKey.new()
KEYS = {KEY.public.id: KEY.public}
EVERY = 10
STREAMS = ["account-1", "saga.transfer-1", "account-2", "saga.transfer-2"]

Open = Callable[[], Database]


@pytest.fixture
async def store(clock: VirtualClock) -> MemoryStore:
    """A log of 57 events of four streams, in an order that looks arbitrary, and is not."""
    store = MemoryStore(clock)
    rng = random.Random(7)
    for number in range(57):
        await clock.advance(rng.random())
        await append(store, rng.choice(STREAMS), new_event("Moved", amount=number))
    return store


@pytest.fixture
async def trail(store: MemoryStore, database: Database) -> Database:
    """A database with the chain of that log."""
    await build(AuditTrail(KEY, every=EVERY), store, database)
    return database


def events_of(store: MemoryStore) -> list[RecordedEvent | None]:
    """The log itself, to tamper with."""
    return store._log.events


def put(store: MemoryStore, position: int, event: RecordedEvent | None) -> None:
    """Another event at a position, or none, in the log and in its stream."""
    log = store._log
    log.events[position] = event
    log.streams.clear()
    for one in log.events:
        if one is not None:
            log.streams.setdefault(one.stream, []).append(one)


def at(store: MemoryStore, position: int) -> RecordedEvent:
    event = events_of(store)[position]
    assert event is not None
    return event


async def difference(store: MemoryStore, database: Database, *published: Checkpoint) -> Difference:
    found = (await verify(store, database, KEYS, published)).difference
    assert found is not None
    return found


async def green(store: MemoryStore, database: Database, *published: Checkpoint) -> Verified:
    verified = await verify(store, database, KEYS, published)
    assert verified.difference is None
    return verified


async def checkpoints(database: Database) -> list[Checkpoint]:
    c = tables.checkpoints.c
    return [
        checkpoint_of(row) for row in await database.query(select(tables.checkpoints).order_by(c.n))
    ]


async def run(database: Database, *statements: Any) -> None:
    def work(connection: Any) -> None:
        for statement in statements:
            connection.execute(statement)

    await database.run(work)


# --- when all is well


async def test_what_nobody_touched_is_as_it_was_recorded(
    store: MemoryStore, trail: Database
) -> None:
    verified = await green(store, trail)
    assert (verified.records, verified.events, verified.position) == (57, 57, 56)
    assert (verified.checkpoints, verified.signed, verified.behind) == (5, 50, False)
    hash = GENESIS
    for event in events_of(store):
        assert event is not None
        hash = link(hash, content_of(event).hash)
    assert verified.hash == hash.hex()
    await append(store, "account-3", new_event("Moved", amount=1))
    assert (await green(store, trail)).behind


async def test_a_rebuild_makes_the_same_rows(store: MemoryStore, trail: Database) -> None:
    async with Database.at("sqlite://") as other:
        await build(AuditTrail(KEY, every=EVERY), store, other)
        for table in AuditTrail.table_list:
            wanted = select(table).order_by(*table.primary_key.columns)
            assert await other.query(wanted) == await trail.query(wanted)
        assert await checkpoints(other)
    async with Database.at("sqlite://") as other:
        new = SigningKey.new()
        await build(AuditTrail(new, every=EVERY), store, other)
        wanted = select(tables.records).order_by(tables.records.c.n)
        assert await other.query(wanted) == await trail.query(wanted)
        found = (await verify(store, other, KEYS)).difference
        assert found is not None
        assert f"signed with the key {new.public.id}" in found.what
        keys = {**KEYS, new.public.id: new.public}
        assert (await verify(store, other, keys)).difference is None
        # The old key's checkpoints, published when it was in use, hold for this chain too.
        assert (await verify(store, other, keys, await checkpoints(trail))).difference is None


async def test_there_must_be_one(store: MemoryStore, database: Database) -> None:
    with pytest.raises(AuditError, match="AMENDS_AUDIT_KEY_FILE"):
        await verify(store, database, KEYS)


async def test_of_an_empty_log_there_is_nothing_to_say(
    clock: VirtualClock, database: Database
) -> None:
    await build(AuditTrail(KEY), MemoryStore(clock), database)
    assert (await green(MemoryStore(clock), database)).records == 0


async def test_it_can_be_verified_while_it_grows(
    store: MemoryStore, trail: Database, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all = MemoryStore.read_all

    async def and_meanwhile(self: MemoryStore, *args: Any, **options: Any) -> list[RecordedEvent]:
        monkeypatch.setattr(MemoryStore, "read_all", read_all)
        await append(store, "account-1", *(new_event("Moved", amount=n) for n in range(30)))
        await follow(store, trail, clock)
        return await read_all(self, *args, **options)

    monkeypatch.setattr(MemoryStore, "read_all", and_meanwhile)
    verified = await green(store, trail)
    assert (verified.records, verified.behind) == (57, True)
    assert (await green(store, trail)).records == 87


# --- tampering with the log


@pytest.mark.parametrize("position", [0, 1, 9, 10, 33, 55, 56])
async def test_one_byte_of_one_event(store: MemoryStore, trail: Database, position: int) -> None:
    event = at(store, position)
    put(store, position, event._replace(data=event.data.replace(b"{", b"[", 1)))
    found = await difference(store, trail)
    assert found[1:] == (position, position + 1, event.stream, "Moved")
    assert "another data in the log" in found.what


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "Stayed"),
        ("version", 90),
        ("stream", StreamName("account-9")),
        ("id", uuid4()),
        ("metadata", b"{}"),
        ("data", b'{"amount":  9}'),
    ],
)
async def test_anything_about_an_event(
    store: MemoryStore, trail: Database, field: str, value: Any
) -> None:
    put(store, 20, at(store, 20)._replace(**{field: value}))
    found = await difference(store, trail)
    assert found.position == 20
    assert f"another {field} in the log" in found.what


async def test_the_time_of_an_event(store: MemoryStore, trail: Database) -> None:
    event = at(store, 20)
    late = event.recorded_at + timedelta(microseconds=1)
    put(store, 20, event._replace(recorded_at=late))
    assert "another recorded_at" in (await difference(store, trail)).what


@pytest.mark.parametrize("position", [0, 9, 30, 56])
async def test_a_dropped_event(store: MemoryStore, trail: Database, position: int) -> None:
    event = at(store, position)
    put(store, position, None)
    assert await difference(store, trail) == Difference(
        "the log has no event there any more: no removal of its stream is on record",
        position, position + 1, event.stream, event.type,
    )  # fmt: skip


async def test_two_swapped_events(store: MemoryStore, trail: Database) -> None:
    one, other = at(store, 20), at(store, 41)
    assert one.stream != other.stream
    put(store, 20, other._replace(position=one.position))
    put(store, 41, one._replace(position=other.position))
    found = await difference(store, trail)
    assert found[1:] == (20, 21, one.stream, "Moved")
    assert found.what.startswith("another stream in the log")


async def test_an_event_slipped_in(store: MemoryStore, trail: Database) -> None:
    extra = at(store, 20)
    events_of(store)[20] = None
    async with Database.at("sqlite://") as other:
        await build(AuditTrail(KEY, every=EVERY), store, other)
        put(store, 20, extra)
        assert await difference(store, other) == Difference(
            "the log has an event that is not in the chain", 20, 21, extra.stream, "Moved"
        )


async def test_the_tail_after_a_checkpoint(store: MemoryStore, trail: Database) -> None:
    """In the log; in the chain too; with the checkpoints; and with what the projection counted."""
    published = await checkpoints(trail)
    for position in range(45, 57):
        put(store, position, None)
    assert (await difference(store, trail)).position == 45
    r, c = tables.records.c, tables.checkpoints.c
    await run(trail, delete(tables.records).where(r.n > 45))
    found = await difference(store, trail)
    assert found.what.startswith("the checkpoint at record 50 (position 49): the chain ends at")
    assert found[1:3] == (44, 45)
    await run(trail, delete(tables.checkpoints).where(c.n > 45))
    found = await difference(store, trail)
    assert found.what == "the chain ends at record 45, and had 57: its end was taken away"
    last = (await trail.query(select(tables.records).where(r.n == 45)))[0]
    values = {key: last[key] for key in ("n", "position", "hash", "at")}
    await run(trail, update(tables.head).values(**values))
    assert "and had 57" in (await difference(store, trail)).what
    await run(trail, update(projections).values(events=45))
    # Nothing here is left that could tell. Elsewhere there is:
    await green(store, trail)
    found = await difference(store, trail, *published)
    assert found.what.startswith("the published checkpoint at record 50")


@pytest.mark.parametrize("rows", ["kept", "removed"])
async def test_how_far_the_projection_is_cannot_be_set_back(
    store: MemoryStore, trail: Database, rows: str
) -> None:
    await run(trail, update(projections).values(position=44, events=45))
    if rows == "removed":
        await run(trail, delete(tables.records).where(tables.records.c.n > 45))
    found = await difference(store, trail)
    assert "is behind where the projection says it is: that was set back" in found.what


async def recompute(store: MemoryStore, database: Database) -> None:
    """What somebody does who can write everywhere, but has no key: compute the chain anew."""
    hash = GENESIS
    statements = []
    for event in events_of(store):
        assert event is not None
        content = content_of(event)
        hash = link(hash, content.hash)
        statements.append(
            update(tables.records)
            .where(tables.records.c.position == event.position)
            .values(data=content.data, content=content.hash, hash=hash)
        )
    await run(database, *statements, update(tables.head).values(hash=hash))


async def test_a_forged_event_with_the_chain_computed_anew(
    store: MemoryStore, trail: Database
) -> None:
    published = await checkpoints(trail)
    put(store, 33, at(store, 33)._replace(data=b'{"amount":1000000}'))
    await recompute(store, trail)
    found = await difference(store, trail)
    assert (found.position, found.n) == (39, 40)
    assert "something changed in records 31 to 40, after position 29" in found.what
    # With checkpoints of the new chain, under the old key's name or the thief's own:
    thief = SigningKey.new()
    for key in (KEY.public.id, thief.public.id):
        await forge_checkpoints(trail, thief, key)
        found = await difference(store, trail)
        assert (found.position, found.n) == (9, 10)
        assert "forged" in found.what or f"signed with the key {thief.public.id}" in found.what
    # Or without any: what was published finds it.
    await run(trail, delete(tables.checkpoints))
    assert (await green(store, trail)).signed == 0
    found = await difference(store, trail, *reversed(published))
    assert found.position == 39
    assert found.what.startswith("the published checkpoint at record 40: what was signed has")


async def test_whoever_has_the_key_cannot_change_what_was_published(
    store: MemoryStore, trail: Database
) -> None:
    published = await checkpoints(trail)
    put(store, 33, at(store, 33)._replace(data=b'{"amount":1000000}'))
    await recompute(store, trail)
    await forge_checkpoints(trail, KEY, KEY.public.id)
    await green(store, trail, *published[:3])
    found = await difference(store, trail, *published)
    assert found.what.startswith("the published checkpoint at record 40: what was signed has")


async def forge_checkpoints(database: Database, thief: SigningKey, key: str) -> None:
    r = tables.records.c
    for old in await checkpoints(database):
        (row,) = await database.query(select(tables.records).where(r.n == old.n))
        new = sign(thief, n=old.n, position=old.position, hash=row["hash"], at=old.at)
        await run(
            database,
            update(tables.checkpoints)
            .where(tables.checkpoints.c.n == old.n)
            .values(hash=new.hash, signature=new.signature, key=key),
        )


async def test_one_checkpoint_cannot_stand_for_another(store: MemoryStore, trail: Database) -> None:
    one, *_ = await checkpoints(trail)
    c = tables.checkpoints.c
    values = {"hash": one.hash, "signature": one.signature, "position": one.position}
    await run(trail, update(tables.checkpoints).where(c.n == 20).values(**values))
    assert "its signature is not that of the key" in (await difference(store, trail)).what


# --- tampering with the chain


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"data": bytes(32)}, "another data in the log"),
        ({"stream": "account-7"}, "another stream in the log"),
        ({"content": bytes(32)}, "the record has another content hash than its event"),
        ({"hash": bytes(32)}, "the record does not follow from the one before it"),
        ({"n": 1000}, "the log has an event that is not in the chain"),
    ],
)
async def test_a_changed_record(
    store: MemoryStore, trail: Database, values: dict[str, Any], told: str
) -> None:
    r = tables.records.c
    await run(trail, update(tables.records).where(r.n == 21).values(**values))
    found = await difference(store, trail)
    assert told in found.what
    assert found.position == 20


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE audit_records SET at = 'noon' WHERE n = 21", "one of the next 1,000 records"),
        ("UPDATE audit_checkpoints SET hash = 'a' WHERE n = 20", "a checkpoint cannot be read"),
        (
            "UPDATE audit_checkpoints SET signature = 'a' WHERE n = 20",
            "a checkpoint cannot be read",
        ),
        ("UPDATE audit_head SET n = 'one'", "the last record cannot be read"),
    ],
)
async def test_what_nobody_of_ours_could_have_written(
    store: MemoryStore, trail: Database, statement: str, told: str
) -> None:
    if trail.dialect.name == "sqlite":  # PostgreSQL keeps to the types of columns
        await run(trail, text(statement))
        assert told in (await difference(store, trail)).what


async def test_whoever_makes_the_engine_begin_the_chain_anew_cannot_have_published_it(
    store: MemoryStore, trail: Database
) -> None:
    put(store, 7, at(store, 7)._replace(data=b"{}"))
    async with Database.at("sqlite://") as another:  # the trail is gone, and the engine has the key
        await build(AuditTrail(KEY, every=EVERY), store, another)
        await green(store, another)
        assert "published" in (await difference(store, another, *await checkpoints(trail))).what


async def test_a_dropped_record(store: MemoryStore, trail: Database) -> None:
    r = tables.records.c
    await run(trail, delete(tables.records).where(r.n == 21))
    assert (await difference(store, trail))[:2] == (
        "the log has an event that is not in the chain", 20
    )  # fmt: skip
    put(store, 20, None)
    assert (await difference(store, trail))[:2] == ("record 21 is missing: the next one is 22", 21)


@pytest.mark.parametrize("seed", range(8))
async def test_the_first_of_several_is_named(
    store: MemoryStore, trail: Database, seed: int
) -> None:
    rng = random.Random(seed)
    spoiled = rng.sample(range(57), 3)
    for position in spoiled:
        event = at(store, position)
        data = event.data.replace(b'":', b'": ')
        put(store, position, rng.choice([None, event._replace(data=data)]))
    assert (await difference(store, trail)).position == min(spoiled)


# --- removals


async def decide(store: MemoryStore, *streams: str) -> list[Removal]:
    """Put removals on record, as the engine does."""
    going = []
    for stream in streams:
        (last,) = await store.read_backwards(StreamName(stream), limit=1)
        going.append(Removal(last.stream, last.version))
    removed = tuple(RemovedStream(stream=one.stream, version=one.version) for one in going)
    decided = RemovalDecided(why="purge", streams=removed)
    await append(store, REMOVALS, new_event("RemovalDecided", **decided.model_dump()))
    return going


async def remove(store: MemoryStore, *streams: str) -> None:
    await store.remove(await decide(store, *streams))


async def follow(store: MemoryStore, database: Database, clock: VirtualClock) -> None:
    """Take into the chain what is new in the log."""
    trail = AuditTrail(KEY, every=EVERY)
    projector = Projector([trail], store, database, clock)
    await projector.check()
    running = asyncio.create_task(projector.run())
    reader = Projections({trail.name: trail}, Settings(), store, clock)
    reader._database = database
    await reader.caught_up()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_removal_on_record_is_no_tampering_and_is_shown(
    store: MemoryStore, trail: Database, clock: VirtualClock
) -> None:
    first, second = STREAMS[1], STREAMS[3]
    gone = [len(await store.read(StreamName(stream))) for stream in (first, second)]
    await remove(store, first, second)
    # Before the chain has the record of it, and after:
    for _ in range(2):
        verified = await green(store, trail)
        assert (verified.removed.events, verified.removed.streams) == (sum(gone), 2)
        assert verified.removed.last is not None
        assert verified.removed.last.position == 57
        assert verified.records == verified.events + sum(gone)
        await follow(store, trail, clock)
    # What was removed is in the chain still, and who changes that is found.
    r = tables.records.c
    await run(trail, update(tables.records).where(r.stream == first).values(type="Stayed"))
    assert "another content hash" in (await difference(store, trail)).what


async def test_a_removal_that_is_not_on_record_is(
    store: MemoryStore, trail: Database, clock: VirtualClock
) -> None:
    await remove(store, STREAMS[1])
    await follow(store, trail, clock)
    (last,) = await store.read_backwards(StreamName(STREAMS[2]), limit=1)
    first = (await store.read(last.stream, limit=1))[0].position
    await store.remove([Removal(last.stream, last.version)])
    found = await difference(store, trail)
    assert (found.position, found.stream) == (first, STREAMS[2])
    # Nor is it if somebody writes into our table that it was on record.
    note = {"stream": STREAMS[2], "position": 57, "version": last.version, "decision": 0}
    await run(trail, insert(tables.removals).values(**note))
    assert await difference(store, trail) == found


async def test_a_part_of_a_stream_is_no_removal(
    store: MemoryStore, trail: Database, clock: VirtualClock
) -> None:
    await decide(store, STREAMS[1])  # and something came first: it was not removed
    await follow(store, trail, clock)
    await green(store, trail)
    event = (await store.read(StreamName(STREAMS[1])))[2]
    put(store, event.position, None)
    found = await difference(store, trail)
    assert found.position == event.position
    assert "is on record (position 57), but the rest of the stream is there still" in found.what


async def test_events_after_the_removal_are_not_covered_by_it(
    store: MemoryStore, trail: Database, clock: VirtualClock
) -> None:
    """The name is used again; what then is missing is missing."""
    stream = STREAMS[1]
    await remove(store, stream)
    await append(store, stream, *(new_event("Moved", amount=n) for n in range(3)))
    await follow(store, trail, clock)
    await green(store, trail)
    (*_, last) = await store.read(StreamName(stream))
    put(store, last.position, None)
    assert (await difference(store, trail)).position == last.position
    put(store, last.position, last)
    await remove(store, stream)
    await follow(store, trail, clock)
    assert (await green(store, trail)).removed.streams == 2


async def test_the_record_of_a_removal_cannot_be_taken_away(
    store: MemoryStore, trail: Database, clock: VirtualClock
) -> None:
    await remove(store, STREAMS[1])
    await follow(store, trail, clock)
    put(store, 57, None)
    assert "no removal of its stream" in (await difference(store, trail)).what


# --- bundles


@pytest.mark.parametrize("seed", range(3))
async def test_every_stream_can_be_exported_and_checked(
    clock: VirtualClock, database: Database, seed: int
) -> None:
    """However long the log is, a bundle holds no more of others than checkpoints are apart."""
    rng = random.Random(seed)
    store = MemoryStore(clock)
    for number in range(700):
        stream = rng.choice(["account-long", "account-long", f"saga.transfer-{number % 60}"])
        await append(store, stream, new_event("Moved", amount=number))
    await build(AuditTrail(KEY, every=EVERY), store, database)
    for stream in sorted(store._log.streams):
        bundle = await export(store, database, stream, key=KEY, now=clock.now(), made_by="tests")
        assert check(parse(bundle.write(), "b"), KEYS).fault is None
        assert len(bundle.events) == len(await store.read(stream))
        assert all(len(segment.records) <= EVERY for segment in bundle.segments)
        others = {event.stream for event in bundle.events} - {stream}
        assert not others
        assert bundle.segments[-1].checkpoint.n <= 700


async def test_what_is_not_as_it_was_recorded_is_not_exported(
    store: MemoryStore, trail: Database, clock: VirtualClock
) -> None:
    stream = StreamName(STREAMS[1])

    async def exported(key: SigningKey | None = KEY) -> str:
        try:
            await export(store, trail, stream, key=key, now=clock.now(), made_by="tests")
        except AuditError as error:
            return str(error)
        return "exported"

    assert await exported() == "exported"
    (last,) = await store.read_backwards(stream, limit=1)
    if last.position > 49:
        assert "no checkpoint was signed since" in await exported(None)
    put(store, last.position, last._replace(data=b"{}"))
    assert f"(position {last.position}) is not what was recorded" in await exported()
    put(store, last.position, last)
    r = tables.records.c
    await run(trail, delete(tables.records).where(r.position == last.position))
    assert "is not in the chain. Nothing was written" in await exported()
    await append(store, stream, new_event("Moved", amount=1))
    put(store, last.position, None)
    assert "is not in the chain yet" in await exported()
    put(store, last.position, last)
    await remove(store, stream)
    assert "the log has no stream saga.transfer-1" in await exported()
    await follow(store, trail, clock)
    assert "was removed from the log, as is on record at position 58" in await exported()

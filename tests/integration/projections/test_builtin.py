"""The projections *effects*, *compensations* and *timeline* say what the journals say."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Table, select

from amends.domain import events as e
from amends.domain.ids import InstanceId
from amends.projections.build import build
from amends.projections.builtin import Compensations, Effects, Sagas, Timeline
from amends.projections.builtin.compensations import compensations
from amends.projections.builtin.effects import effects
from amends.projections.builtin.timeline import timeline
from amends.projections.database import Database
from amends.projections.definition import Projection
from amends.sagas import journal
from amends.sagas.retention import purge
from amends.stores.memory import MemoryStore
from amends.testing.clock import EPOCH, ManualClock
from tests.integration.projections.stories import STORIES, append, store_of_stories
from tests.replay import golden

Row = dict[str, Any]


async def rows_of(
    database: Database, projection: Projection, table: Table, story: str
) -> list[Row]:
    await build(projection, await store_of_stories(), database)
    wanted = select(table).where(table.c.id == story).order_by(*table.primary_key.columns)
    return await database.query(wanted)


def brief(rows: list[Row], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows]


async def test_every_step_of_every_story_has_a_row(database: Database) -> None:
    await build(Effects(), await store_of_stories(), database)
    found = await database.query(select(effects.c.id, effects.c.seq, effects.c.activity))
    wanted = {
        (story, event.seq, event.activity)
        for story in STORIES
        for event in map(journal.decode, golden.read(story).records)
        if isinstance(event, e.StepScheduled)
    }
    assert {(row["id"], row["seq"], row["activity"]) for row in found} == wanted


EFFECTS = {
    "transfer_compensated": [
        (1, "withdraw", "step", None, "completed", 1, False, None, None),
        (2, "deposit", "step", None, "failed", 1, False, "Refused", None),
        (3, "refund", "undo", 1, "completed", 1, False, None, None),
    ],
    "transfer_failed": [
        (1, "withdraw", "step", None, "failed", 2, False, "ConnectionError", None),
    ],
    "probe_says_it_did_not": [
        (1, "book", "step", None, "failed", 2, False, "TimeoutError", None),
        (2, "was_booked", "probe", 1, "completed", 1, False, None, None),
    ],
    "parked_and_resolved": [
        (1, "withdraw", "step", None, "completed", 1, False, None, None),
        (2, "deposit", "step", None, "failed", 1, False, "Refused", None),
        (3, "refund", "undo", 1, "completed", 3, False, None, "ann"),
    ],
    "terminated": [
        (1, "withdraw", "step", None, "completed", 1, False, None, None),
        (2, "deposit", "step", None, "completed", 1, True, None, None),
    ],
}


@pytest.mark.parametrize("story", EFFECTS)
async def test_effects(database: Database, story: str) -> None:
    found = await rows_of(database, Effects(), effects, story)
    assert EFFECTS[story] == brief(
        found, "seq", "activity", "kind", "of", "outcome", "attempts", "late", "error_type",
        "decided_by",
    )  # fmt: skip
    assert all(row["ended"] >= row["scheduled"] for row in found)
    keys = {row["idempotency_key"] for row in found if row["kind"] == "undo"}
    assert keys <= {f"{found[0]['saga']}/{story}/1/refund"}


COMPENSATIONS = {
    "transfer_compensated": [
        (3, "refund", 1, "withdraw", "failed", "Refused", "bob has no money", "done", 1)
    ],
    "cancelled": [
        (3, "withdraw_again", 2, "deposit", "cancelled", None, None, "done", 1),
        (4, "refund", 1, "withdraw", "cancelled", None, None, "done", 1),
    ],
    "parked_and_resolved": [
        (3, "refund", 1, "withdraw", "failed", "Refused", "bob has no money", "done", 3)
    ],
    "given_up_and_made_good": [(5, "refund", 2, "withdraw", "unwanted", None, None, "done", 1)],
    "transfer_completed": [],
}


@pytest.mark.parametrize("story", COMPENSATIONS)
async def test_compensations(database: Database, story: str) -> None:
    found = await rows_of(database, Compensations(), compensations, story)
    assert COMPENSATIONS[story] == brief(
        found, "seq", "undo", "step", "undoes", "reason", "why_type", "why", "state", "attempts"
    )
    assert all(row["ended"] >= row["begun"] for row in found)


@pytest.mark.parametrize(
    ("last", "state"),
    [("StepScheduled", "open"), ("StepParked", "parked"), ("StepResolved", "open")],
)
async def test_a_compensation_that_is_not_over(database: Database, last: str, state: str) -> None:
    """As of the last event of a type, in the story of an undo that a person had to look at."""
    store = await store_of_stories()
    stream = InstanceId("transfer", "parked_and_resolved").stream
    until = [record for record in await store.read(stream) if record.type == last][-1].position
    await build(Compensations(), store, database, until=until)
    rows = await database.query(select(compensations))
    (row,) = (row for row in rows if row["id"] == "parked_and_resolved")
    assert (row["state"], row["ended"]) == (state, None)


@pytest.mark.parametrize("story", STORIES)
async def test_a_timeline_is_the_journal(story: str, database: Database) -> None:
    if story != STORIES[0] and database.dialect.name != "sqlite":
        pytest.skip("once is enough")
    found = await rows_of(database, Timeline(), timeline, story)
    records = golden.read(story).records
    assert brief(found, "version", "type") == [(record.version, record.type) for record in records]


async def test_what_is_purged_is_forgotten(database: Database) -> None:
    store = await store_of_stories()
    await purge(store, ManualClock(EPOCH + timedelta(days=1000)), timedelta(hours=1))
    for projection in (Effects(), Compensations(), Timeline(), Sagas()):
        await build(projection, store, database)
        for table in projection.table_list:
            for row in await database.query(select(table.c.saga, table.c.id)):
                assert await store.read(InstanceId(row["saga"], row["id"]).stream)


@pytest.mark.parametrize("projection", [Sagas(), Effects(), Compensations(), Timeline()])
async def test_batches_make_no_difference(
    projection: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of all stories, mixed at random: their journals go on at the same time."""
    store = await store_of_stories()
    draw = random.Random(7)
    mixed = MemoryStore(ManualClock())
    rest = {story: list(golden.read(story).records) for story in STORIES}
    while rest:
        story = draw.choice(sorted(rest))
        saga = golden.read(story).instance.saga
        await append(mixed, InstanceId(saga, story), rest[story].pop(0))
        if not rest[story]:
            del rest[story]
    found = []
    for log, batch in ((store, 1000), (mixed, 1000), (mixed, 1), (mixed, 7)):
        monkeypatch.setattr("amends.projections.build.BATCH", batch)
        async with Database.at("sqlite://") as database:
            await build(projection, log, database)
            found.append([await contents(database, table) for table in projection.table_list])
    assert found[1] == found[2] == found[3]
    assert [[same(row) for row in rows] for rows in found[0]] == [
        [same(row) for row in rows] for rows in found[1]
    ]


async def contents(database: Database, table: Table) -> list[Row]:
    return await database.query(select(table).order_by(*table.primary_key.columns))


def same(row: Row) -> Row:
    """What is the same of an instance, whenever its events were recorded."""
    moments = ("position", "at", "started", "updated", "scheduled", "ended", "begun", "fold")
    return {name: value for name, value in row.items() if name not in moments}

"""The projection *sagas* says of every instance what its journal says, and finds what a filter wants."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic_core import from_json
from sqlalchemy import select

from amends.domain.ids import InstanceId
from amends.errors import InvalidFilter
from amends.projections.build import build
from amends.projections.builtin import Sagas
from amends.projections.builtin.finding import count, find
from amends.projections.builtin.sagas import fields, sagas
from amends.projections.counts import count_states
from amends.projections.database import Database
from amends.projections.filter import UNREADABLE, parse_filter
from amends.projections.sagas import SagaSummary, newest_first, summarise
from amends.sagas.retention import purge
from amends.stores.memory import MemoryStore
from amends.stores.port import Removal
from amends.testing.clock import EPOCH, ManualClock
from tests.integration.projections.stories import STORIES, append, store_of_stories
from tests.replay import golden


def told(summary: SagaSummary) -> dict[str, object]:
    """What is shown of an instance."""
    step, error = summary.step, summary.error
    return {
        "instance": summary.instance,
        "state": summary.state,
        "step": None if step is None else (step.seq, step.activity, step.attempt, step.retry_at),
        "parked": [step.seq for step in summary.parked],
        "error": None if error is None else (error.type, error.message),
        "next_timer": summary.next_timer,
        "started": summary.started_at,
        "updated": summary.updated_at,
        "deadline": summary.deadline,
        "events": summary.events,
        "fault": None if summary.fault is None else str(summary.fault),
    }


@pytest.mark.parametrize("story", STORIES)
def test_a_fold_that_was_put_away_goes_on_as_if_it_had_not_been(story: str) -> None:
    kept = golden.read(story)
    whole, pieces = SagaSummary(kept.instance), SagaSummary(kept.instance)
    for record in kept.records:
        whole.take([record])
        pieces.take([record])
        pieces = SagaSummary.unfolded(kept.instance, pieces.folded())
        assert told(pieces) == told(whole)
    assert str(whole.state) == kept.status


async def test_the_tables_say_what_the_journals_say(database: Database) -> None:
    store = await store_of_stories()
    await build(Sagas(), store, database)
    found = await database.look(lambda c: find(c, parse_filter(""), EPOCH, 100))
    assert [told(one) for one in found.instances] == [
        told(one) async for one in newest_first(store)
    ]
    rows = await database.query(select(sagas))
    assert len(rows) == len(STORIES)
    for row in rows:
        summary = await summarise(store, InstanceId(row["saga"], row["id"]))
        assert row["state"] == str(summary.state)
        assert row["step"] == (summary.step.activity if summary.step else None)
        assert (row["started"], row["updated"]) == (summary.started_at, summary.updated_at)
        assert row["error_type"] == (summary.error.type if summary.error else None)
    counted = await database.look(count)
    assert counted == {
        (saga, str(state)): number for (saga, state), number in (await count_states(store)).items()
    }


def some_filters() -> list[str]:
    inputs = [from_json(golden.read(story).records[0].data).get("input") for story in STORIES]
    one = next(input for input in inputs if isinstance(input, dict))
    name, value = next((name, value) for name, value in one.items() if isinstance(value, str))
    return [
        "",
        "state:completed",
        "state:compensated,parked,terminated",
        "state:com*",
        "saga:transfer",
        "saga:transfer state:completed",
        "saga:t*",
        "id:transfer_*",
        "id:timers,signals",
        "older:5h",
        "newer:5h",
        "older:2h newer:10h state:completed",
        "idle:3h",
        "step:*",
        "error:*",
        "error:Refused",
        "error:Refused,TimeoutError saga:transfer",
        "step:withdraw,deposit state:running",
        f'{name}:"{value}"',
        f"{name}:{value[:1]}* state:completed",
        f'{name}:"not this one"',
    ]


@pytest.mark.parametrize("rare", [0, 2000], ids=["a value is common", "a value is rare"])
async def test_it_finds_what_the_log_has(
    database: Database, rare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amends.projections.builtin.finding.RARE", rare)
    store = await store_of_stories()
    await build(Sagas(), store, database)
    now = EPOCH + timedelta(hours=len(STORIES))
    hits = set()
    for text in some_filters():
        filter = parse_filter(text)
        wanted = [told(one) async for one in newest_first(store) if filter.fits(one, now)]
        for limit in (3, 100):
            found = await database.look(lambda c: find(c, filter, now, limit))  # noqa: B023
            assert [told(one) for one in found.instances] == wanted[:limit], text
            assert found.more == (len(wanted) > limit)
        hits.add(len(wanted))
    assert len(hits) > 4  # they do not all find the same


async def test_a_name_that_no_input_has_is_pointed_at(database: Database) -> None:
    await build(Sagas(), await store_of_stories(), database)
    with pytest.raises(InvalidFilter, match="no instance has a value 'payed'"):
        await database.look(lambda c: find(c, parse_filter("payed:x"), EPOCH, 1))


async def test_a_journal_that_cannot_be_read_is_shown_as_such(database: Database) -> None:
    store = MemoryStore(ManualClock())
    records = golden.read("timers").records
    for record in (records[0], records[1]._replace(type="FromTomorrow"), *records[2:4]):
        await append(store, InstanceId("timers", "t"), record)
    await build(Sagas(), store, database)
    found = await database.look(lambda c: find(c, parse_filter("state:parked"), EPOCH, 9))
    assert [told(one) for one in found.instances] == [
        told(one) async for one in newest_first(store)
    ]
    (row,) = await database.query(select(sagas.c.state, sagas.c.events))
    assert row == {"state": UNREADABLE, "events": 1}


async def test_an_id_that_is_started_again_begins_anew(database: Database) -> None:
    store = MemoryStore(ManualClock())
    instance = InstanceId("timers", "t")
    for record in golden.read("timers").records:
        await append(store, instance, record)
    first = await summarise(store, instance)
    assert first.state.is_final
    await store.remove([Removal(instance.stream, first.events - 1)])
    await append(store, instance, golden.read("timers").records[0])
    await build(Sagas(), store, database)
    (row,) = await database.query(select(sagas))
    assert (row["state"], row["events"]) == ("running", 1)


async def test_what_is_purged_is_forgotten(database: Database) -> None:
    store = await store_of_stories()
    ended = [one.instance async for one in newest_first(store) if one.state.is_final]
    clock = ManualClock(EPOCH + timedelta(days=1000))
    await purge(store, clock, timedelta(hours=1))
    gone = {*ended} - {one.instance async for one in newest_first(store)}
    assert gone
    await build(Sagas(), store, database)
    found = await database.look(lambda c: find(c, parse_filter(""), EPOCH, 100))
    assert not gone & {one.instance for one in found.instances}
    kept = await database.query(select(fields.c.saga, fields.c.id))
    assert not gone & {InstanceId(row["saga"], row["id"]) for row in kept}

"""Journals that were damaged: each gets its named error or is stalled, and moves no money."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from amends import App, InstanceId, Status
from amends.cli.timeline import Timeline
from amends.domain import messages as m
from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import NO_STREAM
from amends.errors import DecodeError, DeterminismError, InvalidJournal
from amends.projections.sagas import SagaSummary
from amends.sagas.execution import SagaBug
from amends.sagas.reconcile import reconcile
from amends.sagas.replay import fold, replay
from amends.sagas.retention import may_go
from amends.stores.port import Append
from amends.testing.clock import EPOCH
from amends.testing.harness import Harness, run_app
from tests.simulation.bank import Bank, open_bank
from tests.simulation.scenarios import SCENARIOS, Scenario, app, bank_of

WHOLE = [scenario for scenario in SCENARIOS if scenario.end is not Status.CANCELLED]
Records = list[RecordedEvent]

quick = settings(max_examples=150, deadline=None, derandomize=True)


@cache
def recorded(scenario: Scenario) -> tuple[RecordedEvent, ...]:
    open_bank(bank_of(scenario))

    async def main(harness: Harness) -> Records:
        handle = await scenario.run(harness)
        await harness.advance(100)
        return await handle.journal()

    return tuple(run_app(app, main))


# --- ways to damage a journal


def drop(records: Records, at: int, other: int) -> None:
    del records[at]


def double(records: Records, at: int, other: int) -> None:
    records.insert(other, records[at]._replace(id=uuid4()))


def swap(records: Records, at: int, other: int) -> None:
    records[at], records[other] = records[other], records[at]


def cut_off(records: Records, at: int, other: int) -> None:
    del records[at:]


def of_unknown_type(records: Records, at: int, other: int) -> None:
    records[at] = records[at]._replace(type="Unheard", metadata=b"{}")


def of_newer_schema(records: Records, at: int, other: int) -> None:
    metadata = json.loads(records[at].metadata) | {"schema": 99}
    records[at] = records[at]._replace(metadata=json.dumps(metadata).encode())


def of_another_type(records: Records, at: int, other: int) -> None:
    records[at] = records[at]._replace(type=records[other].type)


def not_json(records: Records, at: int, other: int) -> None:
    records[at] = records[at]._replace(data=records[at].data[: other % 7])


def another_field(records: Records, at: int, other: int) -> None:
    data: dict[str, Any] = json.loads(records[at].data)
    fields = list(data) or ["at"]
    data[fields[other % len(fields)]] = [None, -1, "x", 10**6, {}][other % 5]
    records[at] = records[at]._replace(data=json.dumps(data).encode())


DAMAGES: list[Callable[[Records, int, int], None]] = [
    drop,
    double,
    swap,
    cut_off,
    of_unknown_type,
    of_newer_schema,
    of_another_type,
    not_json,
    another_field,
]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Scenario, Records]:
    """A scenario and a journal of it, damaged; its versions as recorded or without a gap."""
    scenario = draw(st.sampled_from(WHOLE))
    records = list(recorded(scenario))
    for damage in draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=2)):
        if records:
            last = len(records) - 1
            with suppress(ValueError):  # what is no JSON any more has no fields
                damage(records, draw(st.integers(0, last)), draw(st.integers(0, last)))
    if draw(st.booleans()):
        records = [record._replace(version=number) for number, record in enumerate(records)]
    return scenario, records


@quick
@given(damaged())
def test_it_is_read_or_refused_by_name(case: tuple[Scenario, Records]) -> None:
    scenario, records = case
    instance = InstanceId.of(scenario.saga, "1")
    with suppress(InvalidJournal, DecodeError):
        fold(instance, records)
    with suppress(InvalidJournal, DecodeError, DeterminismError, SagaBug):
        replay(app.sagas[scenario.saga], instance, records, app.activities).discard()


@quick
@given(damaged())
def test_whoever_shows_it_or_might_remove_it_copes_with_it(case: tuple[Scenario, Records]) -> None:
    scenario, records = case
    instance = InstanceId.of(scenario.saga, "1")
    summary = SagaSummary(instance)
    summary.take(records)
    try:
        whole = fold(instance, records).status
    except (InvalidJournal, DecodeError):
        whole = None
    # What a summary cannot know is whether a step was ever scheduled.
    assert whole is None or summary.fault is not None or summary.state is whole
    assert len(Timeline(whole=True).lines(records)) == len(records)
    if records:
        with suppress(InvalidJournal, DecodeError):
            gone = asyncio.run(may_go(instance, records, EPOCH))
            assert not gone or (whole is not None and whole.is_final)


@settings(quick, max_examples=60)
@given(damaged())
def test_it_moves_no_money_and_stops_nobody_else(case: tuple[Scenario, Records]) -> None:
    scenario, records = case
    whole = {f"{scenario.saga}/1/{seq}" for seq in range(1, 20)}
    bank = open_bank(Bank())

    async def main(harness: Harness) -> None:
        store, broker = harness.client.backend.store, harness.client.backend.broker
        stream = InstanceId.of(scenario.saga, "1").stream
        # A store numbers events by itself.
        events = [NewEvent(uuid4(), r.type, r.data, r.metadata) for r in records]
        if events:
            await store.append(Append(stream, events, NO_STREAM))
        done = await reconcile(store, broker)
        assert done.unreadable <= [record.type for record in records].count("SagaStarted")
        await harness.client.send(m.WakeSaga(saga=scenario.saga, id="1"))
        await harness.client.send(m.CancelSaga(saga=scenario.saga, id="1", who="x", why="x"))
        other = await harness.start(app.sagas["transfer"], id="other")
        assert await other.result() == ["transfer/other/1", "transfer/other/2"]
        await harness.advance(600)
        assert bank.standing_of("transfer/other") == {"transfer/other/1", "transfer/other/2"}
        # What an open instance still asks for, it asks for under the keys that it always had.
        assert bank.booked.keys() - bank.standing_of("transfer/other") <= whole
        assert all(letter.detail for letter in await harness.dead_letters())

    run_app(app, main)


def test_the_application_is_whole() -> None:
    assert isinstance(app, App)
    assert all(recorded(scenario) for scenario in WHOLE)

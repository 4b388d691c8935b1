"""The engine dies before and after everything it does, once in each run; another takes its place
over the same journals and messages, and the end is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from amends import Settings
from amends.domain.removals import REMOVALS
from amends.testing.crashes import CrashPoints, crash_at_every_point
from amends.testing.harness import EVERY_TURN_REPLAYS, Harness, run_app
from amends.testing.invariants import check_journal, check_replay
from tests.simulation.bank import open_bank
from tests.simulation.scenarios import SCENARIOS, SMALLEST, Scenario, app, bank_of

FOR_AN_HOUR = Settings(store="memory://", cache_max=0, calm_gc=False, retention_days=1 / 24)
CACHED = Settings(store="memory://", calm_gc=False)


def run(
    scenario: Scenario, points: CrashPoints | Sequence[CrashPoints], settings: Settings
) -> None:
    bank = open_bank(bank_of(scenario))

    async def main(harness: Harness) -> None:
        handle = await scenario.run(harness)
        # Whatever is late may come, and every timer that nobody wants any more.
        await harness.advance(2 * 86400)
        broker = harness.client.backend.broker
        assert [d for d in await broker.depths() if d.ready or d.delayed] == []
        assert await harness.dead_letters() == []
        records = await handle.journal()
        check_journal(app, records)
        check_replay(app, records)
        assert all(len(undos) == 1 for undos in bank.undone_by.values()), bank.undone_by

    run_app(app, main, points=points, settings=settings)


def name_of(scenario: Scenario) -> str:
    return scenario.name.replace(" ", "-")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
@pytest.mark.parametrize("settings", [EVERY_TURN_REPLAYS, CACHED], ids=["replayed", "cached"])
def test_the_end_is_the_same_wherever_the_engine_dies(
    scenario: Scenario, settings: Settings
) -> None:
    points = crash_at_every_point(lambda points: run(scenario, points, settings))
    # Of each of its events something was appended, published or acknowledged.
    assert points >= 25


def test_it_is_the_same_wherever_two_engines_die_one_after_the_other() -> None:
    single = crash_at_every_point(lambda points: run(SMALLEST, points, EVERY_TURN_REPLAYS))
    pairs = 0
    for first in range(1, single + 1):

        def die_again(second: CrashPoints, first: int = first) -> None:
            run(SMALLEST, [CrashPoints(first), second], EVERY_TURN_REPLAYS)

        pairs += crash_at_every_point(die_again)
    assert pairs > single * 10


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_its_journal_goes_in_the_end_wherever_the_engine_dies(scenario: Scenario) -> None:
    """And neither the engine's death nor what is late makes anything happen once more."""

    def run_and_forget(points: CrashPoints) -> None:
        bank = open_bank(bank_of(scenario))

        async def main(harness: Harness) -> None:
            await scenario.run(harness)
            calls = len(bank.calls)
            await harness.advance(2 * 86400)
            left = await harness.client.backend.store.read_all()
            assert [record for record in left if record.stream != REMOVALS] == []
            broker = harness.client.backend.broker
            assert [d for d in await broker.depths() if d.ready or d.delayed or d.dead] == []
            assert all(len(undos) == 1 for undos in bank.undone_by.values()), bank.undone_by
            # Only what was on its way when the saga ended.
            assert len(bank.calls) <= calls + 1

        run_app(app, main, points=points, settings=FOR_AN_HOUR)

    crash_at_every_point(run_and_forget)

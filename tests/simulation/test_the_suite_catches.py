"""Who watches the watchers: engines broken on purpose do not get past crash points and seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from amends.testing.crashes import CrashPoints, crash_at_every_point
from amends.testing.harness import EVERY_TURN_REPLAYS
from tests.simulation.defects import DEFECTS, Patch
from tests.simulation.journeys import run_seed
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.test_crash_points import run

SEEDS = 60


def crash(scenario: Scenario, points: CrashPoints) -> None:
    run(scenario, points, EVERY_TURN_REPLAYS)


def caught_by(seeds: int) -> str | None:
    """The first part of the suite that fails, cheapest first."""
    for scenario in SCENARIOS:
        try:
            crash_at_every_point(partial(crash, scenario))
        except BaseException as error:
            return f"scenario {scenario.name!r}: {_first(error)}"
    for seed in range(seeds):
        try:
            run_seed(seed)
        except BaseException as error:
            return f"seed {seed}: {_first(error)}"
    return None


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:200]}"


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_broken_engine_is_caught(
    defect: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    assert caught_by(SEEDS) is not None

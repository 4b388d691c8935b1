"""Who watches the watchers: engines broken on purpose do not get past crash points and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from amends.testing.crashes import CrashPoints, crash_at_every_point
from amends.testing.harness import EVERY_TURN_REPLAYS
from tests.simulation.defects import DEFECTS, Patch
from tests.simulation.journeys import run_seed
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.test_crash_points import run

FIRST_SEEDS = 20
SEEDS = 60


def crash(scenario: Scenario, points: CrashPoints) -> None:
    run(scenario, points, EVERY_TURN_REPLAYS)


def attempts() -> Iterator[tuple[str, Callable[[], object]]]:
    """The parts of the suite, cheapest first."""
    for scenario in SCENARIOS:
        yield f"{scenario.name}, without a crash", partial(crash, scenario, CrashPoints())
    for seed in range(FIRST_SEEDS):
        yield f"seed {seed}", partial(run_seed, seed)
    for scenario in SCENARIOS:
        yield scenario.name, partial(crash_at_every_point, partial(crash, scenario))
    for seed in range(FIRST_SEEDS, SEEDS):
        yield f"seed {seed}", partial(run_seed, seed)


def caught() -> str | None:
    """The first part of the suite that fails, and how."""
    for name, attempt in attempts():
        try:
            attempt()
        except BaseException as error:
            return f"{name}: {_first(error)}"
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
    by = caught()
    print(by)  # noqa: T201 - `pytest -s` shows who caught it
    assert by is not None


def test_a_sound_engine_is_not() -> None:
    for seed in range(FIRST_SEEDS):
        run_seed(seed)

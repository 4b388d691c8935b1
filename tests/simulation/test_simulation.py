"""The whole engine in a world that goes wrong, from seeds.

`AMENDS_SEEDS=10000` runs more of them, and `AMENDS_SEED=123` one that failed.
"""

from __future__ import annotations

import pytest

from amends.testing.simulation import seeds
from tests.simulation.journeys import run_seed

CHUNK = 50
SEEDS = seeds(500)


@pytest.mark.timeout(CHUNK * 10)
@pytest.mark.parametrize("first", range(0, len(SEEDS), CHUNK))
def test_whatever_goes_wrong_all_is_paid_or_undone_in_the_end(first: int) -> None:
    for seed in SEEDS[first : first + CHUNK]:
        run_seed(seed)

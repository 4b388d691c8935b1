"""The whole engine in a world that goes wrong, from seeds.

`AMENDS_SEEDS=10000` runs more of them, and `AMENDS_SEED=123` one that failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amends.testing.invariants import Violation
from amends.testing.simulation import Simulation, Weather, seeds, simulate
from tests.simulation.bank import Bank, open_bank
from tests.simulation.journeys import app, in_order, run_seed
from tests.simulation.scenarios import end_of

CHUNK = 50
SEEDS = seeds(500)


@pytest.mark.timeout(CHUNK * 10)
@pytest.mark.parametrize("first", range(0, len(SEEDS), CHUNK))
def test_whatever_goes_wrong_all_is_paid_or_undone_in_the_end(first: int) -> None:
    for seed in SEEDS[first : first + CHUNK]:
        run_seed(seed)


def test_a_seed_is_a_whole_history() -> None:
    """Told by another process, whose strings hash otherwise."""
    code = (
        "import logging, structlog\n"
        "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))\n"
        "from tests.simulation.journeys import run_seed\n"
        "print(*(run_seed(seed).trace for seed in range(10)))\n"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
        cwd=root,
    ).stdout.split()
    assert told == [run_seed(seed).trace for seed in range(10)]
    assert len(set(told)) == 10


def test_seeds_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AMENDS_SEED", "AMENDS_SEEDS"):
        monkeypatch.delenv(name, raising=False)
    assert list(seeds(3)) == [0, 1, 2]
    monkeypatch.setenv("AMENDS_SEEDS", "2")
    assert list(seeds(3)) == [0, 1]
    monkeypatch.setenv("AMENDS_SEED", "123")
    assert list(seeds(3)) == [123]


def test_a_failing_seed_says_how_to_run_it_again() -> None:
    def judge(_: object) -> None:
        raise AssertionError("the money is gone")

    async def clients(world: Simulation) -> None:
        """Nobody comes."""

    with pytest.raises(AssertionError, match="the money is gone") as caught:
        simulate(app, clients, seed=123, judge=judge)
    assert "AMENDS_SEED=123 runs this again" in caught.value.__notes__[0]


def test_an_instance_that_never_ends_is_a_violation() -> None:
    open_bank(Bank())
    journey = {"legs": [{"kind": "sleep", "seconds": 1e6}]}

    async def clients(world: Simulation) -> None:
        input = in_order.input.from_json_value(journey)
        handle = await world.insist(lambda: world.client.start(in_order, input, id="long"))
        await end_of(handle)

    with pytest.raises(ExceptionGroup) as caught:
        simulate(app, clients, seed=1, weather=Weather(calm_s=100))
    assert caught.group_contains(Violation, match=r"these have not ended: journey/long \(running\)")


def test_the_worlds_are_bad_enough() -> None:
    """Else the seeds would prove nothing."""
    seen = [run_seed(seed) for seed in range(60)]
    assert sum(simulated.crashes for simulated in seen) > 50
    assert sum(simulated.losses for simulated in seen) > 2
    ends = {records[-1].type for one in seen for records in one.journals.values()}
    kinds = {record.type for one in seen for records in one.journals.values() for record in records}
    assert {"SagaCompleted", "SagaCompensated", "SagaCancelled", "SagaFailed"} <= ends | kinds
    assert {"StepUnknown", "StepParked", "StepResolved", "StepAbandoned", "TimerFired"} <= kinds
    assert {"StepReportedLate", "SignalReceived", "CancelRequested", "WentBy"} <= kinds
    assert "SagaStalled" not in kinds

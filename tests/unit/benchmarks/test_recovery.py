"""What W6 takes for a fault, and what it counts."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.measure import CheckFailed
from benchmarks.recovery import Step, check_steps

ONCE: Counter[Step] = Counter([("saga-0", "before"), ("saga-0", "after")])


def test_a_step_that_was_running_may_run_again() -> None:
    running: Step = ("saga-0", "before")
    check_steps(ONCE, {running}, 1)
    check_steps(ONCE + Counter([running]), {running}, 1)


def test_a_step_whose_outcome_was_on_record_may_not() -> None:
    with pytest.raises(CheckFailed, match=r"its outcome was on record.*'after'"):
        check_steps(ONCE + Counter([("saga-0", "after")]), {("saga-0", "before")}, 1)


def test_a_broker_apart_may_have_two_copies_of_a_command() -> None:
    check_steps(ONCE + Counter([("saga-0", "after")]), None, 1)
    with pytest.raises(CheckFailed, match="never ran"):
        check_steps(ONCE, None, 2)


def test_a_step_that_never_ran_is_found() -> None:
    with pytest.raises(CheckFailed, match=r"never ran.*'saga-1', 'after'"):
        check_steps(ONCE, set(), 2)

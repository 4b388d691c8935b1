import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.domain.retry import GiveUp, Retry, RetryAt
from amends.errors import DefinitionError

#: Growth by less than this would be lost in the rounding of floats.
coefficients = st.just(1.0) | st.floats(1.01, 100)


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> Retry:
    initial_s = draw(st.floats(0, 1e6))
    chosen: dict[str, Any] = {
        "initial_s": initial_s,
        "coefficient": draw(coefficients),
        "max_interval_s": draw(st.floats(initial_s, 1e9)),
        "max_attempts": None,
        "jitter": draw(st.floats(0, 1)),
    }
    return Retry(**chosen | fixed)


def delay_s(policy: Retry, attempt: int, seed: str = "transfer/1/2") -> float:
    decision = policy.decide(attempt=attempt, error_type="E", elapsed_s=0, seed=seed)
    assert isinstance(decision, RetryAt)
    return decision.delay_s


def decide(policy: Retry, attempt: int = 1, error: str = "E", elapsed_s: float = 0) -> object:
    return policy.decide(attempt=attempt, error_type=error, elapsed_s=elapsed_s, seed="s")


class TestDelay:
    def test_doubles_from_half_a_second_to_a_minute_by_default(self) -> None:
        policy = Retry(jitter=0, max_attempts=None)
        assert [delay_s(policy, n) for n in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]

    @given(policies(), st.integers(1, 10**6), st.text())
    def test_stays_within_the_cap_and_its_jitter(
        self, policy: Retry, attempt: int, seed: str
    ) -> None:
        try:
            base_s = policy.initial_s * policy.coefficient ** (attempt - 1)
        except OverflowError:
            base_s = math.inf if policy.initial_s else 0
        base_s = min(base_s, policy.max_interval_s)
        low_s, high_s = base_s * (1 - policy.jitter), base_s * (1 + policy.jitter)
        delay = delay_s(policy, attempt, seed)
        assert low_s <= delay <= high_s or math.isclose(delay, base_s)

    @given(policies(jitter=0), st.integers(1, 10**6))
    def test_never_shrinks_without_jitter(self, policy: Retry, attempt: int) -> None:
        assert delay_s(policy, attempt) <= delay_s(policy, attempt + 1)

    @given(policies())
    def test_does_not_overflow(self, policy: Retry) -> None:
        assert math.isfinite(delay_s(policy, 10**6))

    @given(policies(), st.integers(1, 100), st.text())
    def test_is_the_same_whenever_it_is_asked(self, policy: Retry, attempt: int, seed: str) -> None:
        assert delay_s(policy, attempt, seed) == delay_s(policy, attempt, seed)

    def test_is_the_same_on_every_machine(self) -> None:
        # Known values: another hash, or Python's own, which differs by process, would not give them.
        policy = Retry(initial_s=1, jitter=0.5)
        known_s = [0.94541914, 1.587592285, 3.484992008]
        assert [delay_s(policy, n, "transfer/1/2") for n in (1, 2, 3)] == pytest.approx(known_s)

    def test_jitter_spreads_seeds_and_attempts_over_its_whole_range(self) -> None:
        policy = Retry(initial_s=1, coefficient=1, jitter=0.5, max_attempts=None)
        by_seed = [delay_s(policy, 1, f"transfer/{n}/1") for n in range(200)]
        by_attempt = [delay_s(policy, n) for n in range(1, 201)]
        for delays in (by_seed, by_attempt):
            assert min(delays) < 0.55
            assert max(delays) > 1.45
            assert 0.9 < sum(delays) / len(delays) < 1.1


class TestGivingUp:
    @given(st.integers(1, 1000))
    def test_at_max_attempts_and_not_before(self, most: int) -> None:
        policy = Retry(max_attempts=most)
        assert isinstance(decide(policy, most), GiveUp)
        assert isinstance(decide(policy, most + 1), GiveUp)
        assert most == 1 or isinstance(decide(policy, most - 1), RetryAt)

    def test_never_without_a_bound(self) -> None:
        assert isinstance(decide(Retry(max_attempts=None), 10**9, elapsed_s=1e9), RetryAt)

    def test_when_the_next_attempt_would_begin_too_late(self) -> None:
        policy = Retry(initial_s=2, jitter=0, max_elapsed_s=10)
        assert decide(policy, elapsed_s=8) == RetryAt(2)
        given_up = decide(policy, elapsed_s=8.5)
        assert given_up == GiveUp(
            "attempt 2 would begin 10.5 s after the first, and 10 s are allowed"
        )

    @pytest.mark.parametrize("kind", [ValueError, "ValueError"])
    def test_at_once_for_what_is_not_retryable(self, kind: str | type[BaseException]) -> None:
        policy = Retry(non_retryable=(kind,))
        assert decide(policy, error="ValueError") == GiveUp("ValueError is not retryable")
        assert isinstance(decide(policy, error="KeyError"), RetryAt)

    def test_the_reason_counts_the_attempts(self) -> None:
        assert decide(Retry(max_attempts=3), 3) == GiveUp("attempt 3 of 3 was the last")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"initial_s": -1}, "0 seconds or more"),
        ({"initial_s": math.nan}, "0 seconds or more"),
        ({"coefficient": 0.5}, "1 or more"),
        ({"coefficient": math.inf}, "1 or more"),
        ({"initial_s": 120}, "cannot be below initial_s=120"),
        ({"max_interval_s": math.inf}, "max_interval_s"),
        ({"max_attempts": 0}, "None to retry without end"),
        ({"max_elapsed_s": 0}, "None for no bound"),
        ({"jitter": 1.5}, "fraction"),
        ({"jitter": -0.1}, "fraction"),
        ({"non_retryable": "ValueError"}, "use a tuple"),
        ({"non_retryable": (int,)}, "exception class"),
        ({"non_retryable": ("",)}, "exception class"),
    ],
)
def test_a_policy_that_makes_no_sense_says_what_would(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Retry(**wrong)

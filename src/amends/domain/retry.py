"""When to try again: a policy that is pure data. Whoever waits and records is elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from amends.errors import DefinitionError


class RetryAt(NamedTuple):
    """Try again, so many seconds from now."""

    delay_s: float


class GiveUp(NamedTuple):
    """Do not try again, for a reason that a person can read."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a failed attempt is repeated.

    After attempt n the delay is `initial_s * coefficient ** (n - 1)` seconds, at most
    `max_interval_s`, and then up to the fraction `jitter` shorter or longer, so that what failed
    together does not come back together.

    `max_attempts` counts the first attempt too; None means without end. `max_elapsed_s` bounds
    the time from the first attempt to the beginning of the last. An error whose class is named
    in `non_retryable`, by its name or by itself, is final at once; subclasses are not meant,
    because an error that crossed a process is known by its name only.

    Raises DefinitionError for values that make no policy.
    """

    initial_s: float = 0.5
    coefficient: float = 2.0
    max_interval_s: float = 60.0
    max_attempts: int | None = 5
    max_elapsed_s: float | None = None
    jitter: float = 0.1
    non_retryable: tuple[str | type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        _check(
            0 <= self.initial_s < math.inf,
            f"initial_s={self.initial_s!r}: the first delay is 0 seconds or more",
        )
        _check(
            1 <= self.coefficient < math.inf,
            f"coefficient={self.coefficient!r}: each delay is at least as long as the one "
            "before, so use 1 or more (1 for equal delays)",
        )
        _check(
            self.initial_s <= self.max_interval_s < math.inf,
            f"max_interval_s={self.max_interval_s!r}: no delay is longer, so it cannot be below "
            f"initial_s={self.initial_s!r}",
        )
        _check(
            self.max_attempts is None or self.max_attempts >= 1,
            f"max_attempts={self.max_attempts!r}: the first attempt counts, so use 1 for no "
            "retries, or None to retry without end",
        )
        _check(
            self.max_elapsed_s is None or self.max_elapsed_s > 0,
            f"max_elapsed_s={self.max_elapsed_s!r}: use a number of seconds, or None for no bound",
        )
        _check(
            0 <= self.jitter <= 1,
            f"jitter={self.jitter!r}: it is the fraction of a delay by which it may vary, 0 to 1",
        )
        _check_non_retryable(self.non_retryable)

    def decide(
        self, *, attempt: int, error_type: str, elapsed_s: float, seed: str
    ) -> RetryAt | GiveUp:
        """What to do after attempt number `attempt` (from 1) ended with an error.

        `error_type` is the name of the error's class, `elapsed_s` the time since the first
        attempt began. The same arguments give the same answer on every machine and Python: the
        jitter comes from `seed` and the attempt, and from nothing else.
        """
        if error_type in self._final_types():
            return GiveUp(f"{error_type} is not retryable")
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return GiveUp(f"attempt {attempt} of {self.max_attempts} was the last")
        delay_s = self._delay_s(attempt, seed)
        if self.max_elapsed_s is not None and elapsed_s + delay_s > self.max_elapsed_s:
            return GiveUp(
                f"attempt {attempt + 1} would begin {elapsed_s + delay_s:.3g} s after the first, "
                f"and {self.max_elapsed_s:g} s are allowed"
            )
        return RetryAt(delay_s)

    def _final_types(self) -> set[str]:
        return {kind if isinstance(kind, str) else kind.__name__ for kind in self.non_retryable}

    def _delay_s(self, attempt: int, seed: str) -> float:
        try:
            grown_s = self.initial_s * self.coefficient ** (attempt - 1)
        except OverflowError:
            # Nothing grows to nothing, however often.
            grown_s = math.inf if self.initial_s else 0.0
        return min(grown_s, self.max_interval_s) * (1 + self.jitter * _swing(f"{seed}/{attempt}"))


def _swing(seed: str) -> float:
    """A number from -1 to 1, spread evenly over the seeds. `hash` would differ by process."""
    digest = blake2b(seed.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / (2**64 - 1) * 2 - 1


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise DefinitionError(f"this retry policy makes no sense: {what}")


def _check_non_retryable(kinds: object) -> None:
    _check(
        isinstance(kinds, tuple),
        f"non_retryable={kinds!r}: use a tuple; one error alone is written (SomeError,)",
    )
    assert isinstance(kinds, tuple)
    for kind in kinds:
        is_error = isinstance(kind, type) and issubclass(kind, BaseException)
        _check(
            is_error or (isinstance(kind, str) and kind != ""),
            f"non_retryable has {kind!r}: name an exception class, or give the class itself",
        )

"""What a simulated world does to the engines in it, as data; a seed draws one."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from amends.testing.faults import FaultRates

NO_FAULTS: Final = FaultRates()


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What a simulated world does to the engines, while the storm lasts."""

    engines: int = 2
    apart: bool = False
    """Whether the first engine runs no activities and the second no sagas, so that each dies alone."""
    partitions: int = 1
    cache_max: int = 100
    cache_wait_s_per_event: float = 10.0
    rates: FaultRates = NO_FAULTS
    points_mean: float | None = 100.0
    """After how many of its operations an engine dies, on average; None: never."""
    repair_s_max: float = 20.0
    """How long a dead engine is missing."""
    cuts_mean_s: float | None = None
    """How often an engine's connections are cut: what it had in hand goes to others, too, while it
    goes on with it."""
    ahead_s_max: float = 0.0
    """How far the engines' clocks are ahead of the broker's, or behind."""
    losses_mean_s: float | None = None
    """How often the broker loses everything; some time afterwards somebody reconciles."""
    storm_s: float = 100.0
    calm_s: float = 2 * 3600.0
    """How long all instances may take to their end when nothing goes wrong any more."""
    drain_s: float = 30 * 86400.0
    """When even the last timer that nobody waits for must have come back."""

    def part(self, number: int) -> dict[str, Any]:
        """What one of the engines does of the work, as an `Engine` takes it."""
        if not self.apart or self.engines < 2:
            return {}
        parts: list[dict[str, Any]] = [{"queues": ()}, {"orchestrates": False}]
        return parts[number] if number < len(parts) else {}

    @property
    def loses_messages(self) -> bool:
        """Whether it loses messages that only `reconcile` brings back."""
        return self.losses_mean_s is not None or self.rates.lose > 0

    @classmethod
    def drawn(cls, seed: int) -> Self:
        """A mixture that belongs to the seed: of each fault much, a little or, mostly, nothing,
        so that faults meet in all combinations and also alone.
        """
        rng = random.Random(f"weather {seed}")

        def some(*rates: float) -> float:
            return rng.choice([0.0] * len(rates) + list(rates))

        rates = FaultRates(
            error_before=some(0.02, 0.2),
            error_after=some(0.02, 0.2),
            read_error=some(0.02, 0.2),
            delay=some(0.05, 0.3),
            delay_s_max=rng.choice([0.1, 5.0]),
            duplicate=some(0.05, 0.3),
            redeliver=some(0.05, 0.2),
            reorder=some(0.5),
        )
        losing = rng.random() < 0.25
        return cls(
            engines=rng.choice([1, 2, 2, 3]),
            partitions=rng.choice([1, 1, 3]),
            cache_max=rng.choice([0, 1, 100]),
            rates=replace(rates, lose=some(0.02, 0.1)) if losing else rates,
            points_mean=rng.choice([None, 20.0, 100.0]),
            cuts_mean_s=rng.choice([None, None, 5.0, 30.0]),
            ahead_s_max=some(0.5, 10.0),
            losses_mean_s=rng.choice([None, 40.0]) if losing else None,
            cache_wait_s_per_event=rng.choice([0.0, 10.0, 1e6]),
            apart=rng.random() < 0.3,
        )

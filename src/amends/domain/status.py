"""The one word for where a saga instance stands."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """Where an instance stands."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    PARKED = "parked"
    STALLED = "stalled"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"

    @property
    def is_final(self) -> bool:
        """Whether the instance has ended."""
        return self in FINAL_STATUSES


FINAL_STATUSES: Final = frozenset(
    (Status.COMPLETED, Status.COMPENSATED, Status.FAILED, Status.CANCELLED, Status.TERMINATED)
)

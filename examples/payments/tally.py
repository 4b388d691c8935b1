"""What a run came to, counted from the log and from the step log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from examples.payments.log import Fact


@dataclass(slots=True)
class Tally:
    """How the sagas ended, and what it took.

    `attempts` are runs of an activity, as the activities themselves wrote down; `repeated` are
    those that began again under the same number, because the worker was killed before they could
    report.
    """

    completed: int = 0
    compensated: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    resolved: Counter[str] = field(default_factory=Counter)
    compensated_example: str | None = None
    resolved_example: str | None = None
    retries: int = 0
    timeouts: int = 0
    undos: int = 0
    probes: int = 0
    attempts: int = 0
    repeated: int = 0


def tally(log: Iterable[Fact], steps: Path) -> Tally:
    """Count. `steps` may be missing: then no activity ever ran."""
    made = Tally()
    for fact in log:
        if fact.stream.startswith("saga."):
            _count(fact, made)
    lines = Counter(steps.read_text(encoding="utf-8").splitlines()) if steps.exists() else Counter()
    made.attempts = lines.total()
    made.repeated = lines.total() - len(lines)
    return made


def _count(fact: Fact, made: Tally) -> None:
    data = fact.data
    match fact.type:
        case "SagaCompleted":
            made.completed += 1
        case "SagaCompensated":
            made.compensated[data["error"]["type"]] += 1
            made.compensated_example = made.compensated_example or fact.name
        case "SagaFailed":
            made.failed[data["error"]["type"]] += 1
        case "SagaCancelled" | "SagaTerminated":
            made.other[fact.type] += 1
        case "StepResolved":
            made.resolved[data["resolution"]] += 1
            made.resolved_example = made.resolved_example or fact.name
        case "StepAttemptFailed":
            made.retries += data.get("retry_at") is not None
            made.timeouts += data["outcome"] != "failed"
        case "StepScheduled":
            made.undos += data.get("kind") == "undo"
            made.probes += data.get("kind") == "probe"

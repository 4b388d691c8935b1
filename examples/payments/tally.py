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

    `attempts` are runs of an activity, as the activities themselves wrote down; `repeated` of them
    began again under the same number, because the worker was killed before they could report.
    """

    completed: int = 0
    compensated: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    decided: set[str] = field(default_factory=set)
    """Journals in which a person decided about a parked step."""
    completed_after_decision: int = 0
    retries: int = 0
    unanswered: int = 0
    probes: int = 0
    undos: int = 0
    attempts: int = 0
    repeated: int = 0
    refused_example: str | None = None
    unknown_example: str | None = None
    decided_example: str | None = None
    """One payment each that was compensated after a refusal, that was compensated without anybody
    knowing what had happened, and that a person decided about.
    """


def tally(log: Iterable[Fact], steps: Path) -> Tally:
    """Count. `steps` may be missing: then no activity ever ran."""
    made = Tally()
    for fact in log:
        if fact.stream.startswith("saga."):
            _count_ending(fact, made)
            _count_step(fact, made)
    lines: Counter[str] = Counter()
    if steps.exists():
        lines.update(steps.read_text(encoding="utf-8").splitlines())
    made.attempts = lines.total()
    made.repeated = lines.total() - len(lines)
    return made


def _count_ending(fact: Fact, made: Tally) -> None:
    match fact.type:
        case "SagaCompleted":
            made.completed += 1
            made.completed_after_decision += fact.stream in made.decided
        case "SagaCompensated":
            error = fact.data["error"]
            made.compensated[error["type"]] += 1
            if error.get("declared"):
                made.refused_example = made.refused_example or fact.name
            else:
                made.unknown_example = made.unknown_example or fact.name
        case "SagaFailed":
            made.failed[fact.data["error"]["type"]] += 1
        case "SagaCancelled" | "SagaTerminated":
            made.other[fact.type] += 1


def _count_step(fact: Fact, made: Tally) -> None:
    match fact.type:
        case "StepResolved":
            made.decided.add(fact.stream)
            made.decided_example = made.decided_example or fact.name
        case "StepAttemptFailed":
            made.retries += fact.data.get("retry_at") is not None
            made.unanswered += fact.data["outcome"] != "failed"
        case "StepScheduled":
            made.probes += fact.data.get("kind") == "probe"
            made.undos += fact.data.get("kind") == "undo"

"""Sagas, and what must come of each: a benchmark that loses or doubles something is wrong."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from amends import Client, Handle, Saga, SagaNotCompleted
from benchmarks import sagas as s
from benchmarks.measure import Driven, check, check_equal, drive

WARM_UP: Final = 300


@dataclass(frozen=True, kw_only=True)
class Case:
    """A saga, and what must come of it: its result or final state, its events, its runs."""

    saga: Saga[Any, Any]
    input: Any
    outcome: Any
    journal: Mapping[str, int]
    runs: Mapping[str, int]

    @property
    def messages(self) -> int:
        """How many it takes: its start, and a command and a report for each attempt of a step."""
        return 1 + 2 * self.journal.get("StepScheduled", 0)


TRANSFER: Final = Case(
    saga=s.transfer,
    input=s.Order(),
    outcome=20,
    journal={"SagaStarted": 1, "StepScheduled": 2, "StepCompleted": 2, "SagaCompleted": 1},
    runs={"withdraw": 1, "deposit": 1},
)
CHAIN10: Final = Case(
    saga=s.chain10,
    input=0,
    outcome=10,
    journal={"SagaStarted": 1, "StepScheduled": 10, "StepCompleted": 10, "SagaCompleted": 1},
    runs={"plus": 10},
)
COMPENSATE: Final = Case(
    saga=s.compensate,
    input=s.Order(),
    outcome="compensated",
    journal={
        "SagaStarted": 1,
        "StepScheduled": 5,
        "StepCompleted": 4,
        "StepAttemptFailed": 1,
        "StepFailed": 1,
        "CompensationStarted": 1,
        "SagaCompensated": 1,
    },
    runs={"withdraw": 1, "deposit": 1, "refuse": 1, "refund": 1, "take_back": 1},
)
FANOUT: Final = Case(
    saga=s.fanout,
    input=100,
    outcome=sum(range(1, 101)),
    journal={"SagaStarted": 1, "StepScheduled": 100, "StepCompleted": 100, "SagaCompleted": 1},
    runs={"plus": 100},
)


async def warm_up(client: Client) -> None:
    """What is measured next finds nothing cold, and nothing to collect."""
    await finish_all(client, TRANSFER, WARM_UP, 64)
    gc.collect()


async def finish_all(client: Client, case: Case, n: int, inflight: int) -> tuple[Driven, list[str]]:
    """Start sagas and wait for the outcome of each, which must be the right one. Gives their ids."""
    ids: list[str] = []

    async def one(_: int) -> None:
        ids.append(await finish(await client.start(case.saga, case.input), case))

    return await drive(n, inflight, one), ids


async def finish(handle: Handle[Any], case: Case) -> str:
    """Wait for a saga's outcome, which must be the right one. Gives its id."""
    outcome = await _outcome(handle)
    check(outcome == case.outcome, "wrong outcome", found=outcome, wanted=case.outcome)
    return handle.id


async def _outcome(handle: Handle[Any]) -> Any:
    try:
        return await handle.result()
    except SagaNotCompleted as ended:
        return ended.state


async def check_journals(
    client: Client, saga: Saga[Any, Any], ids: Sequence[str], wanted: Mapping[str, int]
) -> None:
    """Each saga was done once, and its journal says how."""
    check(len(set(ids)) == len(ids), "two sagas of one id")
    for id in ids:
        journal = await client.handle(saga, id).journal()
        found = Counter(record.type for record in journal)
        check_equal(found, wanted, f"the journal of {saga.name}/{id} is not as it should be")


def check_runs(runs: Mapping[str, int], done: Iterable[tuple[Case, int]]) -> None:
    """Activities were run as often as so many sagas of each case take, and those of the warm-up."""
    wanted: Counter[str] = Counter()
    for case, n in ((TRANSFER, WARM_UP), *done):
        wanted.update({name: each * n for name, each in case.runs.items()})
    check_equal(runs, wanted, "activities ran another number of times than they should")

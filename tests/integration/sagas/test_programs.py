"""Whatever a saga does: it ends, it replays, and each effect stays or is undone, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amends import Settings, Status
from amends.domain import events as e
from amends.domain.envelope import RecordedEvent
from amends.sagas import journal
from amends.sagas.replay import fold, replay
from amends.sagas.state import InstanceState
from amends.testing.faults import FaultRates
from amends.testing.harness import EVERY_TURN_REPLAYS, Harness, run_app
from tests.integration.sagas.programs import Books, Program, interpreter, programs
from tests.integration.sagas.support import ended

LIVE = Settings(store="memory://", cache_max=100)
Compensate = Literal["in_reverse", "in_parallel"]

quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)


class Run(NamedTuple):
    """What came of a program."""

    status: str
    events: list[e.JournalEvent]
    records: Sequence[RecordedEvent]
    books: Books
    state: InstanceState


def run(
    program: Program,
    compensate: Compensate,
    *,
    settings: Settings = EVERY_TURN_REPLAYS,
    cancel_at: int | None = None,
    rates: FaultRates | None = None,
    seed: int = 0,
) -> Run:
    """Run a program to its end, and until nothing is left to happen."""
    books = Books()
    saga, app = interpreter(books, compensate)

    async def scenario(harness: Harness) -> Run:
        handle = await harness.client.submit(saga, program, id="1")
        if cancel_at is not None:
            await harness.settle()
            await harness.advance(cancel_at)
            if not (await handle.status()).is_final:
                await handle.cancel(who="hypothesis", why="to see what happens")
        status = await ended(handle)
        await harness.advance(100_000)
        assert await harness.dead_letters() == []
        depths = await harness.client.backend.broker.depths()
        assert sum(depth.ready + depth.delayed for depth in depths) == 0
        records = await handle.journal()
        return Run(status, await harness.journal(handle), records, books, await handle.state())

    return run_app(app, scenario, settings=settings, rates=rates, seed=seed)


def check_replays(done: Run, compensate: Compensate) -> None:
    """Its journal, replayed, takes exactly the decisions on record, and ends in the same state."""
    saga, app = interpreter(Books(), compensate)
    execution = replay(saga, done.state.instance, done.records, app.activities)
    assert list(execution.decisions) == []
    folded = fold(done.state.instance, done.records)
    for state in (execution.state, folded):
        assert state.status == done.state.status
        assert state.version == len(done.records) - 1
        assert state.open_steps() == []
        assert state.timers == {}
    execution.discard()


def check_books(done: Run) -> None:
    """What happened was undone once if the saga was compensated. If it was completed, then what
    it had gone on without was: what it gave up, or caught as unknown.
    """
    undone = Counter(_seq(key) for key, _ in done.books.undone)
    undoable = {ev.seq for ev in done.events if isinstance(ev, e.StepScheduled) and ev.undo}
    unknown = {ev.seq for ev in done.events if isinstance(ev, e.StepUnknown)} & undoable
    happened = {_seq(key) for key in done.books.happened} & undoable
    assert set(undone.values()) <= {1}
    if done.status == Status.COMPLETED:
        given_up = {ev.seq for ev in done.events if isinstance(ev, e.StepAbandoned)}
        assert set(undone) == unknown | happened & given_up
    else:
        assert set(undone) == unknown | happened
        assert bool(undone) or done.status in (Status.FAILED, Status.CANCELLED)
    for key, result in done.books.undone:
        assert result == (key if _seq(key) in happened else None)


def _seq(key: str) -> int:
    return int(key.rpartition("/")[2])


@quick
@given(programs(), st.sampled_from(["in_reverse", "in_parallel"]))
def test_every_program_ends_and_its_effects_stay_or_are_undone_once(
    program: Program, compensate: Compensate
) -> None:
    done = run(program, compensate)
    assert done.status in (Status.COMPLETED, Status.COMPENSATED, Status.FAILED)
    check_replays(done, compensate)
    check_books(done)


@quick
@given(programs(), st.integers(min_value=0, max_value=60))
def test_every_program_can_be_cancelled_at_any_moment(program: Program, cancel_at: int) -> None:
    done = run(program, "in_reverse", cancel_at=cancel_at)
    check_replays(done, "in_reverse")
    check_books(done)


@quick
@given(programs())
def test_a_live_instance_decides_what_its_replays_decide(program: Program) -> None:
    assert run(program, "in_reverse", settings=LIVE).events == run(program, "in_reverse").events


@quick
@given(programs(), st.integers(min_value=0, max_value=1000))
def test_every_program_ends_in_a_bad_world_too(program: Program, seed: int) -> None:
    rates = FaultRates(
        error_before=0.05,
        error_after=0.05,
        delay=0.2,
        delay_s_max=20,
        duplicate=0.05,
        redeliver=0.03,
        reorder=0.3,
    )
    done = run(program, "in_reverse", rates=rates, seed=seed)
    check_replays(done, "in_reverse")
    # An effect may happen twice there, and what was given up may happen late: undone it is.
    undone = {key for key, _ in done.books.undone}
    scheduled = [event for event in done.events if isinstance(event, e.StepScheduled)]
    undoable = {f"program/1/{step.seq}" for step in scheduled if step.undo is not None}
    if done.status in (Status.COMPENSATED, Status.FAILED):
        assert set(done.books.happened) & undoable <= undone


def test_a_programs_journal_is_its_own_kind_of_json() -> None:
    """The strategy makes what the saga takes: a program survives its way into the journal."""
    program = Program.model_validate({"root": {"kind": "act"}})
    done = run(program, "in_reverse")
    assert isinstance(done.events[0], e.SagaStarted)
    assert Program.model_validate(done.events[0].input) == program
    assert journal.decode(done.records[-1]) == e.SagaCompleted(seq=0, result=1)

"""A summary says of an instance what the engine's own fold says, and lists have the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amends.domain import events as e
from amends.domain.envelope import NewEvent, RecordedEvent, encode_metadata
from amends.domain.ids import NO_STREAM, InstanceId, Position
from amends.domain.status import Status
from amends.errors import DecodeError
from amends.projections.sagas import INSTANCES_PAGE, SagaSummary, newest_first, summarise
from amends.sagas.replay import fold
from amends.sagas.state import InstanceState
from amends.sagas.step import Outcome
from amends.stores.memory import MemoryStore
from amends.stores.port import Append
from amends.testing.clock import EPOCH, VirtualClock

INSTANCE = InstanceId("transfer", "1")
ERROR = e.ErrorInfo(type="Broken", message="the bank is gone")
MINUTE = timedelta(minutes=1)

# --- the fold


def journal(events: Sequence[e.JournalEvent]) -> list[RecordedEvent]:
    metadata = encode_metadata(correlation_id="c", causation_id="c")
    return [
        RecordedEvent(
            INSTANCE.stream, version, Position(version), uuid4(), type(event).__name__,
            event.model_dump_json().encode(), metadata, EPOCH + version * MINUTE,
        )
        for version, event in enumerate(events)
    ]  # fmt: skip


class Writer:
    """Writes journals that an engine could have written, as far as steps go."""

    def __init__(self) -> None:
        self.events: list[e.JournalEvent] = [
            e.SagaStarted(at=EPOCH, saga=INSTANCE.saga, id=INSTANCE.id, input=None)
        ]
        self._seq = 0

    @property
    def now(self) -> datetime:
        return EPOCH + len(self.events) * MINUTE

    def state(self) -> InstanceState:
        return fold(INSTANCE, journal(self.events))

    def schedule(self, undo: str | None, pivot: bool) -> None:
        self._seq += 1
        self.events.append(
            e.StepScheduled(
                seq=self._seq, activity=f"a{self._seq}", queue="q", undo=undo, pivot=pivot
            )
        )

    def report(self, data: st.DataObject) -> None:
        """Something about a step that is open; or late, about one that is not any more."""
        state = self.state()
        is_open = {step.seq for step in state.open_steps()}
        closed = state.steps.keys() - is_open
        if closed and (not is_open or data.draw(st.booleans())):
            seq = data.draw(st.sampled_from(sorted(closed)))
            self.events += data.draw(st.sampled_from(self._late_reports(state, seq)))
        elif is_open:
            seq = data.draw(st.sampled_from(sorted(is_open)))
            self.events.append(data.draw(st.sampled_from(self._reports(state, seq))))

    def _late_reports(self, state: InstanceState, seq: int) -> list[list[e.JournalEvent]]:
        at, step = self.now, state.steps[seq]
        if step.parked:
            by_hand = (e.Resolution.SKIP, e.Resolution.COMPLETE)
            return [
                [e.StepResolved(at=at, seq=seq, resolution=resolution, who="w", why="y")]
                for resolution in by_hand
            ]
        late = [
            e.StepReportedLate(at=at, seq=seq, attempt=1, completed=done) for done in (False, True)
        ]
        choices: list[list[e.JournalEvent]] = [[fact] for fact in late]
        if step.told is not Outcome.COMPLETED:
            choices.append([late[1], e.StepParked(at=at, seq=seq, error=ERROR)])
        if step.outcome is not Outcome.COMPLETED:
            unsure = late[0].model_copy(update={"outcome": e.AttemptOutcome.VANISHED})
            choices += [
                [unsure, e.StepUnknown(at=at, seq=seq, error=ERROR, then=then)]
                for then in e.AfterUnknown
            ]
        return choices

    def _reports(self, state: InstanceState, seq: int) -> list[e.JournalEvent]:
        at, step = self.now, state.steps[seq]
        if step.parked:
            return [
                e.StepResolved(at=at, seq=seq, resolution=resolution, who="w", why="y")
                for resolution in e.Resolution
            ] + [e.StepReportedLate(at=at, seq=seq, attempt=1, completed=True)]
        failed: dict[str, Any] = {"at": at, "seq": seq, "attempt": step.attempt, "error": ERROR}
        return [
            e.StepCompleted(at=at, seq=seq, attempt=step.attempt),
            e.StepAttemptFailed(
                outcome=e.AttemptOutcome.TIMED_OUT, retry_at=at + 5 * MINUTE, **failed
            ),
            e.StepAttemptFailed(outcome=e.AttemptOutcome.FAILED, **failed),
            e.StepFailed(at=at, seq=seq, error=ERROR),
            e.StepParked(at=at, seq=seq, error=ERROR),
            e.StepAbandoned(seq=seq),
            *(e.StepUnknown(at=at, seq=seq, error=ERROR, then=then) for then in e.AfterUnknown),
        ]

    def whole(self, data: st.DataObject) -> None:
        """Something about the saga as a whole."""
        state, at = self.state(), self.now
        choices: list[e.JournalEvent] = [
            e.SignalReceived(at=at, name="s"),
            e.SagaStalled(at=at, error=ERROR),  # after the end, by a late report
            e.SagaResumed(at=at),
        ]
        if state.final is None:
            choices += [
                e.CompensationStarted(seq=0, reason="failed", error=ERROR),
                e.TimerStarted(seq=900 + len(self.events), due=at + MINUTE),
                *(e.TimerFired(at=at, seq=seq) for seq in state.timers),
                e.SagaCompleted(seq=0),
                e.SagaCompensated(seq=0, error=ERROR),
                e.SagaFailed(seq=0, error=ERROR),
                e.SagaCancelled(seq=0, undone=1),
                e.SagaTerminated(at=at, who="w", why="y"),
            ]
        self.events.append(data.draw(st.sampled_from(choices)))


@settings(deadline=None)
@given(st.data())
def test_a_summary_agrees_with_the_engine_s_own_fold(data: st.DataObject) -> None:
    writer = Writer()
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["schedule", "report", "report", "whole"])):
            case "schedule":
                writer.schedule(data.draw(st.sampled_from([None, "u"])), data.draw(st.booleans()))
            case "report":
                writer.report(data)
            case "whole":
                writer.whole(data)
    state = writer.state()
    summary = SagaSummary(INSTANCE)
    put_away = data.draw(st.booleans(), label="put away between two events")
    for record in journal(writer.events):
        summary.take([record])
        if put_away:
            summary = SagaSummary.unfolded(INSTANCE, summary.folded())
    assert summary.fault is None
    assert summary.state is state.status
    parked = [step for step in state.steps.values() if step.parked]
    assert [step.seq for step in summary.parked] == [step.seq for step in parked]
    at = parked[:1] or state.open_steps()[-1:]
    assert (summary.step is None) == (not at)
    for expected in at:
        assert summary.step is not None
        assert summary.step.seq == expected.seq
        assert summary.step.failed_attempts == expected.failed_attempts
        assert summary.step.retry_at == expected.retry_at
    if state.final is None:
        assert summary.next_timer == min(state.timers.values(), default=None)


def summary_of(*events: e.JournalEvent) -> SagaSummary:
    summary = SagaSummary(INSTANCE)
    summary.take(journal([e.SagaStarted(at=EPOCH, saga="transfer", id="1", input=None), *events]))
    return summary


def test_times_are_those_of_the_first_and_the_last_event() -> None:
    summary = summary_of(e.SignalReceived(at=EPOCH, name="s"), e.SagaCompleted(seq=0))
    assert summary.started_at == EPOCH
    assert summary.updated_at == EPOCH + 2 * MINUTE
    assert summary.events == 3


def failing(**more: Any) -> list[e.JournalEvent]:
    return [
        e.StepScheduled(seq=1, activity="withdraw", queue="q"),
        e.StepAttemptFailed(
            at=EPOCH, seq=1, attempt=1, outcome=e.AttemptOutcome.FAILED, error=ERROR, **more
        ),
    ]


def test_an_error_is_forgotten_once_all_went_well() -> None:
    due = EPOCH + MINUTE
    trying = summary_of(*failing(retry_at=due))
    assert trying.error == ERROR
    assert trying.step is not None
    assert (trying.step.attempt, trying.step.retry_at) == (2, due)
    well = summary_of(*failing(retry_at=due), e.StepCompleted(at=EPOCH, seq=1, attempt=2))
    assert well.error is None


def test_a_parked_step_counts_the_attempts_that_it_had() -> None:
    parked = summary_of(*failing(), e.StepParked(at=EPOCH, seq=1, error=ERROR))
    assert parked.state is Status.PARKED
    assert parked.step is not None
    assert parked.step.attempt == 1


# --- the lists


async def put(
    store: MemoryStore, saga: str, id: str, *more: tuple[str, bytes], metadata: bytes = b"{}"
) -> None:
    started = e.SagaStarted(at=EPOCH, saga=saga, id=id, input=None).model_dump_json().encode()
    events = [
        NewEvent(uuid4(), type, data, metadata)
        for type, data in [(e.SagaStarted.__name__, started), *more]
    ]
    await store.append(Append(InstanceId(saga, id).stream, events, NO_STREAM))


@pytest.mark.virtual_time
async def test_instances_come_newest_first_and_whole_in_pages(clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    ids = [str(number) for number in range(3 * INSTANCES_PAGE + 1)]
    for id in ids:
        await put(store, "transfer", id)
    found = [summary.instance.id async for summary in newest_first(store)]
    assert found == ids[::-1]


@pytest.mark.virtual_time
async def test_they_are_chosen_by_saga_and_by_age(clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    await put(store, "pay", "old")
    await clock.advance(60)
    now = clock.now()
    for saga, id in [("pay", "new"), ("pay.more", "x"), ("payment", "x"), ("p", "ay-x")]:
        await put(store, saga, id)

    async def chosen(**options: Any) -> list[str]:
        return [str(summary.instance) async for summary in newest_first(store, **options)]

    assert await chosen(saga="pay") == ["pay/new", "pay/old"]
    assert await chosen(saga="pay.more") == ["pay.more/x"]
    assert await chosen(started_before=now) == ["pay/old"]


@pytest.mark.virtual_time
async def test_one_unreadable_journal_hides_nothing(clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    await put(store, "pay", "good")
    await put(store, "pay", "bad", ("StepCompleted", b"not json"), ("SagaCompleted", b'{"seq":0}'))
    bad, good = [summary async for summary in newest_first(store)]
    assert good.fault is None
    assert isinstance(bad.fault, DecodeError)
    assert (bad.events, bad.state) == (1, Status.RUNNING)
    assert (await summarise(store, InstanceId("pay", "bad"))).fault is not None

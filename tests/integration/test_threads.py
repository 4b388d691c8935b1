"""Plain functions run in threads, which nobody can stop."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from amends import App, Retry, SagaContext, SagaNotCompleted, activity, saga
from amends.domain import events as e
from amends.domain.ids import START
from amends.sagas import journal

once = Retry(max_attempts=1)
may_finish = threading.Event()
undone_with: list[str | None] = []


@activity(retry=once, timeout=0.05)
def slow() -> str:
    assert may_finish.wait(30)
    return "receipt"


@slow.undo
def unslow(nothing: None, receipt: str | None) -> None:
    undone_with.append(receipt)
    may_finish.set()


@saga
async def it(ctx: SagaContext) -> None:
    await ctx.do(slow)


app = App(sagas=[it], activities=[slow])


async def test_a_thread_that_outlives_its_time_reports_late_and_is_undone_again(
    tmp_path: Path,
) -> None:
    async with app.run(tmp_path / "a.db") as client:
        handle = await client.start(it, id="x")
        with pytest.raises(SagaNotCompleted, match="TimeoutError"):
            await handle.result(30)
        async for record in client.backend.store.subscribe(START):
            event = journal.decode(record)
            if isinstance(event, e.StepCompleted) and event.seq == 3:
                break
        events = [journal.decode(record) for record in await handle.journal()]
        [late] = [event for event in events if isinstance(event, e.StepReportedLate)]
        assert (late.seq, late.completed, late.result) == (1, True, "receipt")
    assert undone_with == [None, "receipt"]

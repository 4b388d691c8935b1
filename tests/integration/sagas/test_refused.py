"""What an instance cannot take is put aside with the reason, and changes nothing."""

from __future__ import annotations

import pytest

from amends import App, SagaContext, Status, activity, saga
from amends.domain import messages as m
from amends.domain.events import Resolution
from amends.testing.harness import Harness

pytestmark = pytest.mark.virtual_time


@activity(on_unknown="park", timeout=1)
async def count() -> int:
    raise NotImplementedError


@saga
async def quick(ctx: SagaContext) -> str:
    return "done"


app = App(sagas=[quick], activities=[count])


async def test_a_signal_that_comes_after_the_end_is_put_aside() -> None:
    async with Harness(app) as harness:
        handle = await harness.start(quick, id="q-1")
        assert await handle.result() == "done"
        before = await handle.journal()
        await harness.client.send(m.DeliverSignal(saga="quick", id="q-1", name="late"))
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert letter.reason == "refused"
        assert "quick/q-1 had ended" in letter.detail
        assert await handle.journal() == before


async def test_a_decision_about_a_step_that_is_not_parked_is_put_aside() -> None:
    async with Harness(app) as harness:
        handle = await harness.start(quick, id="q-1")
        assert await handle.result() == "done"
        decision = m.ResolveStep(
            saga="quick", id="q-1", seq=7, resolution=Resolution.SKIP, who="ann", why="a guess"
        )
        await harness.client.send(decision)
        await harness.settle()
        [letter] = await harness.dead_letters()
        assert letter.reason == "refused"
        assert "step 7 of quick/q-1 is not parked" in letter.detail
        assert await handle.status() is Status.COMPLETED


async def test_a_message_for_nobody_does_not_keep_the_instance_from_being_started_later() -> None:
    async with Harness(app) as harness:
        for number in range(2):
            await harness.client.send(m.DeliverSignal(saga="quick", id="q-1", name="early"))
            await harness.settle()
            letters = await harness.dead_letters()
            assert [letter.reason for letter in letters] == ["no such instance"] * (number + 1)
        handle = await harness.start(quick, id="q-1")
        assert await handle.result() == "done"


async def test_what_is_put_aside_keeps_nothing_behind_it_waiting() -> None:
    """Three in one mailbox, of which each is refused for itself, again and again."""
    async with Harness(app) as harness:
        handle = await harness.start(quick, id="q-1")
        assert await handle.result() == "done"
        for number in range(1, 3):
            for _ in range(3):
                await harness.client.send(m.DeliverSignal(saga="quick", id="q-1", name="late"))
            await harness.settle()
            assert len(await harness.dead_letters()) == 3 * number

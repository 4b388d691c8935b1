"""Copies and what only looks like one: no event stands on record twice, and none is taken for
another.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from amends import Handle, Saga, SagaContext, Status, saga
from amends.broker.mail import message_id
from amends.broker.port import Message
from amends.broker.topology import command_queue
from amends.domain import events as e
from amends.domain import messages as m
from amends.testing.harness import Harness
from tests.integration.sagas.support import (
    TWICE,
    Broken,
    Late,
    Order,
    Receipt,
    World,
    app_of,
    ended,
    every,
    names,
)

pytestmark = pytest.mark.virtual_time


def one_step(world: World, **options: Any) -> tuple[Saga[Order, Receipt], Harness]:
    a = world.activity("a", **options)

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> Receipt:
        return await ctx.do(a, order)

    return it, Harness(app_of(it, activities=[a]))


async def assert_ids_are_unique(handle: Handle[Receipt]) -> None:
    ids = [record.id for record in await handle.journal()]
    assert len(set(ids)) == len(ids)


def command(handle: Handle[Receipt], attempt: int) -> Message:
    """A copy of the command of step 1."""
    run = m.RunStep(saga="it", id=handle.id, seq=1, attempt=attempt, activity="a", input={"n": 1})
    return Message(
        message_id(handle.instance, "run", 1, attempt),
        command_queue("default"),
        "RunStep",
        f"{handle.instance}/1",
        m.encode_message(run),
        str(uuid4()),
        str(uuid4()),
    )


async def test_two_runs_of_one_attempt_that_end_differently_are_two_facts() -> None:
    world = World()
    world.plan["a"] = [Late(100)]
    it, harness = one_step(world, timeout=10, retry=TWICE)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        await harness.advance(10.5)
        await harness.client.backend.broker.publish([command(handle, attempt=1)])
        assert await handle.result() == Receipt(text="a1")
        assert [n for n in await names(harness, handle) if n.startswith("Step")] == [
            "StepScheduled",
            "StepAttemptFailed",
            "StepCompleted",
        ]
        await assert_ids_are_unique(handle)


async def test_a_copy_of_the_report_that_left_a_step_unknown_is_not_late() -> None:
    world = World()
    world.plan["a"] = [Broken(), Late(100)]
    it, harness = one_step(world, timeout=10, retry=TWICE)
    async with harness:
        handle = await harness.start(it, Order(n=1))
        assert await ended(handle) == Status.COMPENSATED
        last = (await every(harness, handle, e.StepAttemptFailed))[-1]
        before = await names(harness, handle)
        await harness.client.send(
            m.ReportFailed(
                saga="it", id=handle.id, seq=1, attempt=2, outcome=last.outcome, error=last.error
            )
        )
        await harness.settle()
        assert await names(harness, handle) == before

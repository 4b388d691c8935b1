"""Copies and what only looks like one: no event stands on record twice, and none is taken for
another.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from amends import Handle, InstanceId, Saga, SagaContext, Signal, Status, saga
from amends.broker.mail import message_id, to_inbox
from amends.broker.port import Delivery, Message
from amends.broker.topology import command_queue
from amends.domain import events as e
from amends.domain import messages as m
from amends.errors import WrongExpectedVersion
from amends.sagas.dispatch import Dispatcher
from amends.sagas.outside import outside_tasks
from amends.sagas.turn import Inbound, Turn, TurnTaker
from amends.stores.memory import MemoryStore
from amends.testing.clock import VirtualClock
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

hello = Signal("hello", int)


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


async def test_of_two_engines_that_take_the_same_turn_one_loses(clock: VirtualClock) -> None:
    """Also when the turn is one event and no decision."""
    world = World()
    a = world.activity("a")

    @saga(name="it")
    async def it(ctx: SagaContext, order: Order) -> None:
        await asyncio.gather(ctx.do(a, order), ctx.do(a, order), ctx.receive(hello))

    app = app_of(it, activities=[a])
    store = MemoryStore(clock)
    instance = InstanceId.of("it", "1")

    async def take(message: m.EngineMessage, id: UUID) -> None:
        taker = TurnTaker(app.sagas, app.activities, Dispatcher(1))
        records = await store.read(instance.stream)
        envelope = to_inbox(message, id, partitions=1, correlation_id="", causation_id="")
        inbound = [Inbound(Delivery(envelope, 1, None), message)]

        def decide() -> Turn:
            live = taker.load(instance, records) if records else taker.begin(instance)
            return taker.take(live, inbound, clock.now())

        turn = await outside_tasks(decide)
        assert turn.commit.append is not None
        await store.append(turn.commit.append)

    start = m.StartSaga(saga="it", id="1", input={"n": 1})
    completed = m.ReportCompleted(saga="it", id="1", seq=1, attempt=1, result={"text": "a1"})
    signal = m.DeliverSignal(saga="it", id="1", name="hello", payload=1)
    for message in (start, completed, signal):
        id = uuid4()
        outcomes = await asyncio.gather(
            take(message, id), take(message, id), return_exceptions=True
        )
        assert outcomes[0] is None
        assert isinstance(outcomes[1], WrongExpectedVersion)

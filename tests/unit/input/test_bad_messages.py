"""Whatever is thrown at the engine's doors: it is refused with a reason, and nothing else happens.

Each time, a bystander in the same engine goes on to its end as if nothing had been.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amends import App, Handle, SagaContext, Signal, saga
from amends.broker.memory import MemoryBroker
from amends.broker.port import Message
from amends.broker.topology import command_queue, inbox_queue
from amends.domain import messages as m
from amends.errors import ActionRefused, InvalidMessage, InvalidPayload, PayloadTooLarge
from amends.testing.harness import Harness, run_app
from amends.testing.invariants import check_journal, check_replay
from tests.simulation.bank import Bank, Booking, open_bank, pay, wire
from tests.simulation.scenarios import SCENARIOS, Scenario, bank_of, booking, end_of
from tests.simulation.scenarios import app as everything

go_on = Signal("go_on", int)


@saga
async def bystander(ctx: SagaContext) -> list[str]:
    first = await ctx.do(pay, booking("payer", -5))
    await asyncio.sleep(10)
    return [first, await ctx.do(wire, booking("payee", 5))]


@saga
async def victim(ctx: SagaContext, first: Booking) -> int:
    await ctx.do(pay, first)
    number = await ctx.receive(go_on)
    await ctx.do(wire, booking("payee", -first.cents))
    return number


app = App(sagas=[bystander, victim], activities=[pay, wire])

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

texts = st.text(max_size=8) | st.sampled_from(["bystander", "victim", "pay", "1", "nobody"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
shapes = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

MESSAGES: dict[str, type[m.EngineMessage]] = dict(m._BY_NAME)


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes]:
    """A type and a body: from nearly right to not even JSON. Never to the bystander itself."""
    type = draw(st.sampled_from([*MESSAGES, "Nonsense", ""]))
    if draw(st.integers(0, 9)) == 0:
        return type, draw(st.binary(max_size=20))
    fields = list(MESSAGES[type].model_fields) if type in MESSAGES else ["saga", "id"]
    body: Any = {name: draw(shapes) for name in fields if draw(st.integers(0, 9))}
    body |= draw(st.dictionaries(texts, shapes, max_size=1))
    if draw(st.booleans()):
        body |= {"saga": "victim", "id": draw(st.sampled_from(["1", "2", ""]))}
    if body.get("saga") == "bystander":
        body["saga"] = ["bystander"]
    if draw(st.integers(0, 9)) == 0:
        body = draw(shapes)
    return type, json.dumps(body).encode()


def among_bystanders(disturb: Callable[[Harness, Handle[int]], Any]) -> None:
    """Run a bystander and an instance that is disturbed; the bystander notices nothing."""
    bank = open_bank(Bank())

    async def main(harness: Harness) -> None:
        other = await harness.start(bystander, id="1")
        handle = await harness.start(victim, booking("a", 7), id="1")
        await harness.settle()
        await disturb(harness, handle)
        await harness.settle()
        assert await other.result() == ["bystander/1/1", "bystander/1/3"]
        assert {"bystander/1/1", "bystander/1/3"} == bank.standing_of("bystander/1")
        check_journal(app, await other.journal())
        check_replay(app, await other.journal())
        await harness.advance(3600)
        broker = harness.client.backend.broker
        # Everything was taken or put aside, except what is due in a year that was made up.
        assert [depth for depth in await broker.depths() if depth.ready] == []
        # The engine works: a new instance goes all the way.
        again = await harness.start(victim, booking("b", 1), id="again")
        await again.signal(go_on, 5)
        assert await again.result() == 5

    run_app(app, main)


@quick
@given(st.lists(messages(), min_size=1, max_size=6), st.booleans())
def test_messages_of_any_shape_are_understood_or_put_aside(
    made_up: list[tuple[str, bytes]], into_inbox: bool
) -> None:
    queue = inbox_queue(0) if into_inbox else command_queue("bank")
    unreadable = 0
    for type, body in made_up:
        try:
            m.decode_message(type, body)
        except InvalidMessage:
            unreadable += 1

    async def disturb(harness: Harness, handle: Handle[int]) -> None:
        broker = harness.client.backend.broker
        await broker.publish(
            [Message(uuid4(), queue, type, "made up", body, "", "") for type, body in made_up]
        )
        await harness.settle()
        dead = await harness.dead_letters()
        assert len([letter for letter in dead if letter.reason == "unreadable"]) >= unreadable
        assert all(letter.detail and letter.reason for letter in dead)

    among_bystanders(disturb)


@pytest.mark.parametrize("type", MESSAGES)
def test_a_message_of_a_newer_release_is_put_aside_and_not_half_understood(type: str) -> None:
    by_name = {"error": {"type": "E", "message": ""}, "outcome": "failed", "resolution": "skip"}
    example = {
        name: by_name.get(name, 1 if field.annotation is int else "1")
        for name, field in MESSAGES[type].model_fields.items()
        if field.is_required()
    }
    assert m.decode_message(type, json.dumps(example).encode()).instance.id == "1"
    for newer in ({**example, "since_release_9": None}, {**example, "id": ["1"]}):
        with pytest.raises(InvalidMessage, match=f"this is no {type} message"):
            m.decode_message(type, json.dumps(newer).encode())


@settings(quick, max_examples=60)
@given(st.sampled_from(SCENARIOS), st.integers(0, 2**32), st.floats(0.05, 0.9))
def test_messages_doubled_and_out_of_order_change_nothing(
    scenario: Scenario, seed: int, share: float
) -> None:
    """Whatever was published comes again and again, in any order, before its time is up or long
    after. (What is lost for good, only `reconcile` brings back: the simulation does that.)
    """
    bank = open_bank(bank_of(scenario))
    rng = random.Random(seed)
    published: list[Message] = []
    right = MemoryBroker.publish

    async def publish(self: MemoryBroker, messages: Sequence[Message]) -> None:
        published.extend(messages)
        await right(self, rng.sample(messages, len(messages)))

    async def copy(harness: Harness) -> None:
        broker = harness.client.backend.broker
        assert isinstance(broker, MemoryBroker)
        while True:
            await harness.clock.advance(rng.choice([0.0, 0.3, 5.0, 50.0]))
            copies = [each for each in published if rng.random() < share]
            await right(broker, rng.sample(copies, len(copies))[:50])

    async def main(harness: Harness) -> None:
        copying = asyncio.create_task(copy(harness))
        async with asyncio.timeout(7 * 86400):
            handle = await harness.start(everything.sagas[scenario.saga], id="1")
            await scenario.drive(harness, handle)
            end, receipts = await end_of(handle)
        assert end is scenario.end
        await harness.advance(100)
        copying.cancel()
        await harness.advance(2 * 86400)
        records = await handle.journal()
        check_journal(everything, records)
        check_replay(everything, records)
        assert bank.standing_of(str(handle.instance)) == set(receipts)
        assert await harness.dead_letters() == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBroker, "publish", publish)
        run_app(everything, main)


@quick
@given(shapes)
def test_payloads_of_any_shape_are_taken_or_refused_by_name(payload: Any) -> None:
    async def disturb(harness: Harness, handle: Handle[int]) -> None:
        client = harness.client
        with pytest.raises((InvalidPayload, PayloadTooLarge)):
            await client.start(victim, payload, id="2")
        no_number: Any = [payload]
        with pytest.raises(InvalidPayload):
            await handle.signal(go_on, no_number)
        with pytest.raises(ActionRefused):
            await handle.resolve("complete", who="x", why="x", result=payload)
        # By name, only the engine knows better.
        with suppress(InvalidPayload):  # no JSON has an infinity
            await handle.signal("go_on", no_number)
            await handle.signal("unheard_of", payload)
        await harness.settle()
        assert {letter.reason for letter in await harness.dead_letters()} <= {"refused"}
        kinds = [record.type for record in await handle.journal()]
        assert kinds.count("SignalReceived") <= 1
        assert "SagaStalled" not in kinds

    among_bystanders(disturb)

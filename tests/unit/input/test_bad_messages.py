"""Whatever is thrown at the engine's doors: it is refused with a reason, and nothing else happens.

Each time, a bystander in the same engine goes on to its end as if nothing had been.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amends import App, Handle, SagaContext, Signal, saga
from amends.broker.port import Message
from amends.broker.topology import command_queue, inbox_queue
from amends.domain import messages as m
from amends.errors import ActionRefused, InvalidMessage, InvalidPayload, PayloadTooLarge
from amends.testing.harness import Harness, run_app
from amends.testing.invariants import check_journal, check_replay
from tests.simulation.bank import Bank, Booking, open_bank, pay, wire
from tests.simulation.scenarios import booking

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

"""Journeys: sagas of random shape over the bank, with clients that start, signal and cancel them
and people who resolve what is parked. Drawn from a seed.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Literal

from pydantic import BaseModel

from amends import App, Handle, SagaContext, Signal, Status, saga
from amends.domain.events import Resolution, StepKind, StepScheduled
from amends.errors import ActionRefused, BrokerUnavailable, StepFailed
from amends.sagas import journal
from amends.sagas.step import StepState
from amends.testing.simulation import Simulated, Simulation, Weather, simulate
from tests.simulation.bank import Bank, Booking, Fate, open_bank, pay, the_bank, wire
from tests.simulation.scenarios import GaveUp, end_of

go_on = Signal("go_on", int)


class Leg(BaseModel):
    """One part of a journey. Bookings move `cents` to `account`."""

    kind: Literal["pay", "wire", "sleep", "signal", "all", "group", "hasty", "forgiving", "pivot"]
    account: str = ""
    cents: int = 0
    seconds: float = 0.0
    legs: list[Leg] = []


class Journey(BaseModel):
    legs: list[Leg]
    gives_up: bool = False


class WentBy(BaseModel, frozen=True):
    leg: str


async def travel(ctx: SagaContext, leg: Leg) -> list[str]:
    """The receipts of a leg."""
    receipts: list[str] = []
    if leg.kind in ("pay", "pivot"):
        booking = Booking(account=leg.account, cents=leg.cents)
        receipts = [await ctx.do(pay, booking, pivot=leg.kind == "pivot")]
    elif leg.kind == "wire":
        receipts = [await ctx.do(wire, Booking(account=leg.account, cents=leg.cents))]
    elif leg.kind == "sleep":
        await asyncio.sleep(leg.seconds)
    elif leg.kind == "signal":
        await wait_for_signal(ctx, leg.seconds)
    elif leg.kind == "all":
        for part in await asyncio.gather(*(travel(ctx, part) for part in leg.legs)):
            receipts += part
    elif leg.kind == "group":
        receipts = await travel_group(ctx, leg.legs)
    elif leg.kind == "hasty":
        receipts = await travel_hastily(ctx, leg)
    else:
        receipts = await travel_forgivingly(ctx, leg)
    ctx.emit(WentBy(leg=leg.kind))
    return receipts


async def wait_for_signal(ctx: SagaContext, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await ctx.receive(go_on)
    except TimeoutError:
        raise GaveUp from None


async def travel_group(ctx: SagaContext, legs: list[Leg]) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(travel(ctx, leg)) for leg in legs]
    return [receipt for task in tasks for receipt in task.result()]


async def travel_hastily(ctx: SagaContext, leg: Leg) -> list[str]:
    try:
        async with asyncio.timeout(leg.seconds):
            return await travel_group(ctx, leg.legs)
    except TimeoutError:
        raise GaveUp from None


async def travel_forgivingly(ctx: SagaContext, leg: Leg) -> list[str]:
    """Go on without what failed, what nobody knows of, and what took too long."""
    try:
        async with asyncio.timeout(leg.seconds):
            return await travel(ctx, leg.legs[0])
    except (StepFailed, TimeoutError):
        return []


async def all_legs(ctx: SagaContext, journey: Journey) -> list[str]:
    receipts: list[str] = []
    for leg in journey.legs:
        receipts += await travel(ctx, leg)
    if journey.gives_up:
        raise GaveUp
    return receipts


@saga(name="journey", deadline=300)
async def in_order(ctx: SagaContext, journey: Journey) -> list[str]:
    return await all_legs(ctx, journey)


@saga(name="loose", compensate="in_parallel")
async def in_parallel(ctx: SagaContext, journey: Journey) -> list[str]:
    return await all_legs(ctx, journey)


app = App(sagas=[in_order, in_parallel], activities=[pay, wire])


# --- drawing


def draw_leg(rng: random.Random, depth: int) -> Leg:
    kinds = ["pay"] * 4 + ["wire"] * 2 + ["sleep", "signal"]
    if depth:
        kinds += ["all", "group", "hasty", "forgiving"]
    kind = rng.choice(kinds)
    if kind in ("pay", "wire"):
        return Leg.model_validate(
            {"kind": kind, "account": f"a{rng.randrange(5)}", "cents": rng.randint(-99, 99)}
        )
    count = 1 if kind == "forgiving" else rng.randint(2, 3)
    legs = (
        [draw_leg(rng, depth - 1) for _ in range(count)] if kind not in ("sleep", "signal") else []
    )
    if kind == "forgiving":
        legs = [Leg(kind=rng.choice(["pay", "wire"]), account="a0", cents=1)]
    return Leg.model_validate({"kind": kind, "seconds": rng.choice([0.5, 5.0, 50.0]), "legs": legs})


def draw_journey(rng: random.Random) -> Journey:
    legs = [draw_leg(rng, 1) for _ in range(rng.randint(1, 4))]
    has_pivot = rng.random() < 0.2
    if has_pivot:
        # What may fail comes before it; what comes after it is retried until somebody helps.
        legs.append(Leg(kind="pivot", account="pivot", cents=7))
        legs.append(Leg(kind=rng.choice(["pay", "wire"]), account="after", cents=-7))
    return Journey(legs=legs, gives_up=not has_pivot and rng.random() < 0.3)


class Fates:
    """What happens to attempts. Whether one breaks or is refused is fixed by the attempt, so that
    its copies agree, unless the bank is moody; how long it takes is not.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rng = random.Random(f"fates {seed}")
        self._refused, self._broken, self._slow = (
            self._rng.choice([0.0, 0.1]),
            self._rng.choice([0.0, 0.2, 0.5]),
            self._rng.choice([0.0, 0.1, 0.3]),
        )
        self.forgiven: set[str] = set()
        moods = random.Random(f"moods {seed}")
        self._moods = moods if moods.random() < 0.3 else None

    def __call__(self, name: str, key: str, attempt: int) -> Fate:
        is_forgiven = key in self.forgiven
        return Fate(
            refuse=not is_forgiven and self._mood(key) < self._refused,
            broken=not is_forgiven and self._draw(f"{key}#{attempt}") < self._broken,
            before_s=self._seconds(),
            after_s=self._seconds(),
        )

    def _mood(self, key: str) -> float:
        return self._draw(key) if self._moods is None else self._moods.random()

    def _draw(self, text: str) -> float:
        digest = blake2b(f"{self._seed} {text}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) / 2**32

    def _seconds(self) -> float:
        if self._rng.random() < self._slow:
            return self._rng.uniform(4, 9)
        return self._rng.choice([0.0, self._rng.uniform(0, 2)])


# --- clients


class Travellers:
    """The clients of a simulation: each makes a journey; and a person who resolves what parks."""

    def __init__(self, seed: int, count: int = 3) -> None:
        self._seed = seed
        self._count = count
        self.receipts: dict[str, set[str]] = {}

    async def __call__(self, world: Simulation) -> None:
        world.meanwhile(look_after(world))
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._travel(world, number))

    async def _travel(self, world: Simulation, number: int) -> None:
        """Start a journey, meddle with it, and see it to its end."""
        rng = random.Random(f"client {number} {self._seed}")
        kind = in_order if rng.random() < 0.8 else in_parallel
        journey = draw_journey(rng)
        await world.clock.advance(rng.uniform(0, world.weather.storm_s * 0.7))
        handle = await world.insist(lambda: world.client.start(kind, journey, id=f"j{number}"))
        meddling = asyncio.create_task(meddle(world, handle, rng))
        try:
            end, receipts = await end_of(handle)
        finally:
            meddling.cancel()
            await asyncio.gather(meddling, return_exceptions=True)
        assert not (end is Status.COMPLETED and journey.gives_up)
        self.receipts[str(handle.instance)] = set(receipts)


async def meddle(world: Simulation, handle: Handle[list[str]], rng: random.Random) -> None:
    """Signal and cancel, again and again: any of it may be lost."""
    cancels = rng.random() < 0.2
    patience_s = 20.0
    while True:
        await world.clock.advance(rng.uniform(1, patience_s))
        patience_s *= 1.2
        try:
            await handle.signal(go_on, rng.randrange(3))
            if cancels and rng.random() < 0.3:
                await handle.cancel(who="client", why="a whim")
        except (BrokerUnavailable, ActionRefused):
            continue


async def look_after(world: Simulation) -> None:
    """A person who sees what is parked, also after the end of an instance."""
    while True:
        await world.clock.advance(30)
        for instance, state in await world.states():
            for step in [step for step in state.steps.values() if step.parked]:
                handle = world.client.handle(instance.saga, instance.id)
                with suppress(BrokerUnavailable, ActionRefused):
                    await resolve(world, handle, step)


async def resolve(world: Simulation, handle: Handle[Any], step: StepState) -> None:
    key = f"{handle.instance}/{step.seq}"
    resolution = put_right(key, f"{handle.instance}/{step.scheduled.of}", step, world.rng)
    is_paid = resolution is Resolution.COMPLETE and step.kind is StepKind.STEP
    await handle.resolve(
        resolution,
        seq=step.seq,
        who="operator",
        why="looked into it",
        result=key if is_paid else None,
    )


def put_right(key: str, origin: str, step: StepState, rng: random.Random) -> Resolution:
    """What a careful person does at the bank before they resolve a step."""
    bank = the_bank()
    assert isinstance(bank.fate, Fates)
    if step.told:
        # Its saga went on without it: the effect must not stand.
        if key in bank.booked and rng.random() < 0.5:
            return Resolution.COMPLETE
        bank.voided.add(key)
        bank.reverse_by_hand(key, "by hand")
        return Resolution.SKIP
    if step.kind is StepKind.UNDO and rng.random() < 0.5:
        bank.reverse_by_hand(origin, "by hand")
        return rng.choice([Resolution.SKIP, Resolution.COMPLETE])
    if step.kind is StepKind.STEP and key in bank.booked and rng.random() < 0.5:
        return Resolution.COMPLETE
    # An undo's key tells of the step that it undoes.
    bank.fate.forgiven.add(
        key if step.scheduled.of is None else f"{origin}/{step.scheduled.activity}"
    )
    bank.voided.discard(key)
    return Resolution.RETRY


# --- the whole


def run_seed(seed: int) -> Simulated:
    """One simulation, and what only the bank can judge of it."""
    weather = Weather.drawn(seed)
    # When reports are lost for good, nobody can know what came after its undo.
    bank = open_bank(Bank(fate=Fates(seed), tombstones=weather.loses_messages))
    travellers = Travellers(seed)

    def judge(simulated: Simulated) -> None:
        for instance, receipts in travellers.receipts.items():
            standing = bank.standing_of(instance)
            assert standing == receipts, f"{instance}: {standing} stands, {receipts} should"
        recorded = {
            f"{instance}/{event.seq}": event.input
            for instance, records in simulated.journals.items()
            for event in map(journal.decode, records)
            if isinstance(event, StepScheduled)
        }
        for key, booking in bank.booked.items():
            assert recorded.get(key) == booking.model_dump(), f"{key} was never decided"

    return simulate(app, travellers, seed=seed, weather=weather, judge=judge)

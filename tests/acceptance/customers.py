"""The customers of the acceptance tests: a client process that keeps payments under way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from amends import Client, Handle, Saga
from amends.domain import events as e
from amends.domain.bell import Bell
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import JOURNAL_PREFIX, START, InstanceId
from amends.errors import ActionRefused, InstanceNotFound
from amends.sagas import journal
from amends.stores.port import EventFilter
from tests.acceptance.judge import refused_signals
from tests.acceptance.ledger import Ledger
from tests.acceptance.ledger_app import (
    Order,
    approved,
    detour,
    payout,
    purchase,
    transfer,
)

#: Instances that are kept under way.
OPEN = 40
JOURNALS = EventFilter(stream_prefixes=(JOURNAL_PREFIX,))


@dataclass(frozen=True)
class Plan:
    """One payment, and what its customer does meanwhile."""

    id: str
    saga: Saga[Order, list[str]]
    order: Order
    approvals: int
    cancels: bool
    waits_for_a_death: bool
    """Whether signals, cancels and decisions are sent while no worker lives."""

    @property
    def instance(self) -> InstanceId:
        return InstanceId.of(self.saga.name, self.id)


def draw_plan(seed: int, number: int) -> Plan:
    draw = random.Random(f"plan {seed} {number}")
    saga = draw.choice([transfer, transfer, payout, detour, purchase])
    one, other = (f"b{account}" for account in draw.sample(range(20), 2))
    bad = draw.choice(["closed", "slow", "cut"])
    payees = {
        transfer: [draw.choice([one, bad])],
        payout: [one, draw.choice([other, bad])],
        detour: [draw.choice([one, bad]), draw.choice([other, "closed"])],
        purchase: [draw.choice([one, "slow"]), draw.choice([other, f"shut{number}"])],
    }
    approvals = draw.choice([0, 1, 2]) if saga is transfer else 0
    return Plan(
        id=f"{seed}x{number}",
        saga=saga,
        order=Order(
            payer="mute" if draw.random() < 0.1 else f"a{draw.randrange(20)}",
            payees=payees[saga],
            cents=draw.randint(1, 10_000),
            approval=approvals > 0,
            pause_s=draw.choice([0.02, 0.1, 0.3]),
        ),
        approvals=approvals,
        cancels=draw.random() < 0.15,
        waits_for_a_death=draw.random() < 0.5,
    )


Errand = Callable[[Plan], Coroutine[Any, Any, None]]


class Customers:
    """Order payments, approve and cancel them, and open accounts for those that are parked:
    `async with customers:`.
    """

    def __init__(self, client: Client, ledger: Ledger, seed: int, *, open_max: int = OPEN) -> None:
        self._client = client
        self._ledger = ledger
        self._seed = seed
        self._open_max = open_max
        self._group = asyncio.TaskGroup()
        self._bell = Bell()
        self._errands: list[tuple[Errand, Plan]] = []
        self._is_over = False
        self.plans: dict[str, Plan] = {}
        self.open: dict[str, Plan] = {}
        self.sent: dict[str, set[str]] = {}
        """The signals that were sent to each id."""
        self.events = 0
        self.on_event: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._following = self._group.create_task(self._follow())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._following.cancel()
        await self._group.__aexit__(kind, error, trace)

    async def _follow(self) -> None:
        self._keep_busy()
        async for event in self._client.backend.store.subscribe(START, filter=JOURNALS):
            self.events += 1
            self.on_event()
            self._see(event)
            self._bell.ring()

    def _see(self, record: RecordedEvent) -> None:
        instance = InstanceId.of_stream(record.stream)
        assert instance is not None
        plan = self.plans[instance.id]
        event = journal.decode(record)
        match event:
            case e.SagaStarted():
                if plan.approvals:
                    self._send(self._approve, plan)
                if plan.cancels:
                    self._send(self._cancel, plan)
            case e.StepParked() | e.StepUnknown(then=e.AfterUnknown.PARK):
                self._send(partial(self._help, seq=event.seq), plan)
            case _ if isinstance(event, e.FINAL_EVENTS):
                del self.open[plan.id]
                self._keep_busy()

    def _keep_busy(self) -> None:
        while len(self.open) < self._open_max and not self._is_over:
            self.order(draw_plan(self._seed, len(self.plans)))

    def order(self, plan: Plan) -> None:
        """Order a payment."""
        self.plans[plan.id] = self.open[plan.id] = plan
        self._group.create_task(self._order(plan))

    async def _order(self, plan: Plan) -> None:
        await self._client.submit(plan.saga, plan.order, id=plan.id)

    def _send(self, errand: Errand, plan: Plan) -> None:
        if plan.waits_for_a_death and not self._is_over:
            self._errands.append((errand, plan))
        else:
            self._group.create_task(errand(plan))

    async def _approve(self, plan: Plan) -> None:
        sent = self.sent.setdefault(plan.id, set())
        for number in range(plan.approvals):
            text = f"{plan.id} approval {number}"
            with suppress(ActionRefused):  # it has ended
                await self._handle(plan).signal(approved, text)
                sent.add(text)

    async def _cancel(self, plan: Plan) -> None:
        with suppress(ActionRefused):
            await self._handle(plan).cancel(who="customer", why="a whim")

    async def _help(self, plan: Plan, seq: int) -> None:
        self._ledger.open_account(plan.order.payees[-1])
        await self._handle(plan).resolve("retry", seq=seq, who="operator", why="it is open")

    def _handle(self, plan: Plan) -> Handle[list[str]]:
        return self._client.handle(plan.saga, plan.id)

    # --- what the test asks for

    def order_no_more(self) -> None:
        """Let what is open come to its end."""
        self._is_over = True

    async def send_again(self) -> None:
        """Send again what was lost on its way, as the journals have it; but nothing to those that
        have ended without it.
        """
        refused = await refused_signals(self._client.backend.broker)
        for plan in self.plans.values():
            try:
                state = await self._client.state(plan.instance)
            except InstanceNotFound:
                await self._order(plan)
                continue
            sent = self.sent.get(plan.id, set())
            lost = sent - await self._received(plan) - refused
            if plan.id not in self.open:
                sent -= lost
                continue
            for text in lost:
                await self._handle(plan).signal(approved, text)
            for step in state.open_steps():
                if step.parked:
                    await self._help(plan, step.seq)

    async def _received(self, plan: Plan) -> set[str]:
        events = map(journal.decode, await self._client.journal(plan.instance))
        return {event.payload for event in events if isinstance(event, e.SignalReceived)}

    def describe_open(self, states: Mapping[str, str]) -> list[str]:
        """What is not over, how it stands, and what its customer has not done yet."""
        undone = [plan.id for _, plan in self._errands]
        return [
            f"{plan.instance}: {states.get(id, 'not begun')}; {undone.count(id)} errands to run"
            for id, plan in sorted(self.open.items())
        ]

    # --- what the test waits for

    async def run_errands(self) -> int:
        """Do what was to be done while no worker lives; how much that was."""
        errands, self._errands = self._errands, []
        await asyncio.gather(*(errand(plan) for errand, plan in errands))
        return len(errands)

    async def until_events(self, number: int) -> None:
        """Wait until so many events were seen."""
        while self.events < number:
            await self._bell.wait()

    async def until_all_have_ended(self) -> None:
        """Order nothing more, and see what was ordered to its end."""
        self.order_no_more()
        await self.run_errands()
        while self.open:
            await self._bell.wait()

"""Payments on RabbitMQ: the application's processes, and customers who keep them busy.

Orchestrators and workers are processes of their own, on one store file and one server; the
customers live in the test's. What the processes log, one file each, stays with the test's files.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from amends import Client, Settings
from amends.errors import InstanceNotFound
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.acceptance.customers import JOURNALS, OPEN, Customers
from tests.acceptance.flight import found_in_flight, in_flight
from tests.acceptance.judge import Books, Record, judge, records_of, refused_signals
from tests.acceptance.ledger import Ledger
from tests.acceptance.ledger_app import app
from tests.acceptance.nursery import APP, Child, Nursery

#: As short as it may be, so that a test need not wait long until one is missed.
HEARTBEAT_S = 5
LEDGER = "ledger.db"
#: For what is to happen within seconds, on a machine that is busy.
PATIENCE_S = 60.0
#: So long nothing happens only if nothing ever will. How long all takes is the machine's affair.
STALLED_S = 120.0
#: How often what tells nobody of its changes is looked at.
LOOK_S = 0.2


class Deployment:
    """See the module. Made by `deployed`."""

    def __init__(
        self, server: PrivateRabbitMQ, settings: Settings, folder: Path, seed: int,
        ledger: Ledger, client: Client, nursery: Nursery, *, open_max: int,
    ) -> None:  # fmt: skip
        self.server = server
        self.settings = settings
        self.client = client
        self.draw = random.Random(f"chaos {seed}")
        self.ledger = ledger
        self.customers = Customers(client, ledger, seed, open_max=open_max)
        self.orchestrators: list[Child] = []
        self.workers: list[Child] = []
        self.found: Counter[str] = Counter()
        self.records: dict[str, Record] = {}
        """What is left at the end; and so are the bank's `books`."""
        self.books = Books(ledger)
        self._folder = folder
        self._nursery = nursery
        self._started = 0

    # --- processes

    async def start_orchestrator(self) -> Child:
        child = await self._amends("orchestrator", APP, "--log-level", "info", "--json")
        self.orchestrators.append(child)
        return child

    async def start_worker(self, fuse: str = "") -> Child:
        child = await self._amends("worker", APP, "--log-level", "info", "--json", FUSE=fuse)
        self.workers.append(child)
        return child

    async def _amends(self, *arguments: str, **more: str) -> Child:
        """Run the command line on this deployment."""
        settings = self.settings
        name = f"{arguments[0]}-{self._started}"
        self._started += 1
        return await self._nursery.start(
            *arguments,
            name=name,
            AMENDS_STORE=settings.store,
            AMENDS_BROKER=settings.broker,
            AMENDS_BROKER_PREFIX=settings.broker_prefix,
            LEDGER=str(self._folder / LEDGER),
            **more,
        )

    async def ask(self, *arguments: str) -> list[Any]:
        """What a verb says, a JSON object in each line."""
        child = await self._amends(*arguments, "--json")
        assert await child.ended() == 0, child.log.read_text()
        return [json.loads(line) for line in child.output.read_text().splitlines()]

    def alive(self) -> list[Child]:
        """The engine's processes that have not ended."""
        return [child for child in [*self.orchestrators, *self.workers] if not child.has_ended]

    async def stop(self, child: Child) -> None:
        """Stop it gracefully: it must end by itself."""
        child.send(signal.SIGTERM)
        assert await child.ended() == 0, f"{child} did not stop gracefully"

    # --- faults

    async def some_events(self, least: int, most: int) -> None:
        """Wait until so many events more have happened, drawn from the seed."""
        await self.customers.until_events(self.customers.events + self.draw.randint(least, most))

    async def look(self) -> set[str]:
        """Take down what is in flight now."""
        instances = [plan.instance for plan in self.customers.open.values()]
        called = {call.key for call in self.ledger.calls()}
        found = await found_in_flight(self.client, instances, called)
        self.found.update(found)
        return found

    @asynccontextmanager
    async def errands(self) -> AsyncIterator[None]:
        """Meanwhile customers approve, cancel and help; at the end that has got through."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.customers.run_errands())
            yield

    async def pause(self, child: Child) -> None:
        """Stop a process in its tracks, but not while the others wait for it at the store's file."""
        with closing(sqlite3.connect(self._folder / "engine.db", timeout=0.5)) as file:
            while True:
                child.send(signal.SIGSTOP)
                try:
                    file.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError:  # it writes
                    child.send(signal.SIGCONT)

    def resume(self, child: Child) -> None:
        """Let it go on."""
        child.send(signal.SIGCONT)

    # --- what can be seen

    async def shares(self) -> dict[int, int]:
        """How many inboxes each orchestrator says that it serves, by its process id."""
        processes = await self.client.backend.broker.processes()
        return {
            int(process.name.partition(":")[2]): len(process.owns)
            for process in processes
            if process.owns
        }

    async def until_shared_by(self, *owners: Child) -> float:
        """Wait until all inboxes are shared evenly by these, and by nobody else; how long that
        took, in seconds.
        """

        async def it_is_shared_evenly() -> bool:
            shares = await self.shares()
            return (
                shares.keys() == {owner.pid for owner in owners}
                and sum(shares.values()) == self.settings.partitions
                and max(shares.values()) - min(shares.values()) <= 1
            )

        began = time.monotonic()
        await self.until(it_is_shared_evenly)
        return time.monotonic() - began

    async def until(self, what: Callable[[], Awaitable[object]]) -> None:
        """Wait until that is so, which its name says."""
        deadline = time.monotonic() + PATIENCE_S
        while not await what():
            if time.monotonic() > deadline:
                pytest.fail(f"not so after {PATIENCE_S} s: {what.__name__}")
            await asyncio.sleep(LOOK_S)

    @asynccontextmanager
    async def while_it_goes_on(self) -> AsyncIterator[None]:
        """Raises TimeoutError when nothing happens any more."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(STALLED_S) as deadline:
            self.customers.on_event = lambda: deadline.reschedule(loop.time() + STALLED_S)
            try:
                yield
            finally:
                self.customers.on_event = lambda: None

    async def describe(self) -> list[str]:
        """What there is to do, who is there to do it, and what the payments wait for."""
        broker = self.client.backend.broker
        called = {call.key for call in self.ledger.calls()}
        states: dict[str, str] = {}
        for id, plan in self.customers.open.items():
            with suppress(InstanceNotFound):
                state = await self.client.state(plan.instance)
                states[id] = ", ".join(sorted(in_flight(state, called)))
        return [
            *map(str, await broker.depths()),
            *map(str, await broker.processes()),
            *(f"{child} lives" for child in self.alive()),
            *self.customers.describe_open(states),
        ]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What the engine's processes have logged of this kind."""
        return [entry for entry in self._entries() if entry["event"] == event]

    def _entries(self) -> Iterator[dict[str, Any]]:
        for child in [*self.orchestrators, *self.workers]:
            for line in child.log.read_text().splitlines():
                entry = json.loads(line)
                # Their client of RabbitMQ finds errors where they go on.
                if not entry.get("logger", "aiormq").startswith("aiormq"):
                    yield {**entry, "pid": child.pid}

    # --- the end

    async def finish(self) -> None:
        """See all payments to their end, and then find everything in order."""
        await self.customers.until_all_have_ended()
        await self.until(self.is_idle)
        for child in self.alive():
            await self.stop(child)

    async def is_idle(self) -> bool:
        """No message is left, but for dead letters."""
        depths = await self.client.backend.broker.depths()
        return not any(depth.ready or depth.delayed for depth in depths)

    async def judge(self) -> None:
        """Raises AssertionError."""
        orders = {id: plan.order for id, plan in self.customers.plans.items()}
        events = await self.client.backend.store.read_all(filter=JOURNALS, limit=10**9)
        refused = await refused_signals(self.client.backend.broker)
        self.records, self.books = records_of(events), Books(self.ledger)
        judge(orders, self.records, self.customers.sent, refused, self.books)
        left = messages_in(self.server, self.settings.broker_prefix)
        left.pop(f"{self.settings.broker_prefix}.dead", None)
        assert not left, f"these queues are not empty: {left}"
        errors = [entry for entry in self._entries() if entry["level"] == "error"]
        assert not errors, errors


def messages_in(server: PrivateRabbitMQ, prefix: str) -> dict[str, int]:
    """How many messages nobody has in hand, of each queue that has some, as the server says."""
    told = server.eval(
        "[{element(4, amqqueue:get_name(Q)), Ready} || Q <- rabbit_amqqueue:list(), "
        "{ok, Ready, _} <- [rabbit_amqqueue:stat(Q)], Ready > 0]"
    )
    found = re.findall(r'{<<"(.*?)">>,(\d+)}', told)
    return {name: int(count) for name, count in found if name.startswith(f"{prefix}.")}


def connections(server: PrivateRabbitMQ) -> list[str]:
    """The connections that clients have to the server."""
    return re.findall(r"<[\d.]+>", server.eval("rabbit_networking:connections()"))


def purge(server: PrivateRabbitMQ, prefix: str) -> int:
    """Purge all queues; how many messages there were."""
    told = server.eval(
        "[N || Q <- rabbit_amqqueue:list(), "
        f'string:prefix(element(4, amqqueue:get_name(Q)), <<"{prefix}.">>) =/= nomatch, '
        "{ok, N} <- [rabbit_amqqueue:purge(Q)]]"
    )
    return sum(map(int, re.findall(r"\d+", told)))


@asynccontextmanager
async def deployed(
    server: PrivateRabbitMQ, prefix: str, folder: Path, seed: int, timeout_s: float,
    *, orchestrators: int = 1, workers: int = 1, open_max: int = OPEN, store: str | None = None,
) -> AsyncIterator[Deployment]:  # fmt: skip
    """A deployment, with so many payments under way, or only what is ordered, on a `store` or by
    default on a file of its own. At the end it finishes, and is judged. Its customers try for so
    long.
    """
    print(f"AMENDS_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    settings = Settings(
        store=store or f"sqlite:///{folder / 'engine.db'}",
        broker=f"{server.url}?heartbeat={HEARTBEAT_S}",
        broker_prefix=prefix,
        # A customer does not give up.
        publish_timeout_s=timeout_s,
    )
    nursery = await Nursery.open(folder)
    ledger = Ledger.create(str(folder / LEDGER))
    try:
        async with app.client(settings) as client:
            made = Deployment(
                server, settings, folder, seed, ledger, client, nursery, open_max=open_max
            )
            try:
                # A server that dies while a queue is declared may leave one that never answers.
                await made.ask("broker", "setup", APP)
                async with made.while_it_goes_on(), made.customers:
                    for _ in range(orchestrators):
                        await made.start_orchestrator()
                    for _ in range(workers):
                        await made.start_worker()
                    yield made
                    await made.finish()
            except TimeoutError:
                print("\n".join(await made.describe()))  # noqa: T201
                pytest.fail(f"for {STALLED_S} s nothing has happened, and payments are not over")
            await made.judge()
    finally:
        ledger.close()
        await nursery.close()

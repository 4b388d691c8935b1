"""The run itself: follow the log, kill the worker at drawn points, and decide as an operator."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from amends import Client
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import START, InstanceId
from amends.stores.port import EventFilter
from examples.payments.batch import submit
from examples.payments.plan import Plan
from examples.payments.transfer import notify, transfer_money
from examples.payments.worker import Worker

FINAL: Final = frozenset(
    {"SagaCompleted", "SagaCompensated", "SagaFailed", "SagaCancelled", "SagaTerminated"}
)
#: The share of the payments between which the kills fall: not at once, and while work is left.
KILLS_FROM, KILLS_TO = 0.04, 0.85
#: The longest that nothing may happen. A step with all its attempts takes some four seconds.
QUIET_S: Final = 60.0
DRAIN_S: Final = 20.0
POLL_S: Final = 0.05
PROJECT_S: Final = 60.0
OPERATOR: Final = "demo operator"


class Stuck(Exception):
    """The run cannot go on. What happened so far is in the store."""


class Progress:
    """How far the run is. `settled_before` is what an earlier run in the same folder settled."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.settled = 0
        self.settled_before = 0
        self.kills = 0
        self._began = time.monotonic()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """From the first payment that was submitted until now, or until all were settled."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def rate(self) -> float:
        """Payments that this run settled in a second."""
        return (self.settled - self.settled_before) / max(self.seconds, 1e-9)

    def end(self) -> None:
        """All are settled: stop the clock."""
        self._ended = time.monotonic()


def kill_points(total: int, kills: int, seed: int) -> list[int]:
    """After how many settled payments the worker is killed, in order; the same for a seed."""
    first, last = int(total * KILLS_FROM), max(int(total * KILLS_TO) - 1, 0)
    return sorted(random.Random(seed).choices(range(min(first, last), last + 1), k=kills))


class Run:
    """One run: `await Run(client, worker, plan, points, show).to_the_end()`.

    The worker is killed at `points`, and `show` is called whenever the progress changes.
    """

    def __init__(
        self,
        client: Client,
        worker: Worker,
        plan: Plan,
        points: Sequence[int],
        show: Callable[[Progress], None],
    ) -> None:
        self._client = client
        self._store = client.backend.store
        self._worker = worker
        self._plan = plan
        self._points = list(points)
        self._show = show
        self._progress = Progress(len(plan.orders))
        #: Where the log ended when this run began, and when the present worker was started: events
        #: before that are not its work.
        self._began_after = self._worked_after = START
        #: The version of the journal that the last decision about an instance was taken on.
        self._decided_on: dict[InstanceId, int] = {}

    async def to_the_end(self) -> Progress:
        """Submit every payment, and return when all are settled and no message is left.

        Raises Stuck, and WorkerDied when the worker ends by itself.
        """
        self._began_after = self._worked_after = await self._store.end()
        tasks = [
            asyncio.create_task(work)
            for work in (self._worker.died(), submit(self._client, self._plan), self._follow())
        ]
        _, submitting, following = tasks
        try:
            # Whichever fails first fails the run.
            while not (submitting.done() and following.done()):
                waiting = [task for task in tasks if not task.done()]
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            await self._drain()
            await self._project()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._progress

    async def _follow(self) -> None:
        """Read the log as it grows, until every payment has a final event."""
        saga = transfer_money.name
        unsettled = {InstanceId(saga, order.key).stream for order in self._plan.orders}
        filter = EventFilter((f"saga.{saga}-",))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(QUIET_S) as patience:
                async for event in self._store.subscribe(START, filter=filter):
                    patience.reschedule(loop.time() + QUIET_S)
                    await self._attend(event)
                    if event.type in FINAL:
                        unsettled.discard(event.stream)
                        self._settled(event, len(self._plan.orders) - len(unsettled))
                    if not unsettled:
                        self._progress.end()
                        return
                    await self._maybe_kill(event)
        except TimeoutError:
            raise Stuck(
                f"nothing happened for {QUIET_S:.0f} s, and {len(unsettled)} payments are open. "
                f"The worker's last words:\n{self._worker.last_words()}"
            ) from None

    def _settled(self, event: RecordedEvent, count: int) -> None:
        self._progress.settled = count
        if event.position <= self._began_after:
            self._progress.settled_before = count
        self._show(self._progress)

    async def _maybe_kill(self, event: RecordedEvent) -> None:
        points = self._points
        if not points or self._progress.settled < points[0]:
            return
        if event.position <= self._worked_after:
            return
        points.pop(0)
        await self._worker.kill_and_restart()
        self._worked_after = await self._store.end()
        self._progress.kills = self._worker.kills
        self._show(self._progress)

    async def _attend(self, event: RecordedEvent) -> None:
        """Do what a person is for."""
        instance = InstanceId.of_stream(event.stream)
        if instance is None:
            return
        if event.type == "SagaStalled":
            raise Stuck(f"{instance} stalled, which is a bug: `amends show` has its traceback")
        if event.type in ("StepParked", "StepUnknown"):
            await self._resolve(instance, event.version)

    async def _resolve(self, instance: InstanceId, version: int) -> None:
        """Decide about what is parked, once: a notice can be left out, a booking cannot.

        The worker may be down: the decision waits in the inbox like any other message.
        """
        if version <= self._decided_on.get(instance, -1):
            return
        handle = self._client.handle(transfer_money, instance.id)
        state = await handle.state()
        self._decided_on[instance] = state.version
        for step in state.open_steps():
            if not step.parked:
                continue
            if step.scheduled.activity == notify.name:
                why = "the payee left no address; the money has arrived"
                await handle.resolve("skip", who=OPERATOR, why=why, seq=step.seq)
            else:
                why = "no attempt was answered; the ledger takes each booking once"
                await handle.resolve("retry", who=OPERATOR, why=why, seq=step.seq)

    async def _drain(self) -> None:
        """Wait until the engine has taken every message: the starts of a file that is submitted
        again settle nothing, so no event tells that they were seen.
        """
        for _ in range(int(DRAIN_S / POLL_S)):
            depths = await self._client.backend.broker.depths()
            if not any(depth.ready for depth in depths):
                return
            await asyncio.sleep(POLL_S)
        raise Stuck(f"every payment is settled, but messages are left after {DRAIN_S:.0f} s")

    async def _project(self) -> None:
        """Wait until the worker's projections have taken in all that happened."""
        try:
            await self._client.projections.caught_up(timeout=PROJECT_S)
        except TimeoutError:
            raise Stuck(
                f"every payment is settled, but the projections are behind after {PROJECT_S:.0f} s"
            ) from None

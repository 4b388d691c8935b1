"""Where an engine runs that is measured: in one process on one file, or spread over RabbitMQ.

Spread, one process has the client and runs the sagas, and workers, processes of their own, run the
activities. The journals are in a file, and a RabbitMQ server is started for it: all on this machine.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

from amends import Client
from amends.broker.rabbitmq.members import BEAT_S
from amends.settings import Settings
from amends.testing.rabbitmq import PrivateRabbitMQ
from benchmarks import sagas as s
from benchmarks.children import child, cpu_s_of, heard
from benchmarks.measure import CpuMeter

#: The parts of what is spread: with the client, with the activities, and the server.
ORCHESTRATOR: Final = "orchestrator"
WORKERS: Final = "workers"
BROKER: Final = "broker"


@dataclass(frozen=True)
class Place:
    """A store and a broker, and the CPU time that the broker's own process took so far."""

    settings: Settings
    broker_cpu_s: Callable[[], float]

    @property
    def environment(self) -> dict[str, str]:
        """For another process, which finds both there."""
        return {"AMENDS_STORE": self.settings.store, "AMENDS_BROKER": self.settings.broker}


@contextmanager
def place(file: Path, *, is_spread: bool) -> Iterator[Place]:
    """A file for all, or one for the journals and a server."""
    store = f"sqlite:///{file}"
    if not is_spread:
        yield Place(Settings(store=store), lambda: 0.0)
        return
    with PrivateRabbitMQ(where=file.parent) as server:
        yield Place(Settings(store=store, broker=server.url), server.cpu_seconds)


def orchestrating(settings: Settings) -> AbstractAsyncContextManager[Client]:
    """Run the sagas in this process, and on the embedded broker the activities, too."""
    return s.app.run(settings, queues=None if settings.is_embedded else ())


@dataclass(frozen=True)
class Workers:
    """Processes that run the activities."""

    processes: list[Popen[str]]

    def wait_until_they_work(self) -> None:
        """Wait until each has begun."""
        for process in self.processes:
            heard(process, "working")

    def cpu_s(self) -> float:
        """The CPU time that they took so far."""
        return sum(map(cpu_s_of, self.processes))

    def stop(self) -> Counter[str]:
        """Stop them gracefully. Gives how often each activity ran in them."""
        for process in self.processes:
            process.terminate()
        runs: Counter[str] = Counter()
        for process in self.processes:
            runs.update(heard(process, "stopped")["runs"])
        return runs


@contextmanager
def working(count: int, environment: Mapping[str, str]) -> Iterator[Workers]:
    """So many workers, which are killed at the end of the block."""
    with ExitStack() as stack:
        started = [child("benchmarks.worker", **environment) for _ in range(count)]
        yield Workers([stack.enter_context(each) for each in started])


@dataclass(frozen=True)
class Deployment:
    """An engine that runs, with its client in this process, and how to see what it costs."""

    client: Client
    workers: Workers
    place: Place

    def cpu_meter(self) -> CpuMeter:
        """Measures all of its processes."""
        return CpuMeter(
            {WORKERS: self.workers.cpu_s, BROKER: self.place.broker_cpu_s}, here=ORCHESTRATOR
        )

    async def amqp_messages(self) -> Counter[str]:
        """How many each part has published."""
        if self.place.settings.is_embedded:
            return Counter()
        await asyncio.sleep(1.5 * BEAT_S)  # until all processes have said how many
        published: Counter[str] = Counter()
        for process in await self.client.backend.broker.processes():
            is_here = process.name.endswith(f":{os.getpid()}")
            published[ORCHESTRATOR if is_here else WORKERS] += process.published
        return published

    async def runs(self) -> Counter[str]:
        """How often each activity ran. The workers stop."""
        return s.RUNS + await asyncio.to_thread(self.workers.stop)

    def costs(self, cpu: CpuMeter, amqp: Counter[str], messages: int, n: int) -> dict[str, Any]:
        """Figures of what `n` sagas took of each part, where there are several: a saga takes so
        many messages of the engine's own.
        """
        if self.place.settings.is_embedded:
            return {}
        return {
            "workers": len(self.workers.processes),
            **cpu_costs(cpu.used_s_by, n),
            "messages_per_saga": messages,
            "amqp_per_saga": amqp.total() / n,
            **{f"{part}_amqp_per_saga": amqp[part] / n for part in (ORCHESTRATOR, WORKERS)},
        }


def cpu_costs(used_s: Mapping[str, float], n: int) -> dict[str, Any]:
    """The CPU seconds of each part as figures: for 1,000 sagas, of `n`."""
    return {f"{part}_cpu_s_per_1000": each_s / n * 1000 for part, each_s in used_s.items()}


@asynccontextmanager
async def deployed(file: Path, workers: int) -> AsyncIterator[Deployment]:
    """Run it with so many workers; with none, all in this process."""
    with place(file, is_spread=workers > 0) as here:
        async with orchestrating(here.settings) as client:
            with working(workers, here.environment) as others:
                others.wait_until_they_work()
                yield Deployment(client, others, here)

"""W1 to W5: closed loops, in which the next saga is started when one is done.

On the embedded default client and engine share the process, as they do in an application that
embeds the engine; `benchmarks.deployment` says what else there is. A run warms up, measures, and
then reads every journal to see that each saga was done exactly once.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from amends import Client, Handle
from amends.errors import InstanceNotFound
from benchmarks import sagas as s
from benchmarks.cases import (
    CHAIN10,
    COMPENSATE,
    FANOUT,
    TRANSFER,
    Case,
    check_journals,
    check_runs,
    finish_all,
    warm_up,
)
from benchmarks.deployment import Deployment, deployed
from benchmarks.measure import CpuMeter, Figures, drive, rss_bytes


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """So many sagas, of which so many are under way at once. `key` names it on the command line."""

    key: str
    what: str
    n: int
    inflight: int
    case: Case | None = None
    workers: int = 0
    """On RabbitMQ, where there are any; see `benchmarks.deployment`."""

    @property
    def name(self) -> str:
        return self.key.partition("/")[0]

    def scaled(self, factor: float) -> Self:
        """The same with another number of sagas, for a quick look or a long one."""
        return replace(self, n=max(1, round(self.n * factor)))

    async def run(self, file: Path, watch: AbstractContextManager[object]) -> list[Figures]:
        """Run it on a new file; `watch` is entered while it is measured. Raises CheckFailed."""
        async with deployed(file, self.workers) as deployment:
            await warm_up(deployment.client)
            if self.case is None:
                return [await _sleepers(deployment.client, self, watch)]
            return [await _throughput(deployment, self, self.case, watch)]

    def on_rabbitmq(self, workers: int) -> Self:
        """The same with so many workers; one goes without saying."""
        some = f"/{workers}" if workers > 1 else ""
        return replace(
            self,
            key=f"{self.key}/rabbitmq{some}",
            what=f"{self.what}, RabbitMQ{f', {workers} workers' if some else ''}",
            workers=workers,
        )


ON_ONE_FILE: Final = (
    ClosedLoop(key="W1/64", what="transfer", n=2000, inflight=64, case=TRANSFER),
    ClosedLoop(key="W1/256", what="transfer", n=2000, inflight=256, case=TRANSFER),
    ClosedLoop(key="W1/1", what="transfer, one at a time", n=200, inflight=1, case=TRANSFER),
    ClosedLoop(key="W2", what="chain of 10", n=500, inflight=64, case=CHAIN10),
    ClosedLoop(key="W3", what="compensate", n=1000, inflight=64, case=COMPENSATE),
    ClosedLoop(key="W4", what="fan-out of 100", n=20, inflight=4, case=FANOUT),
    ClosedLoop(key="W5/starts", what="sleepers", n=5000, inflight=64),
)
W1: Final = ON_ONE_FILE[0]
WORKLOADS: Final = (
    *ON_ONE_FILE,
    *(each.on_rabbitmq(workers=1) for each in ON_ONE_FILE if each.case is not None),
    W1.on_rabbitmq(workers=3),
)


async def _throughput(
    deployment: Deployment, workload: ClosedLoop, case: Case, watch: AbstractContextManager[object]
) -> Figures:
    client, n = deployment.client, workload.n
    amqp = await deployment.amqp_messages()
    with deployment.cpu_meter() as cpu, watch:
        driven, ids = await finish_all(client, case, n, workload.inflight)
    amqp = await deployment.amqp_messages() - amqp
    await check_journals(client, case.saga, ids, case.journal)
    check_runs(await deployment.runs(), [(case, n)])
    return Figures(
        workload=workload.name,
        what=workload.what,
        n=n,
        inflight=workload.inflight,
        per_s=driven.per_s,
        steps_per_s=driven.per_s * case.journal["StepScheduled"],
        p50_ms=driven.percentile_ms(50),
        p99_ms=driven.percentile_ms(99),
        cpu_s_per_1000=cpu.used_s / n * 1000,
        others_cpus=cpu.others_cpus,
        **deployment.costs(cpu, amqp, case.messages, n),
    )


async def _sleepers(
    client: Client, workload: ClosedLoop, watch: AbstractContextManager[object]
) -> Figures:
    """Starts count when they are durable; `settled` when those started last sleep durably."""
    ids = [f"sleeper-{number}" for number in range(workload.n)]

    async def submit(number: int) -> None:
        await client.submit(s.sleep, id=ids[number])

    resident = rss_bytes()
    last = ids[-workload.inflight :]
    with CpuMeter() as cpu, watch:
        driven = await drive(workload.n, workload.inflight, submit)
        settled = await drive(len(last), 1, lambda i: _asleep(client.handle(s.sleep, last[i])))
    gc.collect()
    resident = rss_bytes() - resident
    for id in ids:
        await _asleep(client.handle(s.sleep, id))
    await check_journals(client, s.sleep, ids, {"SagaStarted": 1, "TimerStarted": 1})
    return Figures(
        workload=workload.name,
        what=workload.what,
        n=workload.n,
        inflight=workload.inflight,
        per_s=driven.per_s,
        p50_ms=driven.percentile_ms(50),
        p99_ms=driven.percentile_ms(99),
        settled_per_s=workload.n / (driven.wall_s + settled.wall_s),
        cpu_s_per_1000=cpu.used_s / workload.n * 1000,
        others_cpus=cpu.others_cpus,
        rss_per_sleeper_bytes=resident / workload.n,
    )


async def _asleep(handle: Handle[Any]) -> None:
    while not await _has_timer(handle):  # noqa: ASYNC110 - as anyone would who waits for a state
        await asyncio.sleep(0.005)


async def _has_timer(handle: Handle[Any]) -> bool:
    try:
        return bool((await handle.state()).timers)
    except InstanceNotFound:
        return False

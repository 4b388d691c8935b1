"""The soak: a day of virtual time and a million transfers, and nothing may grow.

`make soak`, or `python -m benchmarks.soak`. The embedded engine runs on a real file, with its real
writer thread, under a virtual clock, and keeps journals for an hour. One JSON object a line on
stdout: at each checkpoint what there is of everything, and at the end the verdict. It compares the
last quarter of the day with a quarter of the day at its beginning, after the warm-up. The
environment chooses:

N           how many transfers, 1000000
BENCH_DIR   where the file goes; it should be on a disk
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

from amends import SagaNotCompleted, Settings
from amends.testing.clock import run_virtual
from amends.testing.embedded import Embedded, run_embedded
from benchmarks.measure import check, check_equal, cpu_s, quiet, rounded
from benchmarks.run import folder_on_disk
from benchmarks.soak_bank import (
    MIX,
    OUTCOMES,
    TICK_S,
    Kind,
    Order,
    app,
    approved,
    open_bank,
    transfer,
)
from benchmarks.soak_census import IN, KEPT, census

DAY_S: Final = 86_400.0
RETENTION_DAYS: Final = 1 / 24
#: So many transfers at least begin at one moment, so that their turns share commits.
BURST_MIN: Final = 64
CHECKPOINTS: Final = 50
#: The longest transfer, and its retention.
WARM_UP_S: Final = 2.1 * 3600
#: After the last transfer: its retention, and one more walk over the log.
REST_S: Final = 2.1 * 3600
#: What a mean may be above the one that it is compared with: a tenth, and so much besides.
GROWTH_MAX: Final = 0.1
SLACK: Final = {"rss MB": 8.0, "file MB": 1.0, "wal MB": 17.0, "free pages": 300.0}
SLACK_OTHERS: Final = 2.0 * BURST_MIN
#: These do not go up and down.
EXACT: Final = ("open files", "threads")


class Reading(NamedTuple):
    """What there was of everything at one moment of virtual time."""

    at_s: float
    amounts: Mapping[str, float]


class Trend(NamedTuple):
    """The means of an amount at the beginning and at the end, and its growth in an hour."""

    first: float
    last: float
    per_hour: float

    def grows(self, name: str) -> bool:
        """Whether it grows by more than it may go up and down."""
        if name in EXACT:
            return self.last > self.first
        slack = SLACK.get(name, SLACK_OTHERS)
        return self.last > self.first * (1 + GROWTH_MAX) + slack


def trends(readings: Sequence[Reading]) -> dict[str, Trend]:
    """How each amount went, from a quarter of the day after the warm-up to the last quarter."""
    quarter_s = DAY_S / 4
    first = [r.amounts for r in readings if WARM_UP_S < r.at_s <= WARM_UP_S + quarter_s]
    last = [r.amounts for r in readings if r.at_s > DAY_S - quarter_s]
    hours = (DAY_S - WARM_UP_S - quarter_s) / 3600
    found = {}
    for name in dict.fromkeys(name for reading in (*first, *last) for name in reading):
        means = [fmean(amounts.get(name, 0.0) for amounts in part) for part in (first, last)]
        found[name] = Trend(means[0], means[1], (means[1] - means[0]) / hours)
    return found


class Soak:
    """The clients of a day: each starts a transfer, does what it needs, and checks what it did."""

    def __init__(self, world: Embedded, n: int, say: Callable[[dict[str, Any]], None]) -> None:
        self._client = world.client
        self._clock = world.client.backend.clock
        self._began = self._clock.now()
        self._world = world
        self._n = n
        self._say = say
        self._wall_began = time.perf_counter()
        self._bank = open_bank()
        self.readings: list[Reading] = []
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """The day. Raises CheckFailed when a transfer did not do what it should."""
        ticks = round(DAY_S / TICK_S)
        bursts = max(1, min(self._n // BURST_MIN, ticks))
        begun = 0
        async with asyncio.TaskGroup() as group:
            for burst in range(bursts):
                await self._until(burst * ticks // bursts * TICK_S)
                if burst * CHECKPOINTS // bursts > len(self.readings):
                    self._read()
                for number in range(begun, begun := self._n * (burst + 1) // bursts):
                    group.create_task(self._transfer(Order(number=number, kind=MIX[number % 20])))
            await self._until(DAY_S)
            self._read()
        check(self._bank.is_whole, "money was lost or made")
        await self._until(DAY_S + REST_S)

    def left(self) -> dict[str, float]:
        """What is left when everything is over, and its retention too: of rows, hopefully none."""
        return {name: n for name, n in census(self._world).items() if name.startswith("rows ")}

    async def _until(self, elapsed_s: float) -> None:
        await self._clock.sleep_until(self._began + timedelta(seconds=elapsed_s))

    async def _pause(self, seconds: float) -> None:
        await self._clock.sleep_until(self._clock.now() + timedelta(seconds=seconds))

    async def _transfer(self, order: Order) -> None:
        handle = await self._client.start(transfer, order, id=str(order.number))
        if order.number % 100 == 0:
            # A client that does not know whether its start got through.
            handle = await self._client.start(transfer, order, id=str(order.number))
        if order.kind in (Kind.APPROVED, Kind.CANCELLED):
            await self._pause(order.some_ticks_s(60))
        if order.kind is Kind.APPROVED:
            await handle.signal(approved, "yes")
        elif order.kind is Kind.CANCELLED:
            await handle.cancel(who="the payer", why="a change of mind")
        try:
            await handle.result()
            outcome = "completed"
        except SagaNotCompleted as ended:
            outcome = ended.state
        wanted = OUTCOMES.get(order.kind, "completed")
        check(outcome == wanted, "wrong outcome", found=outcome, order=order)
        payee = order.payee if outcome == "completed" else order.payer
        booked = {(order.payer, -order.cents): 1, (payee, order.cents): 1}
        check(self._bank.forget(order) == booked, "wrongly booked", order=order)
        self.outcomes[outcome] += 1

    def _read(self) -> None:
        at_s = (self._clock.now() - self._began).total_seconds()
        amounts = census(self._world)
        self.readings.append(Reading(at_s, amounts))
        self._say(
            {
                "hours": rounded(at_s / 3600),
                "transfers": self.outcomes.total(),
                "wall s": rounded(time.perf_counter() - self._wall_began),
                "cpu s": rounded(cpu_s()),
                **{name: rounded(n) for name, n in amounts.items() if not name.startswith(IN)},
                "items held": sum(n for name, n in amounts.items() if name.startswith(IN)),
            }
        )


async def soak(
    n: int,
    file: Path,
    say: Callable[[dict[str, Any]], None],
    *,
    retention_days: float | None = RETENTION_DAYS,
) -> dict[str, Any]:
    """Run a day with so many transfers; the verdict. On a `VirtualTimeLoop`. Raises CheckFailed."""
    settings = Settings(retention_days=retention_days)
    async with run_embedded(app, file, settings) as world:
        day = Soak(world, n, say)
        await day.run()
        left = day.left()
    check_equal({"transfers": day.outcomes.total()}, {"transfers": n}, "not all are over")
    found = trends(day.readings)
    return {
        "grows": [name for name, trend in found.items() if trend.grows(name) and name != KEPT],
        "transfers": n,
        "outcomes": dict(day.outcomes),
        "left": left,
        "trends": {
            name: {key: rounded(value) for key, value in trend._asdict().items()}
            for name, trend in found.items()
            if not name.startswith(IN) or trend.grows(name)
        },
    }


def main() -> None:
    """Soak on a new file, and print readings and the verdict as JSON."""
    quiet()
    n = int(os.environ.get("N") or 1_000_000)

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    with tempfile.TemporaryDirectory(prefix="amends-soak-", dir=folder_on_disk()) as folder:
        verdict = run_virtual(soak(n, Path(folder) / "soak.db", say))
    say(verdict)
    if verdict["grows"]:
        sys.exit(f"what grows: {', '.join(verdict['grows'])}")


if __name__ == "__main__":
    main()

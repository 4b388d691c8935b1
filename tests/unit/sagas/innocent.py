"""Sagas as people write them, all of them replayable: the lint must have nothing to say."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import hashlib
import itertools
import json
import logging
import math
import os.path
import random
import re
import socket
import subprocess
import time
import uuid
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel

logger = logging.getLogger(__name__)

BANKS = frozenset({"PKO", "ING", "mBank"})
PORTS = {80, 443}
NAMESPACE = uuid.UUID(int=7)
REPORTS = Path("/var/reports")


class Context:
    """Stands for the context, which this file does without."""

    random: random.Random

    async def do(self, activity: Any, input: Any = None) -> Any: ...
    def now(self) -> datetime: ...  # type: ignore[empty-body]
    def uuid(self) -> uuid.UUID: ...  # type: ignore[empty-body]
    def emit(self, event: object) -> None: ...


class Kind(Enum):
    CARD = "card"
    BANK = "bank"


class Item(BaseModel):
    sku: str
    price: Decimal
    count: int = 1
    tags: set[str] = set()
    sizes: set[int] = set()

    def total(self) -> Decimal:
        return self.price * self.count


class Order(BaseModel):
    id: str
    items: list[Item]
    kind: Kind = Kind.CARD
    due: datetime | None = None
    folder: PurePosixPath = PurePosixPath()


@dataclasses.dataclass
class Line:
    number: int
    notes: frozenset[str] = frozenset()


def activity(command: object) -> None:
    """An activity may do anything, and a saga names it without calling it."""
    time.sleep(random.random())
    with open("/dev/null") as file:
        file.read()


async def parallel(ctx: Context, order: Order) -> list[Any]:
    return await asyncio.gather(*(ctx.do(activity, item) for item in order.items))


async def bounded(ctx: Context, order: Order) -> int:
    limit, done = asyncio.Semaphore(5), 0

    async def one(item: Item) -> None:
        nonlocal done
        async with limit:
            await ctx.do(activity, item)
            done += 1

    async with asyncio.TaskGroup() as group:
        for item in order.items:
            group.create_task(one(item))
    return done


async def racing(ctx: Context, order: Order) -> str:
    first = asyncio.create_task(ctx.do(activity, "a"))
    second = asyncio.create_task(ctx.do(activity, "b"))
    done, pending = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        with suppress(asyncio.CancelledError):
            await task
    return done.pop().get_name()


async def sets_of_tasks(ctx: Context, order: Order) -> None:
    running: set[asyncio.Task[Any]] = set()
    for item in order.items:
        running.add(asyncio.create_task(ctx.do(activity, item)))
    for task in running:
        task.add_done_callback(running.discard)
    others = set()
    for item in order.items:
        task = asyncio.ensure_future(ctx.do(activity, item))
        others.add(task)
    for task in others:
        await task
    made = {asyncio.create_task(ctx.do(activity, item)) for item in order.items}
    await asyncio.gather(*made)
    listed = [asyncio.create_task(ctx.do(activity, item)) for item in order.items]
    for task in set(listed):
        await task
    while running:
        _, running = await asyncio.wait(running, timeout=5)


async def in_completion_order(ctx: Context, order: Order) -> list[Any]:
    results = []
    for next_done in asyncio.as_completed([ctx.do(activity, item) for item in order.items]):
        results.append(await next_done)  # noqa: PERF401 - as people write it
    return results


async def waiting(ctx: Context, order: Order) -> str:
    try:
        async with asyncio.timeout(3600):
            return str(await ctx.do(activity, order))
    except TimeoutError:
        await asyncio.sleep(30)
    loop = asyncio.get_running_loop()
    began = loop.time()
    queue: asyncio.Queue[int] = asyncio.Queue()
    event, lock = asyncio.Event(), asyncio.Lock()
    async with lock:
        event.set()
        queue.put_nowait(1)
    await asyncio.wait_for(queue.get(), timeout=loop.time() - began + 5)
    return "late"


async def moments(ctx: Context, order: Order) -> datetime:
    now = ctx.now()
    local = now.astimezone(ZoneInfo("Europe/Warsaw"))
    midnight = datetime(local.year, local.month, local.day, tzinfo=UTC)
    deadline = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    later = datetime.combine(local.date(), dt.time(12), tzinfo=UTC) + timedelta(days=1)
    stamp = time.strftime("%Y", now.timetuple())
    day = time.gmtime(now.timestamp()).tm_yday
    return max(midnight, deadline, later, dt.datetime.fromtimestamp(day + len(stamp), UTC))


async def chance(ctx: Context, order: Order) -> tuple[Any, ...]:
    rng = random.Random(order.id)
    names = [item.sku for item in order.items]
    ctx.random.shuffle(names)
    return (
        rng.choice(names),
        ctx.random.random(),
        ctx.uuid(),
        uuid.uuid5(NAMESPACE, order.id),
        uuid.UUID(order.id),
        random.Random(7).sample(names, 1),
    )


async def unique_names(ctx: Context, order: Order) -> list[str]:
    seen: set[str] = set()
    unique = []
    for item in order.items:
        if item.sku in seen:
            continue
        seen.add(item.sku)
        unique.append(item.sku)
    names = {item.sku for item in order.items}
    if len(names) != len(unique) or not names <= seen or names.isdisjoint(BANKS):
        await ctx.do(activity, sorted(names | seen))
    total = sum(len(name) for name in names) + min(PORTS) + max(map(len, names), default=0)
    known = all(name in BANKS for name in names) and any(name for name in list(names))
    for name in sorted(seen):
        await ctx.do(activity, name)
    for name in dict.fromkeys(item.sku for item in order.items):
        await ctx.do(activity, name)
    lengths = {len(name) for name in seen}
    return [*unique, str(total), str(known), str(len(lengths)), *sorted({*names, "more"})]


async def numbers_in_sets(ctx: Context, order: Order) -> int:
    total = 0
    for port in PORTS:
        total += port
    for size in {1, 2, -3}:
        total += size
    for only in {order.id}:
        total += len(only)
    for item in order.items:
        for size in item.sizes:
            total += size
    for number in set(range(5)):
        total += number
    return total


async def rebound(ctx: Context, order: Order) -> None:
    names: Any = {item.sku for item in order.items}
    names = sorted(names)
    for name in names:
        await ctx.do(activity, name)
    tags = set(names)
    tags = tags - BANKS
    if tags:
        await ctx.do(activity, sorted(tags))


async def dictionaries(ctx: Context, order: Order) -> dict[str, int]:
    counts = Counter(item.sku for item in order.items)
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in order.items:
        groups[item.sku].append(item)
    for sku, items in groups.items():
        await ctx.do(activity, (sku, len(items)))
    todo = deque(order.items)
    while todo:
        await ctx.do(activity, todo.popleft())
    rest = dict(counts)
    rest.pop(order.id, None)
    rest.popitem()
    return {sku: count for sku, count in counts.items() if count > 1}


async def namesakes(ctx: Context, order: Order) -> Any:
    """Local names hide builtins and modules."""
    id, hash, input, open = order.id, 7, order.items, len
    time = Decimal("2.5")
    random = {"random": id}
    for item in order.items:
        id = item.sku
    os = order.folder
    return id, hash, input, open(input), time.sqrt(), random.get("random"), os.name


async def named_arguments(ctx: Context, id: str, time: str = "now") -> dict[str, Any]:
    return {"id": id, "time": time.upper(), "now": ctx.now(), "today": {"today": id}}


async def paths(ctx: Context, order: Order) -> str:
    path = REPORTS / order.id / "invoice.pdf"
    name = Path(order.id).with_suffix(".txt").name + path.stem
    return os.path.join(str(order.folder), os.path.basename(name), str(path.parent.as_posix()))


async def digests(ctx: Context, order: Order) -> str:
    body = json.dumps(order.model_dump(mode="json"), sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest() + str(zlib.crc32(body)) + str(math.sqrt(len(body)))


async def failures(ctx: Context, order: Order) -> str:
    try:
        await ctx.do(activity, order)
    except (TimeoutError, subprocess.CalledProcessError, socket.gaierror) as error:
        logger.warning("step failed: %s", error)
        print("a saga may print")  # noqa: T201
        raise ValueError(str(error)) from error
    finally:
        ctx.emit(order)
    return "done"


async def types_only(
    ctx: Context,
    when: Callable[[], float] = lambda: 0.0,
    *,
    rng: random.Random | None = None,
    sock: socket.socket | None = None,
) -> Literal["ok"]:
    assert rng is None or isinstance(rng, random.Random)
    worker: subprocess.Popen[bytes] | None = None
    assert worker is None
    assert sock is None
    return "ok"


def pages(items: list[Item], size: int = 2) -> Iterable[tuple[Item, ...]]:
    """A helper that the saga calls."""
    iterator = iter(items)
    while page := tuple(itertools.islice(iterator, size)):
        yield page


@functools.cache
def price_of(sku: str) -> Decimal:
    return Decimal(zlib.crc32(sku.encode()) % 100)


@asynccontextmanager
async def reserved(ctx: Context, item: Item) -> AsyncIterator[Item]:
    await ctx.do(activity, item)
    try:
        yield item
    finally:
        await ctx.do(activity, item.sku)


async def helpers(ctx: Context, order: Order) -> Decimal:
    total = Decimal(0)
    for page in pages(order.items):
        total += sum((item.total() + price_of(item.sku) for item in page), Decimal(0))
    async with AsyncExitStack() as stack:
        for item in order.items:
            await stack.enter_async_context(reserved(ctx, item))
    return total


async def matching(ctx: Context, order: Order) -> str:
    match order:
        case Order(kind=Kind.CARD, items=[Item(sku=sku), *_]):
            return sku
        case Order(kind=kind, due=None):
            return kind.value
        case _ if re.match(r"\d+", order.id):
            return "number"
    for kind in Kind:
        await ctx.do(activity, kind)
    return "other"


async def classes_inside(ctx: Context, order: Order) -> int:
    class Tally:
        time = 0

        def add(self, item: Item) -> Tally:
            self.time += item.count
            return self

    step: Callable[[Tally, Item], Tally] = lambda tally, item: tally.add(item)  # noqa: E731
    return functools.reduce(step, order.items, Tally()).time


async def signals(ctx: Context, wait: Callable[[], Awaitable[Line]]) -> int:
    line = await wait()
    if "urgent" in line.notes or line.notes & BANKS:
        return len(line.notes | {"urgent"})
    return -1 if line.notes == set() else line.number


SAGAS = [
    value
    for value in list(globals().values())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and getattr(getattr(value, "__code__", None), "co_varnames", ("",))[:1] == ("ctx",)
]

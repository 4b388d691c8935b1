"""What there is of everything in a process that runs an engine, and in its file."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, MutableMapping, MutableSequence, MutableSet
from typing import Any, Final

from amends.domain.removals import REMOVALS
from amends.testing.embedded import Embedded
from benchmarks.measure import rss_bytes

#: The records of what was removed: all that a retention leaves, one event for many journals.
KEPT: Final = "removals on record"
#: How the names of containers begin.
IN: Final = "in "
MB: Final = 1_000_000
_ROWS: Final = ("streams", "events", "messages", "delayed", "dead_letters")


def census(world: Embedded) -> dict[str, float]:
    """Amounts by name. What the last collection of garbage would free is not counted."""
    gc.collect()
    path = world.database.path
    rows = {
        f"rows {table}": world.database.query(f"SELECT count(*) FROM {table}")[0][0]
        for table in _ROWS
    }
    kept = world.database.query(
        "SELECT count(*) FROM events JOIN streams ON streams.id = events.stream WHERE name = ?",
        (REMOVALS,),
    )[0][0]
    rows["rows events"] -= kept
    rows["rows streams"] -= kept > 0
    held = containers(
        engine=world.engine,
        client=world.client,
        database=world.database,
        loop=asyncio.get_running_loop(),
    )
    return {
        "rss MB": rss_bytes() / MB,
        "file MB": path.stat().st_size / MB,
        "wal MB": path.with_name(f"{path.name}-wal").stat().st_size / MB,
        "free pages": world.database.query("PRAGMA freelist_count")[0][0],
        **rows,
        KEPT: kept,
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "gc objects": len(gc.get_objects()),
        **{f"{IN}{name}": count for name, count in held.items()},
    }


def containers(**roots: object) -> dict[str, int]:
    """How many items there are in every container that objects of ours hold, by its attributes.

    It goes on into our objects, also in lists and in dicts by name, but not into those that stand
    for one instance or message each: nobody would find a path there twice.
    """
    counts: Counter[str] = Counter()
    seen: set[int] = set()
    todo = deque(roots.items())
    while todo:
        path, thing = todo.popleft()
        if isinstance(thing, MutableMapping | MutableSequence | MutableSet | deque):
            counts[path] += len(thing)
            if type(thing) is dict:
                inside: Iterator[Any] = (value for key, value in thing.items() if type(key) is str)
            else:
                inside = iter(thing if type(thing) is list else ())
            todo.extend((f"{path}[]", part) for part in inside if _is_ours(part))
        elif _is_ours(thing) and id(thing) not in seen:
            seen.add(id(thing))
            todo.extend((f"{path}.{name}", value) for name, value in _attributes(thing))
    return dict(counts)


def _is_ours(thing: object) -> bool:
    return type(thing).__module__.startswith("amends.") and not isinstance(thing, type)


def _attributes(thing: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(thing, "__dict__", {}).items()
    for cls in type(thing).__mro__:
        for name in getattr(cls, "__slots__", ()):
            if not name.startswith("__") and hasattr(thing, name):
                yield name, getattr(thing, name)

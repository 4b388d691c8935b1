"""Three repairs to asyncio, for loops that are replayed; everybody else sees no difference.

asyncio keeps futures in sets in some places. A set iterates in the order of its members' hashes;
by default these are their addresses, so the order differs from replay to replay. This is where it
matters, as read in `Lib/asyncio` of CPython 3.11.7, 3.12.1, 3.13.0 (of 3.14: `tasks.py` and
`taskgroups.py`):

- `tasks.as_completed` makes its tasks from `set(fs)`. Coroutines hash by address, so the tasks
  start, and take their decisions, in an order of their own each time. **Repaired here.**
- `tasks.gather` returns a `_GatheringFuture`, which asyncio makes without asking the loop, so it
  hashes by address. After `asyncio.wait([gather(...), gather(...)])` the returned sets iterate in
  any order. **Repaired here**, with a hash drawn from the loop.
- `tasks.wait` and `TaskGroup._tasks` (cancelled in its order by `_abort`) keep sets of tasks: the
  loop gives its tasks and futures hashes that are the same on every replay.
- `tasks.all_tasks` reads a registry of the whole process, up to 3.13 a `WeakSet` in whose order
  the tasks of other loops have a part. The lint refuses iterating over it.
- `gather` keeps a dict in the order given; `queues`, `locks` and `staggered` (which only
  `create_connection` uses) keep deques and lists.
- `timeouts`, `wait`, `wait_for` and `sleep` know time from `loop.time()` and `loop.call_later`
  only. A default task name counts the tasks of the whole process; the loop names its own.
- An async generator that is left early is closed by hooks which `run_forever` sets
  (`sys.set_asyncgen_hooks` in `base_events.py`): a loop without them of its own leaves the closing
  to the loop around it, outside the saga.

The third repair has nothing to do with order. Up to 3.12, a `TaskGroup` whose member fails while
the group is waiting at its end cancels its parent and never takes that back: `cancelling()` stays
above 0. A later `asyncio.timeout` around it then takes its own cancellation for somebody else's,
and raises CancelledError in place of TimeoutError. 3.13 counts right.

Not repairable here: a newer Python may let a task come to its turn earlier or later than an older
one. `wait_for` ran its coroutine in a task of its own until 3.11, and runs it in place since 3.12.
A saga in which several branches race may therefore take its decisions in another order under
another minor version; the replay notices.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from asyncio import TaskGroup, events, tasks
from collections.abc import Callable
from typing import Any, Final

_INSTALLED: Final = "_amends_keeps_order"


def install() -> None:
    """Put the repairs in place, for `asyncio` and for its modules `tasks` and `taskgroups`.

    Doing it again changes nothing. A module that did `from asyncio import as_completed` before
    has kept the original; the lint finds it there.
    """
    for module in (asyncio, tasks):
        if not hasattr(module.as_completed, _INSTALLED):
            setattr(module, "as_completed", _in_order(module.as_completed))  # noqa: B010 - mypy
    if sys.version_info < (3, 13) and not hasattr(TaskGroup.__aexit__, _INSTALLED):
        setattr(TaskGroup, "__aexit__", _counting(TaskGroup.__aexit__))  # noqa: B010 - mypy
    gathering = getattr(tasks, "_GatheringFuture", None)
    if gathering is not None:
        gathering.__hash__ = _hash_of_gathering


def is_original(fn: object) -> bool:
    """Whether this is an `as_completed` from before the repair."""
    return any(fn is original for original in _originals)


_originals: Final[list[object]] = []


@functools.cache
def _in_order(original: Callable[..., Any]) -> Callable[..., Any]:
    """An `as_completed` that starts its tasks in the given order on a saga's loop."""

    @functools.wraps(original)
    def as_completed(fs: Any, *args: Any, **kwargs: Any) -> Any:
        loop = events._get_running_loop()
        if getattr(loop, "is_saga_loop", False) and not inspect.isawaitable(fs):
            # Without repetitions, as the original has it.
            fs = [asyncio.ensure_future(each, loop=loop) for each in dict.fromkeys(fs)]
        return original(fs, *args, **kwargs)

    setattr(as_completed, _INSTALLED, True)
    _originals.append(original)
    return as_completed


def _counting(original: Callable[..., Any]) -> Callable[..., Any]:
    """An `__aexit__` of TaskGroup that takes back, on a saga's loop, each cancel of its own."""

    @functools.wraps(original)
    async def leave(group: Any, *exc_info: Any) -> Any:
        # What was asked for before, the original takes back.
        had_cancelled = group._parent_cancel_requested
        try:
            return await original(group, *exc_info)
        finally:
            has_cancelled = group._parent_cancel_requested and not had_cancelled
            if has_cancelled and getattr(group._loop, "is_saga_loop", False):
                group._parent_task.uncancel()

    setattr(leave, _INSTALLED, True)
    return leave


def _hash_of_gathering(future: Any) -> int:
    loop = future.get_loop()
    if not getattr(loop, "is_saga_loop", False):
        return object.__hash__(future)
    number: int | None = getattr(future, "_amends_hash", None)
    if number is None:
        number = future._amends_hash = hash(loop.create_future())
    return number

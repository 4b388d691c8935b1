"""Running saga code from inside an event loop that is not the saga's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def outside_tasks(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run a function in a callback of the loop, where no task is running: the tasks of a saga's
    own loop run inside it, and Python 3.14 keeps one running task per thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    loop.call_soon(run)
    return future

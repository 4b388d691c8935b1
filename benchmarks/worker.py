"""A worker of a deployment on RabbitMQ, as a process of its own: see `benchmarks.deployment`.

Its store and broker stand in the environment. It runs activities until SIGTERM, and then says how
often each ran.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

from benchmarks import sagas as s
from benchmarks.children import say
from benchmarks.measure import quiet
from benchmarks.profiles import of_a_worker


async def _work() -> None:
    with of_a_worker() as watch:
        async with s.app.work() as worker:
            working = asyncio.ensure_future(worker.failed())
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
            say("working")
            with suppress(asyncio.CancelledError), watch:
                await working
    say("stopped", runs=s.RUNS)


if __name__ == "__main__":
    quiet()
    asyncio.run(_work())

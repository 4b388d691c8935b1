"""Workers by the hundred: each a process of its own that runs `amends dev`, to be killed.

The nursery imports what a worker needs and then makes one worker after another by forking, which
takes milliseconds where Python's imports take most of a second. For each line on its standard
input, the worker's environment as JSON, it says the new worker's process id; and, once the worker
has ended, its exit status (a negative one is the signal that ended it).
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import amends.cli.main
import amends.cli.running
import tests.acceptance.ledger_app  # noqa: F401 - so that the workers need not

ROOT = Path(__file__).parents[2]
APP = "tests.acceptance.ledger_app:app"


class Nursery:
    """The nursery as a test uses it; one worker at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._worker = 0
        self._ended: asyncio.Task[int] | None = None

    @classmethod
    async def open(cls, db: Path, log: Path) -> Nursery:
        arguments = ("-m", "tests.acceptance.nursery", str(db), str(log))
        pipe = asyncio.subprocess.PIPE
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=stderr
            )
        return cls(process)

    async def start(self, **environment: str) -> None:
        """Start a worker: there must be none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(environment).encode() + b"\n")
        self._worker = await self._told()
        self._ended = asyncio.create_task(self._told())

    async def kill_at(self, moment: Coroutine[Any, Any, None]) -> None:
        """Kill the worker when a moment has come."""
        assert self._ended is not None
        coming = asyncio.create_task(moment)
        await asyncio.wait([coming, self._ended], return_when=asyncio.FIRST_COMPLETED)
        if not self._ended.done():
            os.kill(self._worker, signal.SIGKILL)
        coming.cancel()
        await self.until_killed()

    async def until_killed(self) -> None:
        """Wait for the worker's end, which must be by a kill."""
        assert self._ended is not None
        status = await self._ended
        self._ended = None
        assert status == -signal.SIGKILL, f"a worker ended by itself, with {status}"

    async def close(self) -> None:
        """End it, and its worker: it does so too when the test's process dies."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        if self._ended is not None:
            await self._ended

    async def _told(self) -> int:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the nursery died"
        return int(line)


def main(db: str, log: str) -> None:
    while line := sys.stdin.readline():
        worker = os.fork()
        if worker == 0:
            os.environ.update(json.loads(line))
            output = os.open(log, os.O_WRONLY | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["amends", "dev", APP, "--db", db, "--log-level", "warning"]
            amends.cli.main.main()
        print(worker, flush=True)  # noqa: T201 - its protocol
        ended = os.pidfd_open(worker)
        if ended not in select.select([ended, sys.stdin], [], [])[0]:
            # While a worker lives, nothing but the end of the test is to be read.
            os.kill(worker, signal.SIGKILL)
        os.close(ended)
        _, status = os.waitpid(worker, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])

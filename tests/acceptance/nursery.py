"""Processes by the hundred: each runs `amends` with its own arguments, to be killed.

The nursery imports what they need and then makes one after another by forking, which takes
milliseconds where Python's imports take most of a second. Each line on its standard input asks for
a process, as JSON: its arguments, its environment, and the files for its output. It tells of each,
by its number from 0: its process id, and, once it has ended, its exit status (a negative one is the
signal that ended it).
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

import amends.broker.rabbitmq
import amends.cli.main
import amends.cli.running
import tests.acceptance.ledger_app  # noqa: F401

ROOT = Path(__file__).parents[2]
APP = "tests.acceptance.ledger_app:app"


class Child:
    """A process of the nursery."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        self.log.touch()
        self.pid = 0
        self.started = asyncio.Event()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"{self.name} ({self.pid})"

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def told(self, *, pid: int | None = None, status: int | None = None) -> None:
        """What the nursery says of it."""
        if pid is not None:
            self.pid = pid
            self.started.set()
        if status is not None:
            self._ended.set_result(status)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if not self.has_ended:
            os.kill(self.pid, number)

    async def ended(self) -> int:
        """Wait for its end: its exit status."""
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        """Kill it, and wait for its end, which must be by that."""
        self.send(signal.SIGKILL)
        await self.until_killed()

    async def kill_at(self, moment: Coroutine[Any, Any, None]) -> None:
        """Kill it when a moment has come, unless it was killed before."""
        coming = asyncio.create_task(moment)
        ended = asyncio.create_task(self.ended())
        await asyncio.wait([coming, ended], return_when=asyncio.FIRST_COMPLETED)
        coming.cancel()
        await self.kill()

    async def until_killed(self) -> None:
        """Wait for its end, which must be by a kill."""
        status = await self.ended()
        assert status == -signal.SIGKILL, f"{self} ended by itself, with {status}"


class Nursery:
    """The nursery as a test uses it. Made by `open`, with the folder for what its children say."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._children: list[Child] = []
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, folder: Path) -> Nursery:
        pipe = asyncio.subprocess.PIPE
        with (folder / "nursery.log").open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.acceptance.nursery",
                cwd=ROOT, stdin=pipe, stdout=pipe, stderr=stderr,
            )  # fmt: skip
        return cls(process, folder)

    async def start(self, *arguments: str, name: str, **environment: str) -> Child:
        """Start `amends` with these arguments. What it prints and logs goes to files of its name,
        behind what is there.
        """
        assert self._process.stdin is not None
        child = Child(self._folder, name)
        self._children.append(child)
        files = [str(child.output), str(child.log)]
        wanted = {"arguments": arguments, "environment": environment, "files": files}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        await child.started.wait()
        return child

    async def close(self) -> None:
        """End it, and its children: it does so too when the test's process dies."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, news = json.loads(line)
            self._children[number].told(**news)


# --- the nursery's own process


def main() -> None:
    """Make children until standard input ends."""
    children: dict[int, tuple[int, int]] = {}  # their numbers and process ids, by descriptor
    unread, number = b"", 0
    while True:
        for descriptor in select.select([0, *children], [], [])[0]:
            if descriptor in children:
                _bury(descriptor, *children.pop(descriptor))
                continue
            read = os.read(0, 65_536)
            if not read:
                for _, child in children.values():
                    os.kill(child, signal.SIGKILL)
                return
            *lines, unread = (unread + read).split(b"\n")
            for line in lines:
                child = _bear(**json.loads(line))
                children[os.pidfd_open(child)] = number, child
                _tell(number, pid=child)
                number += 1


def _bear(arguments: list[str], environment: dict[str, str], files: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), descriptor)
    sys.argv = ["amends", *arguments]
    amends.cli.main.main()
    raise AssertionError("it ends the process")


def _bury(descriptor: int, number: int, child: int) -> None:
    os.close(descriptor)
    _, status = os.waitpid(child, 0)
    _tell(number, status=os.waitstatus_to_exitcode(status))


def _tell(number: int, **news: int) -> None:
    os.write(1, json.dumps([number, news]).encode() + b"\n")


if __name__ == "__main__":
    main()

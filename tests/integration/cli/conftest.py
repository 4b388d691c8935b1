"""What the tests of the command line share: the command line in this process, an engine in this
process to prepare stores with, and real processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import selectors
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from typer.testing import CliRunner

from amends import App, Client, InstanceId
from amends.cli.main import app as command_line
from amends.domain.ids import START
from amends.stores.port import EventFilter
from tests.integration.cli import transfer_app

ROOT = Path(__file__).resolve().parents[3]
APP = "tests.integration.cli.transfer_app:app"
#: Half of what a test may take: a command in a process of its own begins slowly under load.
WAIT_S = 60.0

T = TypeVar("T")


class Ran:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> list[Any]:
        """Every line of stdout as JSON: there must be nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"<exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}>"


class Amends:
    """The command line, and the engine, in an empty directory."""

    def __call__(self, *args: str, stdin: str = "") -> Ran:
        """Run a command in this process."""
        result = CliRunner().invoke(command_line, list(args), input=stdin)
        return Ran(result.exit_code, result.stdout, result.stderr)

    def ok(self, *args: str, stdin: str = "") -> Ran:
        """Run a command that must succeed."""
        ran = self(*args, stdin=stdin)
        assert ran.code == 0, ran
        return ran

    def engine(self, work: Callable[[Client], Awaitable[T]], *, app: App = transfer_app.app) -> T:
        """Do something with an engine that runs meanwhile."""

        async def main() -> T:
            async with app.run("amends.db") as client, asyncio.timeout(WAIT_S):
                return await work(client)

        return asyncio.run(main())

    def transfer(self, id: str, payer: str = "anna", payee: str = "bert") -> None:
        """Start a transfer, and let it run until it ends or waits for somebody."""
        order = transfer_app.Transfer(payer=payer, payee=payee, amount=5)
        self.start(transfer_app.transfer, order, id)

    def start(self, saga: Any, input: Any, id: str) -> None:
        """Start a saga, and let it run until it ends or waits for somebody."""

        async def work(client: Client) -> None:
            await client.start(saga, input, id=id)
            await until_at_rest(client, InstanceId(saga.name, id))

        self.engine(work)

    def settle(self, instance: str) -> None:
        """Let an engine run until an instance ends."""
        saga, _, id = instance.partition("/")
        self.engine(lambda client: client.wait_for_end(InstanceId(saga, id), WAIT_S))

    def settle_elsewhere(self, instance: str) -> None:
        """Wait until an instance ends, which an engine in another process sees to."""
        saga, _, id = instance.partition("/")

        async def main() -> None:
            async with App().client("amends.db") as client:
                await client.wait_for_end(InstanceId(saga, id), WAIT_S)

        asyncio.run(main())

    def tamper(self, instance: InstanceId) -> None:
        """Make the second event of a journal one that a newer release wrote."""
        with sqlite3.connect("amends.db") as connection:
            connection.execute(
                "UPDATE events SET metadata = ? WHERE version = 1 AND stream = "
                "(SELECT id FROM streams WHERE name = ?)",
                [b'{"schema":99}', instance.stream],
            )
        connection.close()

    def state(self, instance: str) -> str:
        """An instance's state, by `amends list`."""
        found = [row for row in self.ok("list", "--json").json if row["instance"] == instance]
        return str(found[0]["state"])


AT_REST = [
    "SagaCompleted",
    "SagaCompensated",
    "SagaFailed",
    "SagaCancelled",
    "SagaTerminated",
    "SagaStalled",
    "StepParked",
    "TimerStarted",
]


async def until_at_rest(client: Client, instance: InstanceId) -> None:
    """Return when an instance has ended, or waits for something that will not come by itself."""
    if instance.saga == "approve":
        return
    events = client.backend.store.subscribe(
        START, filter=EventFilter((instance.stream,), tuple(AT_REST))
    )
    while (await anext(events)).stream != instance.stream:
        pass


@pytest.fixture
def amends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Amends]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # and what a command adds is taken back
    for name in os.environ:
        if name.startswith("AMENDS_") and not name.startswith("AMENDS_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    handlers, level = logging.root.handlers[:], logging.root.level
    yield Amends()
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


class Process:
    """A command in a process of its own. Its output is read as it comes, with bounded waits."""

    def __init__(self, *args: str, **environment: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AMENDS_")}
        env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "amends.cli", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        self.out = self.err = ""
        self._selector = selectors.DefaultSelector()
        for stream, name in ((self.popen.stdout, "out"), (self.popen.stderr, "err")):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, name)

    def wait_for(self, text: str, *, times: int = 1, where: str = "out") -> None:
        """Read until a text has come so many times."""
        while getattr(self, where).count(text) < times:
            assert self._read(), f"no {text!r} in {where} of {self}"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def end(self) -> Ran:
        """Read to its end."""
        while self._read():
            pass
        return Ran(self.popen.wait(WAIT_S), self.out, self.err)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.popen.kill()
        self.end()

    def close(self) -> None:
        """Let nothing of it outlive the test."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()
        self._selector.close()

    def _read(self) -> bool:
        """Read what has come; False at the end of both streams."""
        if not self._selector.get_map():
            return False
        ready = self._selector.select(WAIT_S)
        assert ready, f"nothing more came from {self}"
        for key, _ in ready:
            data = os.read(key.fd, 65_536)
            if not data:
                self._selector.unregister(key.fileobj)
            setattr(self, key.data, getattr(self, key.data) + data.decode())
        return True

    def __repr__(self) -> str:
        return f"<process\n--- stdout\n{self.out}\n--- stderr\n{self.err}>"


@pytest.fixture
def processes(amends: Amends) -> Iterator[Callable[..., Process]]:
    """Begins processes; each is gone when the test is over."""
    begun: list[Process] = []

    def begin(*args: str, **environment: str) -> Process:
        begun.append(Process(*args, **environment))
        return begun[-1]

    yield begin
    for process in begun:
        process.close()


@pytest.fixture
def gate(amends: Amends) -> Callable[[], None]:
    """The pipe that a withdrawal from "gate" waits for, and what opens it."""
    os.mkfifo("gate")

    def open_it() -> None:
        Path("gate").write_text("go on")

    return open_it

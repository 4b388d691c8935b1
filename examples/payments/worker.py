"""The worker: `amends dev` in a process of its own, which the demo kills and starts again."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from amends import Settings
from examples.payments.outside import STEP_LOG_VARIABLE

APP: Final = "examples.payments.transfer:app"
ROOT: Final = Path(__file__).resolve().parents[2]
STOP_TIMEOUT_S: Final = 45.0
LOG_LINES_SHOWN: Final = 15
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class WorkerDied(Exception):
    """The worker ended although nobody ended it."""


class Worker:
    """One worker at a time on one store: `async with Worker(…)`. Leaving it leaves no process.

    `kills` counts what it went through.
    """

    def __init__(self, settings: Settings, *, log: Path, steps: Path) -> None:
        self._settings = settings
        self._log = log.absolute()
        self._steps = steps.absolute()
        self._process: Process | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.kills = 0

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end(signal.SIGKILL)
        await asyncio.gather(*self._watching)
        self._death.cancel()

    async def kill_and_restart(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed. The next one takes up what is left."""
        await self._end(signal.SIGKILL)
        self.kills += 1
        await self._start()

    async def stop(self) -> None:
        """SIGTERM, which lets it finish what it is at; SIGKILL if that takes too long."""
        await self._end(signal.SIGTERM)

    async def died(self) -> None:
        """Wait, and raise WorkerDied with the end of its log if it ends by itself."""
        await asyncio.shield(self._death)

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:])

    async def _start(self) -> None:
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "amends", "dev", APP),
                cwd=ROOT,
                env={**os.environ, **self._environment, STEP_LOG_VARIABLE: str(self._steps)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._process = process
        task = asyncio.create_task(self._watch(process))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    @property
    def _environment(self) -> dict[str, str]:
        """The settings as its process gets them."""
        path = self._settings.sqlite_path.absolute()
        given = self._settings.model_dump(include=self._settings.model_fields_set)
        given["store"] = f"sqlite:///{path}"
        return {f"AMENDS_{name.upper()}": str(value) for name, value in given.items()}

    async def _watch(self, process: Process) -> None:
        code = await process.wait()
        if process is self._process and not self._death.done():
            words = self.last_words()
            self._death.set_exception(WorkerDied(f"the worker ended with code {code}:\n{words}"))

    async def _end(self, by: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _send(process, by)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            _send(process, signal.SIGKILL)
            await process.wait()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, in whatever way: no worker is left."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _send(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended a moment ago
        process.send_signal(number)

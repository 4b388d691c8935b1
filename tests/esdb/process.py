"""The protocol double as a process of its own, which a test may kill."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20


class DoubleProcess:
    """Runs while the block does. What it wrote survives a kill, in the folder.

    Args:
        folder: Where its log is, and its port file.
        keeps: Whether what it wrote is to survive; otherwise it is in memory only.
    """

    def __init__(self, folder: Path, *, keeps: bool = True) -> None:
        self.port = 0
        self._file = ("--file", folder / "log.jsonl") if keeps else ()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"esdb://127.0.0.1:{self.port}?Tls=false"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, at its last port if it had one; when this returns, it listens."""
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [
                *(sys.executable, "-m", "tests.esdb.serve", "--port-file", port_file),
                *("--port", str(self.port), *self._file),
            ],
            cwd=ROOT,
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not port_file.exists():
                if self._process.poll() is not None:
                    raise AssertionError(f"the double ended with {self._process.returncode}")
                await asyncio.sleep(0.02)
        self.port = int(port_file.read_text())

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def __aenter__(self) -> DoubleProcess:
        await self.start()
        return self

    async def __aexit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

"""A server of a test's own: its process, its folder, and a guard that leaves neither behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: Run by sh: waits until it is told, or until nobody is left who could tell it, and cleans up. A
#: line is the process group that lives now, or empty when there is none.
GUARD = """
while read -r line && [ "$line" != end ]; do group=$line; done
[ "$group" ] && kill -s KILL -- "-$group"
for attempt in 1 2 3 4 5; do rm -rf -- "$1" && break; sleep 0.2; done
"""

#: Run by sh: tells the guard its process group before anything else, then becomes the command.
LAUNCH = 'echo $$; exec >>"$0" 2>&1; exec "$@"'


class GuardedProcess:
    """A folder, and at most one process at a time that works in it, with its process group.

    When the process that made it ends, even by SIGKILL, a shell that waits for that kills the group
    and removes the folder. PR_SET_PDEATHSIG would not do: it fires when the *thread* ends.

    Args:
        prefix: What the folder's name begins with.
        where: The folder in which it is made; by default where temporary files are.
    """

    def __init__(self, prefix: str, where: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, f"{prefix}guard", self.folder],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for its owner
        )

    @property
    def output(self) -> Path:
        """The file that takes what the process prints."""
        return self.folder / "output"

    @property
    def pid(self) -> int | None:
        """The process; None when there is none, or when it ended."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def input(self) -> IO[bytes]:
        """The standard input of the process."""
        assert self._process is not None, "launched"
        return _pipe(self._process)

    def launch(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        """Start a process in the folder. There must be no other; one that ended must be killed."""
        assert self._process is None, "one at a time"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", LAUNCH, self.output, *command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=_pipe(self._guard),
            env=env,
            cwd=self.folder,
            start_new_session=True,  # so that its process group is its own
        )

    def kill(self) -> None:
        """Kill the process and its group (SIGKILL), and wait for its end; the folder stays."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _pipe(process).close()
        _pipe(self._guard).write(b"\n")

    def close(self) -> None:
        """Kill the process, and remove the folder. It cannot be used again."""
        self.kill()
        if self._guard.poll() is None:
            _pipe(self._guard).write(b"end\n")
            self._guard.wait()
        _pipe(self._guard).close()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None  # each is started with a pipe
    return process.stdin

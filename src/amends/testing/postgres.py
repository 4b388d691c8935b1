"""A private PostgreSQL server for tests: its own data, a socket in its own folder, no port.

It is the installed one (Debian's package `postgresql`, or what AMENDS_POSTGRES_BIN names), and gone
with its data when its owner is, however that ended.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from amends.errors import AmendsError
from amends.testing.guarded import GuardedProcess

WAIT_S: Final = 60.0
_LOOK_S: Final = 0.02
_BIN_VARIABLE: Final = "AMENDS_POSTGRES_BIN"
#: Its data lasts as long as a test run: nothing needs to survive the machine.
_OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",
}


class PostgresError(AmendsError):
    """The private server did not do what it should; the message has the end of its log."""


class PostgresMissing(PostgresError):
    """There is no PostgreSQL to start."""


class PrivatePostgres:
    """A PostgreSQL server for tests, as a context manager or between `start` and `stop`.

    Where tests run as root it runs as another user, because it refuses to be root.

    Raises:
        PostgresMissing: There is no PostgreSQL to start.
    """

    def __init__(self) -> None:
        self._bin = find_binaries()
        self._user = _another_user() if os.geteuid() == 0 else None
        self._process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        """Where it listens: `postgresql://amends@/postgres?host=…`."""
        assert self._process is not None, "started"
        return f"postgresql://amends@/postgres?host={quote(str(self._process.folder))}"

    def start(self) -> None:
        """Make its data and start it. Raises PostgresError; then nothing of it is left."""
        self._process = GuardedProcess("amends-postgres-")
        try:
            self._prepare(self._process.folder)
            self._launch(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it, and remove its data."""
        process, self._process = self._process, None
        if process is None:
            return
        if (pid := process.pid) is not None:
            # Not SIGKILL, after which its shared memory would stay.
            os.kill(pid, signal.SIGQUIT)
            end = time.monotonic() + WAIT_S
            while process.pid == pid and time.monotonic() < end:
                time.sleep(_LOOK_S)
        process.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self, folder: Path) -> None:
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        made = subprocess.run(
            self._as_user(
                [
                    str(self._bin / "initdb"), "--pgdata=data", "--username=amends",
                    "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
                ]
            ),
            cwd=folder, env=_environment(), capture_output=True, text=True, timeout=WAIT_S,
            check=False,
        )  # fmt: skip
        if made.returncode:
            raise PostgresError(f"initdb failed: {made.stdout}{made.stderr}")

    def _launch(self, process: GuardedProcess) -> None:
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        server = [str(self._bin / "postgres"), "-D", "data", "-k", str(process.folder), *options]
        process.launch(self._as_user(server), _environment())
        status = process.folder / "data" / "postmaster.pid"
        end = time.monotonic() + WAIT_S
        while True:
            # The last line says how far it is.
            if status.exists() and status.read_text().rstrip().endswith("ready"):
                return
            if process.pid is None or time.monotonic() > end:
                told = process.output.read_text() if process.output.exists() else ""
                raise PostgresError(f"PostgreSQL did not start:\n{told[-2000:]}")
            time.sleep(_LOOK_S)

    def _as_user(self, command: Sequence[str]) -> list[str]:
        if self._user is None:
            return list(command)
        user = self._user
        return [
            "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
            *command,
        ]  # fmt: skip


def find_binaries() -> Path:
    """The folder of initdb and postgres, of the newest version. Raises PostgresMissing."""
    if named := os.environ.get(_BIN_VARIABLE):
        return Path(named)
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: [int(part) for part in path.parts[4].split(".") if part.isdecimal()],
    )
    if installed:
        return installed[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise PostgresMissing(
        "there is no PostgreSQL here: neither in /usr/lib/postgresql nor on the path. Install the "
        f"package postgresql, or name a folder with initdb and postgres: {_BIN_VARIABLE}"
    )


def _another_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissing("PostgreSQL refuses to run as root, and there is no other user here")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}

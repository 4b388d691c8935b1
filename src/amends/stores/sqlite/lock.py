"""One engine per file: a lock that the kernel releases however its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from amends.errors import EngineAlreadyRunning

LOCK_SUFFIX: Final = ".engine"


class EngineLock:
    """Holds `<file>.engine` locked until `release`, or until the process is gone.

    The file says who holds it, for people. Not its presence but the kernel's lock on it counts,
    so it is never deleted: whoever deletes a lock file may delete another one's lock.
    """

    def __init__(self, database: Path, now: datetime) -> None:
        """Take the lock. Raises EngineAlreadyRunning, which names the holder's process id."""
        path = database.with_name(database.name + LOCK_SUFFIX)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            raise EngineAlreadyRunning(_refusal(database, holder)) from error
        self._descriptor: int | None = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _describe(now), 0)

    def release(self) -> None:
        """Let another engine have the file. Idempotent."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _describe(now: datetime) -> bytes:
    return json.dumps({"pid": os.getpid(), "started_at": now.isoformat()}).encode()


def _refusal(database: Path, holder: bytes) -> str:
    try:
        fields = json.loads(holder)
        who = f"process {fields['pid']}, running since {fields['started_at']}"
    except (ValueError, KeyError, TypeError):
        # It took the lock this moment and has not written its name yet.
        who = "another process"
    return (
        f"{database} has an engine already: {who}. Nothing was changed. Stop that one first, or "
        "be its client: starting, signalling and querying sagas needs no engine of your own."
    )

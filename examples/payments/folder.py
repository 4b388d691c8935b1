"""The folder of a run: the payment file, the plan, the store, and what the worker wrote."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from examples.payments.plan import Plan
from examples.payments.proof import PLAN, STORE

DEFAULT_FOLDER: Final = Path(".amends-demo")
LOCK: Final = "demo.lock"


class Refused(Exception):
    """Nothing was done, for a reason that the user can change."""


class Folder:
    """Where everything of one run lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / STORE
        self.plan = path / PLAN
        self.sample = path / "payments.xml"
        self.worker_log = path / "worker.log"
        self.step_log = path / "steps.log"
        self.key = path / "audit.pem"
        self.public_key = path / "audit.pub.pem"

    def keep_plan(self, plan: Plan) -> None:
        """Write the plan down. Raises Refused if the folder holds the run of another one."""
        if self.plan.exists() and self._planned() != plan:
            raise Refused(
                f"{self.path} holds a run of another file or seed, and the accounts that were "
                "opened for it. Name another folder with --keep, or remove this one"
            )
        plan.save(self.plan)

    def _planned(self) -> Plan | None:
        try:
            return Plan.load(self.plan)
        except ValueError:
            return None

    def clear(self) -> None:
        """Remove what the demo writes, and nothing else that may be there.

        Raises Refused while an engine runs on the store. Its lock is never removed: whoever
        removed it might remove somebody's who has just taken it.
        """
        engine_lock = self.path / f"{STORE}.engine"
        if engine_lock.exists():
            with engine_lock.open("a") as lock:
                _take(lock, f"an engine runs on {self.store}; stop it first")
        ours = (self.plan, self.sample, self.worker_log, self.step_log, self.key, self.public_key)
        projections = self.path.glob(f"{self.store.stem}-projections*")
        for path in (*ours, *self.path.glob(f"{STORE}*"), *projections):
            if path != engine_lock:
                path.unlink(missing_ok=True)


def _take(lock: TextIO, otherwise: str) -> None:
    """Lock an open file until it is closed. Raises Refused."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(otherwise) from None


@contextmanager
def working_in(path: Path | None) -> Iterator[Folder]:
    """The folder, for one run at a time: a given one as it is, or else the default one, cleared.

    Raises Refused while another run or an engine works there, and OSError.
    """
    folder = Folder(path or DEFAULT_FOLDER)
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / LOCK).open("w") as lock:
        _take(lock, f"another run works in {folder.path}; wait for it to end")
        if path is None:
            folder.clear()
        yield folder

"""Profiles of the CPU time of this process, thread by thread, and of the workers that it starts."""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Final

LOOP: Final = "event loop"
WRITER: Final = "amends-writer"

#: The folder where workers leave theirs.
FOLDER: Final = "BENCH_PROFILES"


class Profiles:
    """One profile of this thread while it is entered, and one of each writer started since."""

    def __init__(self) -> None:
        self._of: dict[str, cProfile.Profile] = {LOOP: cProfile.Profile(time.thread_time)}
        # Since Python 3.12 a profile sees every thread by itself, and there can be one only.
        if sys.version_info < (3, 12):
            threading.setprofile(self._begin)

    def __enter__(self) -> None:
        self._of[LOOP].enable()

    def __exit__(self, *_: object) -> None:
        self._of[LOOP].disable()

    def _begin(self, frame: FrameType, event: str, arg: Any) -> None:
        """Called in a new thread, where the profile takes its place at once."""
        name = threading.current_thread().name
        if name == WRITER:
            self._of[name] = cProfile.Profile(time.thread_time)
            self._of[name].enable()

    def stats(self) -> dict[str, pstats.Stats]:
        """By the name of the thread."""
        return {name: pstats.Stats(profile) for name, profile in self._of.items()}


@contextmanager
def of_a_worker() -> Iterator[AbstractContextManager[object]]:
    """In a worker: what to enter while it works. It is kept if somebody asked for it. Its writer
    does nothing.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        yield nullcontext()
        return
    profiles = Profiles()
    yield profiles
    profiles.stats()[LOOP].dump_stats(Path(folder) / f"{LOOP} of worker {os.getpid()}")


def of_workers(folder: Path) -> dict[str, pstats.Stats]:
    """What workers left."""
    return {file.name: pstats.Stats(str(file)) for file in sorted(folder.iterdir())}

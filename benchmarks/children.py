"""Processes of a benchmark's own, which are killed, and say in JSON lines how far they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.measure import check


@contextmanager
def child(module: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m module arguments`, killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str], word: str) -> Any:
    """The next line of a child, which must tell of `word`."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
    check(bool(line), f"the process ended before it was {word}", exit_status=process.returncode)
    said = json.loads(line)
    check(said["said"] == word, f"the process was not {word}", said=said)
    return said


def cpu_s_of(process: subprocess.Popen[str]) -> float:
    """User and system time of a process that runs."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def say(word: str, **more: object) -> None:
    """In the child: tell how far it is."""
    print(json.dumps({"said": word} | more), flush=True)

"""Every workload that has a process and a file of its own: `python -m benchmarks.workloads`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import closed_loop, long_journal, mixed
from benchmarks.measure import CheckFailed, Figures, Workload, quiet

_ALL: Final[Sequence[Workload]] = (
    *closed_loop.WORKLOADS,
    mixed.HOLD,
    *long_journal.WORKLOADS,
)
WORKLOADS: Final = {workload.key: workload for workload in _ALL}


def run_in_child(workload: Workload, folder: Path) -> list[Figures]:
    """Run it where nothing is warm, and no memory taken, that should not be. Raises CheckFailed."""
    command = [sys.executable, "-m", "benchmarks.workloads", workload.key]
    child = subprocess.run(
        [*command, json.dumps(_numbers(workload)), str(folder / "bench.db")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        raise CheckFailed(f"{workload.key} failed: its process ended with {child.returncode}")
    return [Figures(**row) for row in json.loads(child.stdout)]


def _numbers(workload: Any) -> dict[str, float]:
    """How often, how long, how many: all that is not the same in every run of a workload."""
    values = {field.name: getattr(workload, field.name) for field in fields(workload)}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def main() -> None:
    """Run the workload of a key, with its numbers, on a file, and print its figures as JSON."""
    key, numbers, file = sys.argv[1:]
    quiet()
    known: Any = WORKLOADS[key]
    workload: Workload = replace(known, **json.loads(numbers))
    rows = asyncio.run(workload.run(Path(file), nullcontext()))
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()

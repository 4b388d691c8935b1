"""Whose time it is: functions of a profile by the part of the program that they belong to."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Final, NamedTuple

#: Functions that are written in C have no file.
IN_C: Final = "~"

#: What stands in the path of a file, and what that is called; the first that fits counts.
PATHS: Final = (
    (re.compile(r"/src/(amends/broker/rabbitmq/\w+)\.py$"), r"\1"),
    (re.compile(r"/src/(amends/stores/sqlite)/"), r"\1"),
    (re.compile(r"/src/(amends/\w+)"), r"\1"),
    (re.compile(r"/site-packages/(\w+)"), r"\1"),
    (re.compile(r"/(benchmarks)/"), r"\1"),
    (re.compile(r"/lib/python[\d.]+/(\w+)"), r"\1"),
)


class Share(NamedTuple):
    """How much time a subsystem took, in seconds and of all."""

    subsystem: str
    took_s: float
    of_all: float


def shares(stats: Any) -> list[Share]:
    """The time within the functions of each subsystem, most first. What is written in C counts for
    those who called it.
    """
    took_s: defaultdict[str, float] = defaultdict(float)
    functions: dict[Any, tuple[int, int, float, float, dict[Any, Any]]] = stats.stats
    for (path, _, _), (_, _, own_s, _, callers) in functions.items():
        if path != IN_C or not callers:
            took_s[subsystem(path)] += own_s
            continue
        for (caller, _, _), (_, _, called_s, _) in callers.items():
            took_s[subsystem(caller)] += called_s
    all_s = sum(took_s.values()) or 1.0
    most_first = sorted(took_s.items(), key=lambda item: -item[1])
    return [Share(name, each_s, each_s / all_s) for name, each_s in most_first]


def subsystem(path: str) -> str:
    """What a file belongs to."""
    for pattern, name in PATHS:
        if found := pattern.search(path):
            return found.expand(name)
    return "C" if path == IN_C else "other"

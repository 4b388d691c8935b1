"""The log as it lies in the file, read without the engine: with SQL and JSON, and nothing of Amends.

What is proved about the engine must not be computed by the engine.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_EVENTS: Final = """
    SELECT streams.name, events.version, events.position, events.type, events.data
    FROM events JOIN streams ON streams.id = events.stream
    ORDER BY events.position
"""


@dataclass(frozen=True, slots=True)
class Fact:
    """One event of the log."""

    stream: str
    version: int
    position: int
    type: str
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """What the stream is about: what follows its category."""
        return self.stream.partition("-")[2]


def read_log(db: Path) -> Iterator[Fact]:
    """Every event, in the order of the log. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)) as file:
        for stream, version, position, type, data in file.execute(_EVENTS):
            yield Fact(stream, version, position, type, json.loads(data))

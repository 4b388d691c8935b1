"""A log of the protocol double that survives its process: a line of JSON for each append.

This is the double's own format. A line that a killed process did not finish is left out, so that an
append is there whole or not at all; an append is answered after its line was handed to the kernel.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.esdb.double import new_log
from tests.esdb.log import Log, Proposed, Record


@contextmanager
def log_in(path: Path) -> Iterator[Log]:
    """The log in a file, which is made if it does not exist."""
    if not path.exists():
        log = new_log()
        path.write_text(line_of(log.records))
    else:
        log = Log()
        whole = [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        for line in whole:
            log.load(record_of(fields) for fields in json.loads(line))
        path.write_text("".join(whole))
    with path.open("a") as file:

        def persist(records: list[Record]) -> None:
            file.write(line_of(records))
            file.flush()

        log.persist = persist
        yield log


def line_of(records: list[Record]) -> str:
    return json.dumps([fields_of(record) for record in records]) + "\n"


def fields_of(record: Record) -> list[Any]:
    event = record.event
    return [
        *(record.position, record.stream, record.number, record.created),
        *(str(event.id), event.type, event.is_json),
        *(b64encode(event.data).decode(), b64encode(event.metadata).decode()),
    ]


def record_of(fields: list[Any]) -> Record:
    position, stream, number, created, id, type, is_json, data, metadata = fields
    event = Proposed(UUID(id), type, b64decode(data), b64decode(metadata), is_json)
    return Record(position, stream, number, event, created)

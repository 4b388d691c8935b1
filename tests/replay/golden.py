"""Golden journals: files of what a released version wrote, in a form that people can read."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from amends import InstanceId
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import Position

FOLDER = Path(__file__).parent


class Golden(NamedTuple):
    """One journal, and what its instance had come to."""

    instance: InstanceId
    status: str
    result: Any
    records: list[RecordedEvent]


def path_of(story: str) -> Path:
    """Where the journal of a story is kept."""
    return FOLDER / f"{story}.json"


def write(story: str, golden: Golden) -> None:
    """Keep a journal. Raises FileExistsError: what is kept is never changed."""
    content = {
        "saga": golden.instance.saga,
        "id": golden.instance.id,
        "status": golden.status,
        "result": golden.result,
        "records": [
            {
                "id": str(record.id),
                "type": record.type,
                "data": json.loads(record.data),
                "metadata": json.loads(record.metadata),
                "recorded_at": record.recorded_at.isoformat(),
            }
            for record in golden.records
        ],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    with path_of(story).open("x", encoding="utf-8") as file:
        # Tracebacks name files; where the checkout lay is nobody's business.
        file.write(text.replace(f"{FOLDER.parents[1]}/", "") + "\n")


def read(story: str) -> Golden:
    """A journal that is kept."""
    content = json.loads(path_of(story).read_text(encoding="utf-8"))
    instance = InstanceId(content["saga"], content["id"])
    records = [
        RecordedEvent(
            instance.stream,
            version,
            Position(version),
            UUID(record["id"]),
            record["type"],
            _compact(record["data"]),
            _compact(record["metadata"]),
            datetime.fromisoformat(record["recorded_at"]),
        )
        for version, record in enumerate(content["records"])
    ]
    return Golden(instance, content["status"], content["result"], records)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

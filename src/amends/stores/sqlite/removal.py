"""Removing whole streams. Runs in the writer thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pydantic_core import from_json, to_json

from amends.domain.ids import StreamName
from amends.stores.port import Removal
from amends.stores.sqlite.commit import Transaction
from amends.stores.sqlite.schema import NO_STREAM_ID

_FIND: Final = """
SELECT json_group_array(json_array(s.id, s.name)) FROM json_each(?) AS wanted
CROSS JOIN streams AS s ON s.name = json_extract(wanted.value, '$[0]')
WHERE (SELECT max(version) FROM events WHERE stream = s.id) = json_extract(wanted.value, '$[1]')
"""
_IN_NUMBERS: Final = "IN (SELECT value FROM json_each(?))"
#: The log's last event, if it is to go: its row stays in a stream that does not exist.
_KEEP_POSITION: Final = f"""
UPDATE events SET stream = {NO_STREAM_ID}, version = 0, unpinned = NULL,
    id = x'', type = '', data = x'', metadata = x''
WHERE position = (SELECT max(position) FROM events) AND stream {_IN_NUMBERS}
"""
_DROP_KEPT: Final = f"""
DELETE FROM events
WHERE stream = {NO_STREAM_ID} AND position < (SELECT max(position) FROM events)
"""


def remove(removals: Sequence[Removal]) -> Callable[[Transaction], list[StreamName]]:
    """Remove those streams that are at their versions; which these were."""

    def run(transaction: Transaction) -> list[StreamName]:
        found = transaction.execute(_FIND, [to_json(removals).decode()]).fetchone()[0]
        streams: dict[int, str] = dict(from_json(found))
        if not streams:
            return []
        numbers = [to_json(list(streams)).decode()]
        transaction.execute(_DROP_KEPT)
        transaction.execute(_KEEP_POSITION, numbers)
        transaction.execute(f"DELETE FROM events WHERE stream {_IN_NUMBERS}", numbers)
        transaction.execute(f"DELETE FROM streams WHERE id {_IN_NUMBERS}", numbers)
        for name in streams.values():
            transaction.forget(name)
        return [StreamName(name) for name in streams.values()]

    return run

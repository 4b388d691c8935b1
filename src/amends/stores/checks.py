"""What every store refuses before it looks at a stream."""

from __future__ import annotations

from collections.abc import Sequence

from amends.domain.ids import ANY, NO_STREAM, STREAM_EXISTS
from amends.errors import UsageError
from amends.stores.port import Append, Removal


def check_append(append: Append) -> None:
    """Raise UsageError for an append that no store accepts: empty, one id twice, or at what is no
    expected version.
    """
    if not append.events:
        raise UsageError(f"an append to {append.stream!r} has no events; nothing was written")
    if len({event.id for event in append.events}) < len(append.events):
        raise UsageError(
            f"an append to {append.stream!r} has one event id twice; nothing was written. "
            "Ids tell a retried append from a new one, so each event needs its own."
        )
    if append.expected < NO_STREAM and append.expected not in (ANY, STREAM_EXISTS):
        raise UsageError(f"{int(append.expected)} is no expected version; nothing was written")


def check_removals(removals: Sequence[Removal]) -> None:
    """Raise UsageError for a removal that no store accepts: at no exact version."""
    for removal in removals:
        if removal.version < 0:
            raise UsageError(
                f"{removal.version} is no version of an event of {removal.stream!r}; nothing was "
                "removed. Read the stream, and say how far you read"
            )

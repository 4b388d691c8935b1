"""What is put on record before streams are removed, so that a gap in the log explains itself."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from amends.domain.ids import StreamName

#: Where it is put on record.
REMOVALS: Final = StreamName.of("amends.removals", "log")


class RemovedStream(BaseModel):
    """A stream, and the version of its last event."""

    model_config = ConfigDict(frozen=True)

    stream: str
    version: int


class RemovalDecided(BaseModel):
    """These streams are about to be removed, each whole, and each only if it is still at its version.

    `why`: an engine kept to its retention, or somebody asked for a purge.
    """

    model_config = ConfigDict(frozen=True)

    why: Literal["retention", "purge"]
    streams: tuple[RemovedStream, ...]

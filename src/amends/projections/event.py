"""An event as a handler sees it: its envelope at once, its content when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import from_json

from amends.domain.envelope import RecordedEvent, decode_metadata
from amends.domain.ids import InstanceId, Position
from amends.errors import DecodeError

E_co = TypeVar("E_co", bound=BaseModel, covariant=True)

Decode = Callable[[RecordedEvent], BaseModel]


class Event(Generic[E_co]):
    """One event of the log. Decoding it costs more than all else, so only `data` does it."""

    __slots__ = ("_data", "_decode", "record")

    def __init__(self, record: RecordedEvent, decode: Decode) -> None:
        self.record = record
        """The event as the store has it."""
        self._decode = decode
        self._data: BaseModel | None = None

    @property
    def data(self) -> E_co:
        """The event itself, validated and brought up to the present version of its class.

        Raises DecodeError, which stops the projection.
        """
        if self._data is None:
            self._data = self._decode(self.record)
        return cast(E_co, self._data)

    @property
    def json(self) -> dict[str, Any]:
        """The payload as it was written: not validated, of whatever schema version, and without
        the fields of journal events that had their defaults. Raises DecodeError if it is no JSON.
        """
        record = self.record
        try:
            return cast(dict[str, Any], from_json(record.data))
        except ValueError:
            raise DecodeError(
                "the event is not JSON",
                stream=record.stream,
                position=record.position,
                type=record.type,
            ) from None

    @property
    def metadata(self) -> dict[str, Any]:
        """Correlation, causation, schema version, trace; see `amends.domain.envelope`."""
        return decode_metadata(self.record)

    @property
    def stream(self) -> str:
        """The stream that it stands in."""
        return self.record.stream

    @property
    def version(self) -> int:
        """Its number in its stream, from 0."""
        return self.record.version

    @property
    def position(self) -> Position:
        """Its place in the log."""
        return self.record.position

    @property
    def type(self) -> str:
        """Its type, as it stands in the log."""
        return self.record.type

    @property
    def id(self) -> UUID:
        """Its own id."""
        return self.record.id

    @property
    def at(self) -> datetime:
        """When it was recorded, in UTC."""
        return self.record.recorded_at

    @property
    def stream_id(self) -> str:
        """What follows the category in the stream's name: the id of an instance or aggregate."""
        return self.record.stream.partition("-")[2]

    @property
    def instance(self) -> InstanceId:
        """The saga instance whose journal it stands in. Raises ValueError if it is no journal."""
        instance = InstanceId.of_stream(self.record.stream)
        if instance is None:
            raise ValueError(f"{self.record.stream} is no saga's journal")
        return instance

"""How events, and what is asked of them, look on the wire. Knows no server.

EventStoreDB numbers the events of a stream for ever on. So a stream that was removed ends with an
event that says so (`REMOVED`), and a new stream of the same name goes on behind it. Its number 0 is
the number behind that event, its `base`, and stands in the metadata of each of its events. A stream
that was never removed has base 0, and nothing of this is to be seen in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import Position, StreamName
from amends.errors import NotAnAmendsStore, PayloadTooLarge, UsageError
from amends.stores.eventstoredb.client import shared, streams
from amends.stores.port import Append, EventFilter

#: The type of the event that ends a removed stream.
REMOVED: Final = "AmendsStreamRemoved"
#: The stream of a stream's metadata, and the type of the events in it.
METADATA_PREFIX: Final = "$$"
METADATA_TYPE: Final = "$metadata"
#: What one append may hold: the usual limit of servers before 25.1, counted as they count it.
APPEND_BYTES_MAX: Final = 1_048_576
#: How far a filtered subscription looks before it says how far it is, in events and in such steps.
_WINDOW: Final = 1000
_WINDOWS: Final = 10

_BASE: Final = b'{"streamBase":'
_BASE_READ: Final = re.compile(rb'\{"streamBase":(\d+)(.)', re.DOTALL)
_JSON: Final = "application/json"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_POSITION: Final = 2**63
#: What the server itself writes, which is nobody's event, and what ends removed streams.
_SYSTEM: Final = r"\$.*|PersistentConfig\d+"
_EMPTY: Final = shared.Empty()
_AS_TEXT: Final = streams.ReadReq.Options.UUIDOption(string=_EMPTY)


class Read(NamedTuple):
    """An event as it was read. `base + record.version` is its number on the server."""

    record: RecordedEvent
    base: int

    @property
    def number(self) -> int:
        """The event's number on the server."""
        return self.base + self.record.version

    @property
    def is_end(self) -> bool:
        """Whether it says that all before it in its stream was removed."""
        return self.record.type == REMOVED


def read_event(answer: Any) -> Read:
    """An event from the server's words. Raises NotAnAmendsStore when it has no position."""
    event = answer.event
    about = event.metadata
    position = event.commit_position
    if position >= _NO_POSITION:
        raise NotAnAmendsStore(
            "the server does not tell the positions of the events of a stream: it is older than "
            "EventStoreDB 22.10. Nothing was written. Use a newer one."
        )
    base, metadata = _without_base(event.custom_metadata)
    record = RecordedEvent(
        stream=StreamName(event.stream_identifier.stream_name.decode()),
        version=event.stream_revision - base,
        position=Position(position),
        id=UUID(event.id.string),
        type=about["type"],
        data=event.data,
        metadata=metadata,
        # In ticks of 100 ns.
        recorded_at=_EPOCH + timedelta(microseconds=int(about["created"]) // 10),
    )
    return Read(record, base)


# --- appending


def check_events(append: Append) -> None:
    """Raise PayloadTooLarge for what is more than a server takes in one append, and UsageError for
    what cannot be written so that it comes back.
    """
    size = 0
    for event in append.events:
        size += len(event.data) + len(event.metadata) + 2 * len(event.type)
        if event.metadata and (event.metadata[:1] != b"{" or event.metadata.startswith(_BASE)):
            raise UsageError(
                f"the metadata of an event for {append.stream!r} is no JSON object, or begins with "
                "the adapter's own 'streamBase'; nothing was written"
            )
        if event.type == REMOVED or event.type.startswith("$"):
            raise UsageError(
                f"{event.type!r} cannot be an event's type on EventStoreDB: the server, or the "
                "adapter, has a meaning of its own for it. Nothing was written"
            )
    if size > APPEND_BYTES_MAX:
        raise PayloadTooLarge(
            f"{len(append.events)} events for {append.stream!r} have {size} bytes, and one append "
            f"holds {APPEND_BYTES_MAX}; nothing was written. Append less at once."
        )


def append_request(
    stream: str, events: Iterable[NewEvent], *, at: int, base: int, timeout_s: float
) -> Any:
    """An append behind the event with number `at`; -1 is for a stream that has no event yet. Lacks
    the number by which its answer is told.
    """
    options = streams.BatchAppendReq.Options(
        stream_identifier=shared.StreamIdentifier(stream_name=stream.encode())
    )
    options.deadline.FromMicroseconds(int(timeout_s * 1e6))
    if at < 0:
        options.no_stream.SetInParent()
    else:
        options.stream_position = at
    message = streams.BatchAppendReq.ProposedMessage
    return streams.BatchAppendReq(
        options=options,
        proposed_messages=[
            message(
                id=shared.UUID(string=str(event.id)),
                metadata={"type": event.type, "content-type": _JSON},
                custom_metadata=_with_base(event.metadata, base),
                data=event.data,
            )
            for event in events
        ],
        is_final=True,
    )


def _with_base(metadata: bytes, base: int) -> bytes:
    """What stands behind the base tells what there was: `,` more, ` ` an empty object, `}` nothing."""
    if base == 0:
        return metadata
    if not metadata:
        return b"%b%d}" % (_BASE, base)
    behind = b" " if metadata[1:].lstrip()[:1] == b"}" else b","
    return b"%b%d%b%b" % (_BASE, base, behind, metadata[1:])


def _without_base(metadata: bytes) -> tuple[int, bytes]:
    found = _BASE_READ.match(metadata) if metadata.startswith(_BASE) else None
    if found is None:
        return 0, metadata
    rest = b"" if found[2] == b"}" else b"{" + metadata[found.end() :]
    return int(found[1]), rest


# --- reading


def stream_request(stream: str, *, number: int | None, backwards: bool, count: int) -> Any:
    """Events of one stream from a number on; None is its end."""
    options = _options(backwards, count)
    options.stream.stream_identifier.stream_name = stream.encode()
    if number is None:
        options.stream.end.SetInParent()
    else:
        options.stream.revision = number
    options.no_filter.SetInParent()
    return streams.ReadReq(options=options)


def log_request(
    position: int | None, filter: EventFilter, *, backwards: bool = False, count: int | None = None
) -> Any:
    """Events of all streams from a position on. None is the start, or the end for reading
    backwards. Without a count it is a subscription.
    """
    options = _options(backwards, count)
    if position is not None and position >= 0:
        place = options.all.position
        place.commit_position = place.prepare_position = position
    elif backwards:
        options.all.end.SetInParent()
    else:
        options.all.start.SetInParent()
    wanted = options.filter
    wanted.max, wanted.checkpointIntervalMultiplier = _WINDOW, _WINDOWS
    by_stream, expression = server_filter(filter)
    (wanted.stream_identifier if by_stream else wanted.event_type).regex = expression
    return streams.ReadReq(options=options)


def _options(backwards: bool, count: int | None) -> Any:
    options = streams.ReadReq.Options(uuid_option=_AS_TEXT)
    kinds = streams.ReadReq.Options
    options.read_direction = kinds.Backwards if backwards else kinds.Forwards
    if count is None:
        options.subscription.SetInParent()
    else:
        options.count = count
    return options


def server_filter(filter: EventFilter) -> tuple[bool, str]:
    """The part of a filter that the server can take, as one anchored expression; and whether it is
    about the stream's name (else it is about the type). The server takes only one of the two.
    """
    if filter.types:
        return False, f"^(?:{_any_of(filter.types)})$"
    if filter.stream_prefixes:
        return True, f"^(?:{_any_of(filter.stream_prefixes)})"
    return False, f"^(?!(?:{_SYSTEM}|{REMOVED})$)"


def end_request() -> Any:
    """The last event of all, also when it is one that ends a removed stream."""
    request = log_request(None, EventFilter(), backwards=True, count=1)
    request.options.filter.event_type.regex = f"^(?!(?:{_SYSTEM})$)"
    return request


def _any_of(texts: Sequence[str]) -> str:
    return "|".join(map(re.escape, texts))


def is_wanted(record: RecordedEvent, filter: EventFilter) -> bool:
    """Whether a filter lets an event pass that the server's part of it did."""
    return (
        record.type != REMOVED
        and not record.type.startswith("$")
        and not record.stream.startswith("$")
        and filter.matches(record.stream, record.type)
    )

"""What the adapter sends for each method of the port, as JSON: `requests.json` beside this file.

    python -m tests.integration.eventstoredb.recording

writes it anew, when a change on the wire is meant.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from amends.domain.envelope import NewEvent, encode_metadata
from amends.domain.ids import ANY, START, STREAM_EXISTS, ExpectedVersion, Position, StreamName
from amends.stores.eventstoredb import EventStoreDb, StoreAddress, link, writing
from amends.stores.port import Append, EventFilter, Removal
from tests.esdb.double import ProtocolDouble
from tests.esdb.streams import Streams

FILE: Final = Path(__file__).with_name("requests.json")
STREAM: Final = StreamName("saga.transfer-1")
FILTER: Final = EventFilter(("saga.", "audit-"), ("SagaStarted", "SagaCompleted"))

BYTES: Final = ("stream_name", "custom_metadata", "data")

#: Whatever a method is called for, and the requests that it led to.
Recording = dict[str, list[dict[str, Any]]]


def events(first: int, count: int) -> list[NewEvent]:
    metadata = encode_metadata(correlation_id="transfer/1", causation_id="c1")
    return [
        NewEvent(UUID(int=number), "SagaStarted", b'{"n":%d}' % number, metadata)
        for number in range(first, first + count)
    ]


def append(first: int, count: int, version: int, stream: StreamName = STREAM) -> Append:
    return Append(stream, events(first, count), ExpectedVersion(version))


def methods(store: EventStoreDb) -> dict[str, Callable[[], Awaitable[object]]]:
    """The port's methods, in an order in which each finds what it needs."""

    async def subscribe() -> None:
        async with aclosing(store.subscribe(START, filter=FILTER)) as subscription:  # type: ignore[type-var]
            await anext(subscription)

    return {
        "append to no stream": lambda: store.append(append(1, 2, -1)),
        "append at a version": lambda: store.append(append(3, 1, 1)),
        "append again": lambda: store.append(append(3, 1, 1)),
        "append at any version": lambda: store.append(append(4, 1, ANY)),
        "append to an existing stream": lambda: store.append(append(5, 1, STREAM_EXISTS)),
        "append to a stream that was not seen": lambda: store.append(
            append(6, 1, 0, StreamName("saga.transfer-other"))
        ),
        "read": lambda: store.read(STREAM),
        "read on, at most 2": lambda: store.read(STREAM, start=1, limit=2),
        "read_backwards": lambda: store.read_backwards(STREAM, limit=1),
        "read_backwards from a version": lambda: store.read_backwards(STREAM, start=2),
        "read_all": store.read_all,
        "read_all after a position, filtered": lambda: store.read_all(
            Position(0), filter=FILTER, limit=10
        ),
        "read_all of streams": lambda: store.read_all(filter=EventFilter(("saga.",)), limit=10),
        "read_all_backwards": lambda: store.read_all_backwards(limit=1),
        "subscribe": subscribe,
        "end": store.end,
        "remove": lambda: store.remove([Removal(STREAM, 4)]),
        "append to a stream that was removed": lambda: store.append(append(7, 1, -1)),
        "append behind that": lambda: store.append(append(8, 1, 0)),
    }


async def record(double: ProtocolDouble, seen: list[dict[str, Any]]) -> Recording:
    """Call each method, and take what the double has seen meanwhile."""
    store = EventStoreDb(StoreAddress.parse(double.uri))
    recording: Recording = {}
    try:
        for name, method in methods(store).items():
            seen.clear()
            try:
                await method()
            except Exception as error:
                seen.append({"raises": type(error).__name__})
            recording[name] = list(seen)
    finally:
        await store.close()
    return recording


async def recorded() -> Recording:
    """All requests of a store and a server that are new."""
    seen: list[dict[str, Any]] = []
    read, batch = Streams.Read, Streams._batch
    ids = iter(range(10**6))

    def batch_seen(self: Streams, begun: Any, request: Any, context: Any) -> Any:
        seen.append(shown("BatchAppend", request, context))
        return batch(self, begun, request, context)

    async def read_seen(self: Streams, request: Any, context: Any) -> None:
        seen.append(shown("Read", request, context))
        await read(self, request, context)

    with (
        patch.object(Streams, "Read", read_seen),
        patch.object(Streams, "_batch", batch_seen),
        patch.object(link, "uuid4", lambda: UUID(int=0)),
        patch.object(writing, "uuid4", lambda: UUID(int=10**6 + next(ids))),
    ):
        async with ProtocolDouble.running() as double:
            return await record(double, seen)


def shown(call: str, request: Any, context: Any) -> dict[str, Any]:
    """A request without what differs each time."""
    fields = MessageToDict(request, preserving_proto_field_name=True)
    deadline = fields.get("options", {}).get("deadline")
    if deadline is not None:
        assert 9 < float(deadline.removesuffix("s")) <= 10
        fields["options"]["deadline"] = "10s, or what is left"
    headers = dict(context.invocation_metadata())
    return {
        "call": call,
        "requires-leader": headers["requires-leader"],
        "has a deadline": context.time_remaining() is not None,
        "request": legible(fields),
    }


def legible(fields: Any, name: str = "") -> Any:
    """Bytes as the text that they are, and fields by their names."""
    if isinstance(fields, dict):
        # Sorted: protobuf gives what a map has in any order.
        return {key: legible(value, key) for key, value in sorted(fields.items())}
    if isinstance(fields, list):
        return [legible(value) for value in fields]
    return b64decode(fields).decode() if name in BYTES else fields


def text_of(recording: Recording) -> str:
    return json.dumps(recording, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text_of(asyncio.run(recorded())))

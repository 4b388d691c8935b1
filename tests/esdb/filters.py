"""Which events a read of `$all` in the protocol double shows.

Rules from EventStore/EventStore, src/EventStore.Core: a filter looks at the stream's name or at the
event's type, never both, by one regular expression that may match anywhere, or by prefixes
(Services/Storage/ReaderIndex/EventFilter.cs, Grpc/Streams.Read.cs `ConvertToEventFilter`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.esdb.log import Record

Filter = Callable[[Record], bool]


def matcher(options: Any) -> Filter:
    """The filter that the options of a read ask for."""
    if options.WhichOneof("filter_option") != "filter":
        return lambda _: True
    by_stream = options.filter.WhichOneof("filter") == "stream_identifier"
    expression = options.filter.stream_identifier if by_stream else options.filter.event_type
    if expression.regex:
        found = re.compile(expression.regex).search
        if by_stream:
            return lambda record: found(record.stream) is not None
        return lambda record: found(record.event.type) is not None
    prefixes = tuple(expression.prefix)
    if by_stream:
        return lambda record: record.stream.startswith(prefixes)
    return lambda record: record.event.type.startswith(prefixes)

"""The tables, and the one statement through which everything hot is written.

A statement that is stepped in a thread gives up the interpreter lock and has to win it back from
the event loop, which can take the whole switch interval (5 ms) each time. A batch of commits would
spend a dozen of them. So a batch is one INSERT of many rows into a view, whose triggers put each
row where it belongs, and which commits by itself: the thread waits for the lock once or twice per
batch, however much is in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

APPLICATION_ID: Final = 0x416D6E64  # "Amnd"
SCHEMA_VERSION: Final = 1

#: A message's `seq` is its queue's number above these bits and, below, its place among all
#: messages: so the primary key alone keeps each queue in order, and no second index is needed.
PLACE_BITS: Final = 44

#: `messages_by_id` and `delayed_by_due` make a message that is published again under its id while
#: it waits no second copy. Delayed copies have the same due time, so that their index can be in
#: that order too: the next due time is its first entry, and counting never touches the bodies.
#: `events_unpinned` holds only events appended without an exact version, where a retry cannot be
#: recognised by its place. When the log's last event is removed, its row stays in `NO_STREAM_ID`,
#: where nobody reads it, so that its position is not given out again.
TABLES: Final = f"""
CREATE TABLE head (n INTEGER NOT NULL, consuming INTEGER NOT NULL DEFAULT 0);
INSERT INTO head (n) VALUES (0);

CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES streams (id),
    version INTEGER NOT NULL,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    data BLOB NOT NULL,
    metadata BLOB NOT NULL,
    recorded_at INTEGER NOT NULL,
    unpinned INTEGER
);
CREATE UNIQUE INDEX events_by_stream ON events (stream, version);
CREATE UNIQUE INDEX events_unpinned ON events (stream, id) WHERE unpinned IS NOT NULL;

CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    trace_parent TEXT,
    since INTEGER NOT NULL,
    due INTEGER,
    deliveries INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX messages_by_id ON messages (id, seq >> {PLACE_BITS});
CREATE TABLE delayed (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    trace_parent TEXT,
    due INTEGER NOT NULL
);
CREATE UNIQUE INDEX delayed_by_due ON delayed (due, id, seq >> {PLACE_BITS});
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    trace_parent TEXT,
    due INTEGER,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    died_at INTEGER NOT NULL,
    deliveries INTEGER NOT NULL
);
CREATE INDEX dead_letters_by_queue ON dead_letters (queue);
CREATE INDEX dead_letters_by_id ON dead_letters (id);
"""

#: Streams are numbered from 1.
NO_STREAM_ID: Final = 0

# Kinds of rows. Each fills the columns a to i in the order of its trigger below.
EVENT: Final = 0
MESSAGE: Final = 1
ACKNOWLEDGED: Final = 2
DELAYED: Final = 3
STREAM: Final = 4
UNPINNED_EVENT: Final = 5
HEAD: Final = 6
LATE_MESSAGE: Final = 7  # it was due already when it was published

ROW_WIDTH: Final = 10
#: Messages that one ACKNOWLEDGED row can name.
ACKNOWLEDGED_PER_ROW: Final = ROW_WIDTH - 1
STALE: Final = "somebody else wrote"

#: The triggers live in the connection, not in the file: a newer release may write differently.
BATCH: Final = f"""
CREATE TEMP VIEW batch AS
    SELECT 0 AS kind, 0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e, 0 AS f, 0 AS g, 0 AS h, 0 AS i;
CREATE TEMP TRIGGER on_event INSTEAD OF INSERT ON batch WHEN new.kind = {EVENT} BEGIN
    INSERT INTO events (position, stream, version, id, type, data, metadata, recorded_at)
    VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h);
END;
CREATE TEMP TRIGGER on_unpinned INSTEAD OF INSERT ON batch WHEN new.kind = {UNPINNED_EVENT} BEGIN
    INSERT INTO events (position, stream, version, id, type, data, metadata, recorded_at, unpinned)
    VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, 1);
END;
CREATE TEMP TRIGGER on_message INSTEAD OF INSERT ON batch WHEN new.kind = {MESSAGE} BEGIN
    INSERT INTO messages
        (seq, id, type, key, body, correlation_id, causation_id, trace_parent, since)
    VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, new.i);
END;
CREATE TEMP TRIGGER on_late INSTEAD OF INSERT ON batch WHEN new.kind = {LATE_MESSAGE} BEGIN
    INSERT INTO messages
        (seq, id, type, key, body, correlation_id, causation_id, trace_parent, since, due)
    VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, new.i, new.i);
END;
CREATE TEMP TRIGGER on_delayed INSTEAD OF INSERT ON batch WHEN new.kind = {DELAYED} BEGIN
    INSERT INTO delayed (seq, id, type, key, body, correlation_id, causation_id, trace_parent, due)
    VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, new.i);
END;
CREATE TEMP TRIGGER on_acknowledged INSTEAD OF INSERT ON batch WHEN new.kind = {ACKNOWLEDGED} BEGIN
    DELETE FROM messages WHERE seq IN
        (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, new.i);
END;
CREATE TEMP TRIGGER on_stream INSTEAD OF INSERT ON batch WHEN new.kind = {STREAM} BEGIN
    INSERT INTO streams (id, name) VALUES (new.a, new.b);
END;
CREATE TEMP TRIGGER on_head INSTEAD OF INSERT ON batch WHEN new.kind = {HEAD} BEGIN
    SELECT raise(ABORT, '{STALE}') FROM head WHERE n <> new.a;
    UPDATE head SET n = new.b;
END;
"""

ROWS_MAX: Final = 512
#: Statements are prepared in these sizes only, so that they stay in the connection's cache; a
#: batch is padded with rows of no kind.
_SIZES: Final = tuple(
    size for step in range(9) for size in (2**step, 3 * 2 ** (step - 1)) if size == int(size)
)
SIZES: Final = (*sorted({int(size) for size in _SIZES}), ROWS_MAX)
_ROW: Final = "(" + ",".join("?" * ROW_WIDTH) + ")"
_INSERTS: Final = {size: "INSERT INTO batch VALUES " + ",".join([_ROW] * size) for size in SIZES}
_PADDING: Final = (None,) * ROW_WIDTH


def inserts(values: list[Any]) -> Sequence[tuple[str, list[Any]]]:
    """The statements, mostly one, that write rows given as one flat list of their columns."""
    rows = len(values) // ROW_WIDTH
    if rows <= ROWS_MAX:
        return [_insert(values, rows)]
    width = ROWS_MAX * ROW_WIDTH
    chunks = (values[start : start + width] for start in range(0, len(values), width))
    return [_insert(chunk, len(chunk) // ROW_WIDTH) for chunk in chunks]


def _insert(values: list[Any], rows: int) -> tuple[str, list[Any]]:
    size = SIZES[bisect_left(SIZES, rows)]
    if size > rows:
        values.extend(_PADDING * (size - rows))
    return _INSERTS[size], values

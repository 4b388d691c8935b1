"""What the protocol double answers to an append or a delete: pure rules over a log.

Where they come from (EventStore/EventStore, src/EventStore.Core/Services/Storage):

- `check_commit`: ReaderIndex/IndexWriter.cs, `CheckCommit`. Ids are looked up in the cache of ids
  and, where an exact version is expected, in the index too, which remembers until a scavenge;
  "any" and "exists" have the cache only. A part that was written and a part that was not is never
  idempotent. Nothing to append is idempotent with nothing.
- `append`, `delete`: StorageWriterService.cs. A soft delete is a `$metadata` event with the largest
  `$tb`; numbers go on; the next append (or the next metadata) sets `$tb` to the next number and
  keeps what else the metadata says. A tombstone ends a stream for good. An id that is idempotent but
  not yet committed in the cluster gets no answer at all.
- The position in the answer to an idempotent append is that of its last event, and none where that
  event cannot be read any more: the same files, and RequestManager/Managers/RequestManagerBase.cs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple
from uuid import UUID, uuid4

from tests.esdb.log import (
    DELETED,
    METADATA_TYPE,
    NO_STREAM,
    TOMBSTONE_TYPE,
    Log,
    Proposed,
    is_meta_stream,
    meta_stream,
)

#: What may be expected of a stream, besides the number of its last event and NO_STREAM.
ANY = -2
STREAM_EXISTS = -4


class Decision(Enum):
    """What becomes of a write."""

    OK = auto()
    IDEMPOTENT = auto()
    IDEMPOTENT_NOT_READY = auto()
    WRONG_EXPECTED_VERSION = auto()
    CORRUPTED_IDEMPOTENCY = auto()
    DELETED = auto()


class Check(NamedTuple):
    """A decision: `first` and `last` are the numbers of events that were there already."""

    decision: Decision
    current: int
    first: int = -1
    last: int = -1
    soft_deleted: bool = False


class Outcome(NamedTuple):
    """How a write ended: the stream's last number, and the position of the last event or -1."""

    decision: Decision
    current: int
    position: int = -1


def check_commit(log: Log, stream: str, expected: int, ids: Sequence[UUID]) -> Check:
    """Whether events with these ids may be appended."""
    current = log.last_number(stream)
    if current == DELETED:
        return Check(Decision.DELETED, current)
    if expected == STREAM_EXISTS:
        if log.is_soft_deleted(stream):
            return Check(Decision.DELETED, current, soft_deleted=True)
        if current < 0 and log.last_number(meta_stream(stream)) < 0:
            return Check(Decision.WRONG_EXPECTED_VERSION, current)
    if expected in (ANY, STREAM_EXISTS):
        return _check_remembered(log, stream, current, ids)
    if expected < current:
        return _check_numbered(log, stream, expected, current, ids)
    if expected > current:
        return Check(Decision.WRONG_EXPECTED_VERSION, current)
    return Check(Decision.OK, current, soft_deleted=log.is_soft_deleted(stream))


def _check_remembered(log: Log, stream: str, current: int, ids: Sequence[UUID]) -> Check:
    """Idempotent where the cache knows every id in this stream."""
    numbers: list[int] = []
    for id in ids:
        written = log.written(id)
        if written is None or written[0] != stream:
            if numbers:
                return Check(Decision.CORRUPTED_IDEMPOTENCY, current)
            break
        numbers.append(written[1])
    if not numbers:
        return Check(Decision.OK, current, soft_deleted=log.is_soft_deleted(stream))
    return _idempotent(log, stream, current, numbers[0], numbers[-1])


def _check_numbered(
    log: Log, stream: str, expected: int, current: int, ids: Sequence[UUID]
) -> Check:
    """Idempotent where the events that follow the expected version have these ids."""
    number = expected
    for number, id in enumerate(ids, expected + 1):
        prepared = log.prepared(stream, number)
        if log.written(id) == (stream, number) or (prepared and prepared.event.id == id):
            continue
        if number != expected + 1:
            return Check(Decision.CORRUPTED_IDEMPOTENCY, current)
        if expected == NO_STREAM and log.is_soft_deleted(stream):
            return Check(Decision.OK, current, soft_deleted=True)
        return Check(Decision.WRONG_EXPECTED_VERSION, current)
    if number == expected:
        return Check(Decision.WRONG_EXPECTED_VERSION, current)
    return _idempotent(log, stream, current, expected + 1, number)


def _idempotent(log: Log, stream: str, current: int, first: int, last: int) -> Check:
    record = log.prepared(stream, last)
    ready = record is None or log.is_committed(record)
    decision = Decision.IDEMPOTENT if ready else Decision.IDEMPOTENT_NOT_READY
    return Check(decision, current, first, last)


def append(log: Log, stream: str, expected: int, events: Sequence[Proposed]) -> Outcome:
    """Append events, all or none."""
    check = check_commit(log, stream, expected, [event.id for event in events])
    if check.decision is Decision.IDEMPOTENT:
        return Outcome(check.decision, check.last, _readable_position(log, stream, check.last))
    if check.decision is not Decision.OK:
        return Outcome(check.decision, check.current)
    original = stream[2:] if is_meta_stream(stream) else None
    undelete_original = original is not None and log.is_soft_deleted(original)
    records = log.write(stream, check.current + 1, events)
    if not records:
        log.skip(92)
    if check.soft_deleted:
        _undelete(log, stream, check.current + 1)
    if original is not None and undelete_original:
        _undelete(log, original, log.last_number(original) + 1)
    if not records:
        return Outcome(check.decision, check.current)
    return Outcome(check.decision, records[-1].number, records[-1].position)


def delete(log: Log, stream: str, expected: int, *, tombstone: bool) -> Outcome:
    """Delete a stream: hide what is in it, or end it for good."""
    id = uuid4()
    check = check_commit(log, stream, expected, [id])
    if check.decision is not Decision.OK:
        return Outcome(check.decision, check.current)
    if tombstone:
        [record] = log.write(stream, DELETED, [Proposed(id, TOMBSTONE_TYPE, is_json=False)])
        return Outcome(check.decision, DELETED, record.position)
    metadata_version = log.last_number(meta_stream(stream))
    if check.current < 0 and metadata_version < 0:
        return Outcome(Decision.WRONG_EXPECTED_VERSION, NO_STREAM)
    data = json.dumps({"$tb": DELETED}).encode()
    event = Proposed(id, METADATA_TYPE, data)
    [record] = log.write(meta_stream(stream), metadata_version + 1, [event])
    return Outcome(check.decision, check.current, record.position)


def _readable_position(log: Log, stream: str, number: int) -> int:
    """Where an event is, if it can be read: it may be truncated, or gone with a soft delete."""
    record = log.prepared(stream, number)
    readable = record and number in log.readable_numbers(stream) and log.is_visible(record)
    return record.position if record and readable else -1


def _undelete(log: Log, stream: str, truncate_before: int) -> None:
    try:
        metadata = json.loads(log.raw_metadata(stream))
        metadata["$tb"] = truncate_before
    except (ValueError, TypeError):
        return
    event = Proposed(uuid4(), METADATA_TYPE, json.dumps(metadata).encode())
    name = meta_stream(stream)
    log.write(name, log.last_number(name) + 1, [event])

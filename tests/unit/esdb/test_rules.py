"""The double's rules for appends and deletes, case by case, as the server's source has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from uuid import UUID

import pytest

from tests.esdb.log import DELETED, NO_STREAM, Log, Proposed
from tests.esdb.rules import ANY, STREAM_EXISTS, Decision, append, check_commit, delete

A, B, C, D, X = (UUID(int=number) for number in range(1, 6))

OK, IDEMPOTENT = Decision.OK, Decision.IDEMPOTENT
NOT_READY, CORRUPTED = Decision.IDEMPOTENT_NOT_READY, Decision.CORRUPTED_IDEMPOTENCY
WRONG, GONE = Decision.WRONG_EXPECTED_VERSION, Decision.DELETED


def events(*ids: UUID) -> list[Proposed]:
    return [Proposed(id, "Happened", b"{}") for id in ids]


def absent() -> Log:
    return Log()


def holding(*ids: UUID) -> Log:
    log = Log()
    append(log, "s", NO_STREAM, events(*ids))
    return log


def three() -> Log:
    return holding(A, B, C)


def soft_deleted() -> Log:
    log = three()
    delete(log, "s", 2, tombstone=False)
    return log


def recreated() -> Log:
    log = soft_deleted()
    append(log, "s", NO_STREAM, events(D))
    return log


def tombstoned() -> Log:
    log = three()
    delete(log, "s", 2, tombstone=True)
    return log


def only_metadata() -> Log:
    log = Log()
    append(log, "$$s", NO_STREAM, [Proposed(X, "$metadata", b'{"$maxCount":5}')])
    return log


def truncated() -> Log:
    log = three()
    append(log, "$$s", ANY, [Proposed(X, "$metadata", b'{"$tb":2}')])
    return log


def forgetful() -> Log:
    log = three()
    log.forget_ids()
    return log


def scavenged() -> Log:
    log = truncated()
    log.scavenge()
    log.forget_ids()
    return log


def held() -> Log:
    log = holding(A)
    log.hold()
    append(log, "s", 0, events(B))
    return log


Case = tuple[Callable[[], Log], int, Sequence[UUID], Decision]

CASES: list[Case] = [
    # No stream yet
    (absent, NO_STREAM, [A], OK),
    (absent, ANY, [A], OK),
    (absent, 0, [A], WRONG),
    (absent, STREAM_EXISTS, [A], WRONG),
    (only_metadata, STREAM_EXISTS, [A], OK),
    (only_metadata, NO_STREAM, [A], OK),
    # An exact version
    (three, 2, [D], OK),
    (three, 3, [D], WRONG),
    (three, 1, [D], WRONG),
    (three, 1, [C], IDEMPOTENT),
    (three, 0, [B, C], IDEMPOTENT),
    (three, 0, [B], IDEMPOTENT),
    (three, 0, [B, D], CORRUPTED),
    (three, 1, [C, D], CORRUPTED),
    (three, 0, [C], WRONG),
    (three, 2, [C], OK),  # an id may be there twice
    (three, 1, [], WRONG),
    (three, 2, [], OK),
    (forgetful, 0, [B, C], IDEMPOTENT),  # the index remembers
    (truncated, NO_STREAM, [A, B], IDEMPOTENT),
    (scavenged, NO_STREAM, [A, B], WRONG),
    (scavenged, 1, [C], IDEMPOTENT),
    # No stream expected
    (three, NO_STREAM, [A, B, C], IDEMPOTENT),
    (three, NO_STREAM, [A], IDEMPOTENT),
    (three, NO_STREAM, [D], WRONG),
    (three, NO_STREAM, [A, D], CORRUPTED),
    # Any version
    (three, ANY, [D], OK),
    (three, ANY, [B], IDEMPOTENT),
    (three, ANY, [B, C], IDEMPOTENT),
    (three, ANY, [B, D], CORRUPTED),
    (three, ANY, [D, B], OK),
    (three, ANY, [], OK),
    (forgetful, ANY, [B], OK),  # only the cache is asked
    # Some stream
    (three, STREAM_EXISTS, [D], OK),
    (three, STREAM_EXISTS, [A], IDEMPOTENT),
    (three, STREAM_EXISTS, [A, D], CORRUPTED),
    (forgetful, STREAM_EXISTS, [A], OK),
    # Deleted, and begun anew
    (soft_deleted, NO_STREAM, [D], OK),
    (soft_deleted, NO_STREAM, [A], IDEMPOTENT),  # a late retry of the old stream's first append
    (soft_deleted, NO_STREAM, [A, D], CORRUPTED),
    (soft_deleted, 2, [D], OK),
    (soft_deleted, 1, [D], WRONG),
    (soft_deleted, 1, [C], IDEMPOTENT),
    (soft_deleted, ANY, [D], OK),
    (soft_deleted, ANY, [C], IDEMPOTENT),
    (soft_deleted, STREAM_EXISTS, [D], GONE),
    (recreated, NO_STREAM, [X], WRONG),
    (recreated, 3, [X], OK),
    (recreated, 2, [D], IDEMPOTENT),
    (recreated, STREAM_EXISTS, [X], OK),
    # Tombstoned
    (tombstoned, ANY, [D], GONE),
    (tombstoned, NO_STREAM, [A], GONE),
    (tombstoned, 2, [D], GONE),
    (tombstoned, STREAM_EXISTS, [D], GONE),
    # Written, not yet committed in the cluster
    (held, 0, [B], NOT_READY),
    (held, ANY, [B], NOT_READY),
    (held, NO_STREAM, [A, B], NOT_READY),
    (held, NO_STREAM, [A], IDEMPOTENT),
    (held, 1, [C], OK),
]


@pytest.mark.parametrize(
    ("log", "expected", "ids", "decision"),
    CASES,
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_write_is_decided(
    log: Callable[[], Log], expected: int, ids: Sequence[UUID], decision: Decision
) -> None:
    assert check_commit(log(), "s", expected, ids).decision is decision


@pytest.mark.parametrize("expected", [NO_STREAM, 2, ANY])
def test_a_deleted_stream_begins_anew_behind_its_old_numbers(expected: int) -> None:
    log = soft_deleted()
    outcome = append(log, "s", expected, events(D, X))
    assert (outcome.decision, outcome.current) == (OK, 4)
    assert json.loads(log.raw_metadata("s")) == {"$tb": 3}
    assert log.readable_numbers("s") == range(3, 5)


def test_what_else_the_metadata_says_outlives_a_new_beginning_but_not_a_delete() -> None:
    log = three()
    append(log, "$$s", ANY, [Proposed(X, "$metadata", b'{"$maxCount":5}')])
    delete(log, "s", 2, tombstone=False)
    assert json.loads(log.raw_metadata("s")) == {"$tb": DELETED}
    append(log, "$$s", ANY, [Proposed(D, "$metadata", b'{"$tb":%d,"$maxAge":9}' % DELETED)])
    append(log, "s", NO_STREAM, events(X))
    assert json.loads(log.raw_metadata("s")) == {"$tb": 3, "$maxAge": 9}


def test_new_metadata_brings_a_deleted_stream_back_empty() -> None:
    log = soft_deleted()
    append(log, "$$s", ANY, [Proposed(X, "$metadata", b'{"$maxCount":5}')])
    assert json.loads(log.raw_metadata("s")) == {"$maxCount": 5, "$tb": 3}
    assert not log.is_soft_deleted("s")
    assert not log.readable_numbers("s")


@pytest.mark.parametrize(
    ("log", "expected", "tombstone", "decision"),
    [
        (three, 2, False, OK),
        (three, 1, False, WRONG),
        (three, NO_STREAM, False, WRONG),
        (three, ANY, False, OK),
        (absent, NO_STREAM, False, WRONG),
        (absent, ANY, False, WRONG),
        (only_metadata, ANY, False, OK),
        (soft_deleted, 2, False, OK),
        (soft_deleted, NO_STREAM, False, OK),
        (soft_deleted, STREAM_EXISTS, False, GONE),
        (tombstoned, ANY, False, GONE),
        (tombstoned, 2, True, GONE),
        (absent, NO_STREAM, True, OK),
        (soft_deleted, 2, True, OK),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_delete_is_decided(
    log: Callable[[], Log], expected: int, tombstone: bool, decision: Decision
) -> None:
    assert delete(log(), "s", expected, tombstone=tombstone).decision is decision


def test_an_idempotent_append_says_where_its_events_are_while_they_can_be_read() -> None:
    log = three()
    first = append(log, "s", 1, events(C))
    assert first.position == log.records[2].position
    delete(log, "s", 2, tombstone=False)
    assert append(log, "s", 1, events(C)).position == -1


def test_ids_are_forgotten_when_there_are_too_many() -> None:
    log = Log(ids_remembered=2)
    append(log, "s", NO_STREAM, events(A, B, C))
    assert check_commit(log, "s", ANY, [A]).decision is OK
    assert check_commit(log, "s", ANY, [B]).decision is IDEMPOTENT


def test_positions_rise_with_gaps() -> None:
    log = three()
    positions = [record.position for record in log.records]
    assert positions == sorted(positions)
    assert min(after - before for before, after in pairwise(positions)) > 1

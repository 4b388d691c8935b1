"""Checking a bundle offline: with nothing but the file and the public keys that one trusts."""

from __future__ import annotations

from typing import NamedTuple

from amends.projections.audit.bundle import Bundle, BundledEvent, BundledRecord, Segment
from amends.projections.audit.chain import link
from amends.projections.audit.checkpoints import Keys, signature_fault


class Checked(NamedTuple):
    """What a bundle proves; `fault` is the first thing that is wrong, and then it proves nothing."""

    events: int
    records: int
    checkpoints: int
    fault: str | None = None


class _Fault(Exception):
    """What is wrong."""


def check(bundle: Bundle, keys: Keys) -> Checked:
    """Check everything in a bundle, in order, up to the first thing that is wrong.

    The events are those that were recorded, byte for byte; none of the stream is missing before the
    last of them, and they are in order; all stand in a chain that one of these keys has signed.
    """
    try:
        _check_journal(bundle)
        signed = 0
        for number, segment in enumerate(bundle.segments, 1):
            if segment.first <= signed:
                raise _Fault(f"segment {number} begins at record {segment.first}, before {signed}")
            signed = segment.checkpoint.n
            _check_segment(bundle, segment, f"segment {number}")
            fault = signature_fault(segment.checkpoint.checkpoint, keys)
            if fault is not None:
                raise _Fault(f"the checkpoint at record {segment.checkpoint.n}: {fault}")
    except _Fault as fault:
        return _checked(bundle, str(fault))
    return _checked(bundle, None)


def _checked(bundle: Bundle, fault: str | None) -> Checked:
    records = sum(len(segment.records) for segment in bundle.segments)
    return Checked(len(bundle.events), records, len(bundle.segments), fault)


def _check_journal(bundle: Bundle) -> None:
    """The events are one stream's, whole from its first to the last that is there."""
    events = bundle.events
    if not events:
        raise _Fault("it has no event in it")
    position = -1
    for version, event in enumerate(events):
        if event.stream != bundle.stream:
            raise _Fault(f"{_name(event)} is of stream {event.stream!r}, not {bundle.stream!r}")
        if event.version != version:
            raise _Fault(
                f"event {version} of {bundle.stream} is missing: the next one is {_name(event)}"
            )
        if event.position <= position:
            raise _Fault(f"{_name(event)} stands behind an event of a later position")
        position = event.position


def _check_segment(bundle: Bundle, segment: Segment, where: str) -> None:
    """Its records follow from each other, from its first to its checkpoint."""
    hash = bytes.fromhex(segment.previous)
    known = f"{where}, which begins after record {segment.first - 1}"
    n = segment.first - 1
    for n, record in enumerate(segment.records, segment.first):
        if not isinstance(record, BundledRecord):
            hash = link(hash, bytes.fromhex(record))
            continue
        if record.n != n:
            raise _Fault(f"{where}: {_name(record.event)} is record {record.n}, and stands as {n}")
        content = _content_hash(record.event)
        if content.hex() != record.content:
            raise _Fault(
                f"{_name(record.event)} is not what was recorded: with everything in it, it hashes "
                f"to {content.hex()}, and record {n} says {record.content}"
            )
        hash = link(hash, content)
        if hash.hex() != record.hash:
            raise _Fault(
                f"record {n} ({_name(record.event)}) does not follow from {known}: it, or one "
                "between, was changed, dropped, added or moved"
            )
        known = f"record {n}"
    checkpoint = segment.checkpoint
    if n != checkpoint.n or hash.hex() != checkpoint.hash:
        raise _Fault(
            f"{where} ends at record {n} with the hash {hash.hex()}, and its checkpoint is about "
            f"record {checkpoint.n} with {checkpoint.hash}: after {known}, one was changed, dropped "
            "or added, or the checkpoint is of another chain"
        )


def _content_hash(event: BundledEvent) -> bytes:
    try:
        return event.content.hash
    except ValueError as error:
        raise _Fault(f"{_name(event)} cannot be hashed: {error}") from None


def _name(event: BundledEvent) -> str:
    return f"event {event.version} ({event.type}, position {event.position})"

"""Bundles are checked offline: whatever was changed is found, and what is no bundle is told so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amends.domain.envelope import RecordedEvent
from amends.errors import InvalidBundle
from amends.projections.audit import bundle as bundles
from amends.projections.audit.bundle import Bundle, BundledRecord, load, parse
from amends.projections.audit.chain import GENESIS, content_of, link
from amends.projections.audit.check import Checked, check
from amends.projections.audit.keys import SigningKey
from tests.unit.projections.audit.material import OURS, bundle_of, log

KEY = SigningKey.new()
KEYS = {KEY.public.id: KEY.public}
STREAMS = [OURS, "saga.x-1", OURS, "saga.x-1", "a-1", "a-2", "a-3", "a-3", OURS, "a-5", "a-6"]
RECORDS = log(STREAMS)
GOOD = bundle_of(RECORDS, KEY)
FILE = GOOD.write()


def changed(path: list[Any], value: Any) -> bytes:
    """The good bundle with another value in one place."""
    fields = json.loads(FILE)
    at = fields
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value(at[path[-1]]) if callable(value) else value
    return json.dumps(fields).encode()


def fault(data: bytes) -> str:
    checked = check(parse(data, "f.json"), KEYS)
    assert checked.fault is not None
    return checked.fault


def test_a_good_one_is_good() -> None:
    assert parse(FILE, "f.json") == GOOD
    assert check(GOOD, KEYS) == Checked(events=3, records=10, checkpoints=2)


def test_others_are_in_it_as_hashes_alone() -> None:
    assert b"saga.x" not in FILE
    assert b"a-1" not in FILE


def test_an_auditor_can_do_it_with_any_json_and_sha_256() -> None:
    """Nothing of ours, and no library: what docs/audit.md says is all there is to it."""

    def sha(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    for segment in json.loads(FILE)["segments"]:
        hash = segment["previous"]
        for record in segment["records"]:
            content = record
            if isinstance(record, dict):
                event = record["event"]
                assert event.pop("encoding") == "utf-8"
                for field in ("data", "metadata"):
                    event[field] = hashlib.sha256(event[field].encode()).hexdigest()
                content = sha(event)
            hash = sha([hash, content])
        assert hash == segment["checkpoint"]["hash"]


RECORD = ["segments", 0, "records", 2]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ([*RECORD, "event", "data"], lambda d: d.replace("2", "3"), "event 1 (Moved, position 4)"),
        ([*RECORD, "event", "metadata"], "{}", "event 1 (Moved, position 4) is not what was"),
        ([*RECORD, "event", "type"], "Stayed", "event 1 (Stayed, position 4) is not what was"),
        ([*RECORD, "event", "recorded_at"], "2026", "is not what was recorded"),
        ([*RECORD, "event", "encoding"], "hex", "event 1 (Moved, position 4) cannot be hashed"),
        ([*RECORD, "event", "stream"], "saga.transfer-t2", "of stream 'saga.transfer-t2'"),
        ([*RECORD, "event", "version"], 2, "event 1 of saga.transfer-t1 is missing"),
        ([*RECORD, "event", "position"], 0, "stands behind an event of a later position"),
        ([*RECORD, "n"], 4, "is record 4, and stands as 3"),
        ([*RECORD, "content"], "0" * 64, "record 3 says 000000"),
        ([*RECORD, "hash"], "0" * 64, "record 3 (event 1 (Moved, position 4)) does not follow"),
        (["segments", 0, "records", 1], "0" * 64, "does not follow from record 1"),
        (["segments", 0, "records", 4], "0" * 64, "after record 3, one was changed, dropped"),
        (["segments", 0, "previous"], "1" * 64, "after record 0"),
        (["segments", 0, "records"], lambda r: r[:-1], "segment 1 ends at record 4"),
        (["segments", 1, "first"], 5, "segment 2 begins at record 5, before 5"),
        (["segments", 0, "checkpoint", "hash"], "0" * 64, "its checkpoint is about record 5"),
        (["segments", 0, "checkpoint", "at"], "2027", "at record 5: its signature is not that"),
        (["segments", 1, "checkpoint", "signature"], "0" * 128, "at record 10: its signature"),
        (["segments", 1, "checkpoint", "key"], "ab", "it is signed with the key ab"),
        (["stream"], "saga.transfer-t2", "of stream 'saga.transfer-t1', not"),
        (["segments"], [], "no event in it"),
        (["segments"], lambda s: s[1:], "event 0 of saga.transfer-t1 is missing"),
    ],
)
def test_the_first_thing_that_is_wrong_is_named(path: list[Any], value: Any, told: str) -> None:
    assert told in fault(changed(path, value))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(FILE) - 1), st.sampled_from(b'0a9"{x '))
def test_no_byte_can_be_changed(at: int, byte: int) -> None:
    data = FILE[:at] + bytes([byte]) + FILE[at + 1 :]
    try:
        found = parse(data, "f.json")
    except InvalidBundle:
        return
    said = found.model_copy(update={"made_at": GOOD.made_at, "made_by": GOOD.made_by})
    assert said == GOOD or check(found, KEYS).fault


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_record_can_be_dropped_doubled_or_swapped(data: st.DataObject) -> None:
    segment = data.draw(st.sampled_from(GOOD.segments))
    records = list(segment.records)
    one = data.draw(st.integers(0, len(records) - 2))
    match data.draw(st.sampled_from(["drop", "double", "swap"])):
        case "drop":
            del records[one]
        case "double":
            records.insert(one, records[one])
        case _:
            records[one], records[one + 1] = records[one + 1], records[one]
    spoiled = segment.model_copy(update={"records": tuple(records)})
    segments = tuple(spoiled if other is segment else other for other in GOOD.segments)
    assert check(GOOD.model_copy(update={"segments": segments}), KEYS).fault


def test_the_numbers_of_records_are_signed_too() -> None:
    fields = json.loads(FILE)
    segment = fields["segments"][1]
    segment["first"] += 1
    for record in segment["records"]:
        if isinstance(record, dict):
            record["n"] += 1
    assert "segment 2 ends at record 11" in fault(json.dumps(fields).encode())


def forged(records: list[RecordedEvent], key: SigningKey) -> Bundle:
    """A changed event, and everything after it computed anew."""
    one = records[2]._replace(data=b'{"amount":1000000}')
    return bundle_of([*records[:2], one, *records[3:]], key)


def test_a_chain_computed_anew_is_not_signed() -> None:
    thief = SigningKey.new()
    assert f"signed with the key {thief.public.id}" in str(
        check(forged(RECORDS, thief), KEYS).fault
    )
    # With the old signatures:
    segments = tuple(
        new.model_copy(update={"checkpoint": old.checkpoint})
        for new, old in zip(forged(RECORDS, thief).segments, GOOD.segments, strict=True)
    )
    assert "its checkpoint is about record 5" in str(
        check(GOOD.model_copy(update={"segments": segments}), KEYS).fault
    )
    # Whoever has the key can forge; docs/audit.md says so.
    assert check(forged(RECORDS, KEY), KEYS).fault is None


def test_keys_may_change() -> None:
    new = SigningKey.new()
    late = bundle_of(RECORDS, new).segments[1:]
    both = GOOD.model_copy(update={"segments": (*GOOD.segments[:1], *late)})
    assert check(both, KEYS).fault == (
        f"the checkpoint at record 10: it is signed with the key {new.public.id}, and the keys to "
        f"check with are: {KEY.public.id}"
    )
    assert check(both, {**KEYS, new.public.id: new.public}).fault is None


def test_bytes_that_are_no_text_are_kept_too() -> None:
    binary = RECORDS[0]._replace(data=b"\xff\x00", metadata=b"")
    bundle = bundle_of([binary], KEY)
    (record,) = bundle.segments[0].records
    assert isinstance(record, BundledRecord)
    assert (record.event.encoding, record.event.data) == ("hex", "ff00")
    assert check(parse(bundle.write(), "f"), KEYS).fault is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "f.json is damaged, or something else: it is not JSON"),
        (FILE[: len(FILE) // 2], "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "its JSON is no object"),
        (b"{}", "its `format` is missing"),
        (changed(["format"], "zip"), "its `format` is 'zip'"),
        (changed(["version"], 2), "a bundle of version 2, and this release reads version 1"),
        (changed(["version"], True), "a bundle of version True"),
        (changed(["segments", 0, "previous"], "xyz"), "segments.0.previous: string should match"),
        (changed(["segments", 0, "first"], 0), "segments.0.first: input should be greater"),
        (changed(["segments", 0, "first"], "1"), "segments.0.first: input should be a valid int"),
        (changed([*RECORD, "event"], {}), "segments.0.records.2.event.position: field required"),
        (changed([*RECORD, "event"], None), "segments.0.records.2.event: input should be"),
        (FILE.replace(b'"made_by"', b'"made_bi"'), "made_by: field required"),
        (FILE.replace(b'"stream": ', b'"note": 1, "stream": ', 1), "note: extra inputs"),
    ],
)
def test_a_damaged_file_is_told(data: bytes, told: str) -> None:
    with pytest.raises(InvalidBundle) as caught:
        parse(data, "f.json")
    assert told in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidBundle, match="cannot be read: No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(InvalidBundle, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "huge.json").write_bytes(FILE)
    monkeypatch.setattr(bundles, "BYTES_MAX", 1000)
    with pytest.raises(InvalidBundle, match="larger than"):
        load(tmp_path / "huge.json")


def test_the_first_record_follows_from_nothing() -> None:
    assert GOOD.segments[0].previous == GENESIS.hex() == "0" * 64
    first = GOOD.segments[0].records[0]
    assert isinstance(first, BundledRecord)
    assert first.hash == link(GENESIS, content_of(RECORDS[0]).hash).hex()

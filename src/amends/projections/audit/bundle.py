"""Bundles: one stream's events, with what proves that they are in the chain, in one JSON file.

For each stretch of the chain in which the stream has events, a bundle has a *segment*: it begins
with the hash before the first of them and ends with a signed checkpoint. Records of other streams
are in it as bare `content` hashes, so that nobody else's data is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from amends.domain.envelope import RecordedEvent
from amends.errors import InvalidBundle
from amends.projections.audit.canonical import digest
from amends.projections.audit.chain import Content, moment_text, stored
from amends.projections.audit.checkpoints import FORMAT as CHECKPOINT_FORMAT
from amends.projections.audit.checkpoints import Checkpoint

M = TypeVar("M", bound=BaseModel)

FORMAT: Final = "amends-audit-bundle"
VERSION: Final = 1
#: What `check` reads at all: a million records of others are 70 MB.
BYTES_MAX: Final = 256 * 1024 * 1024

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
_Frozen: Final = ConfigDict(frozen=True, extra="forbid", strict=True)


class BundledEvent(BaseModel):
    """An event as the store has it. `data` and `metadata` are its very bytes, as text where they
    are UTF-8 (which events of Amends always are), and in hex otherwise.
    """

    model_config = _Frozen

    position: Count
    stream: str
    version: Count
    id: str
    type: str
    recorded_at: str
    data: str
    metadata: str
    encoding: Literal["utf-8", "hex"] = "utf-8"

    @classmethod
    def of(cls, record: RecordedEvent) -> Self:
        """The event of a record."""
        encoding: Literal["utf-8", "hex"] = "utf-8"
        try:
            data, metadata = stored(record.data).decode(), stored(record.metadata).decode()
        except UnicodeDecodeError:
            encoding, data, metadata = "hex", record.data.hex(), record.metadata.hex()
        return cls(
            position=record.position, stream=record.stream, version=record.version,
            id=str(record.id), type=record.type, recorded_at=moment_text(record.recorded_at),
            data=data, metadata=metadata, encoding=encoding,
        )  # fmt: skip

    @property
    def content(self) -> Content:
        """What its record says of it, computed from it. Raises ValueError for hex that is none."""
        decode = bytes.fromhex if self.encoding == "hex" else str.encode
        return Content(
            self.position, self.stream, self.version, self.id, self.type, self.recorded_at,
            digest(decode(self.data)), digest(decode(self.metadata)),
        )  # fmt: skip


class BundledRecord(BaseModel):
    """A record of the chain with its event."""

    model_config = _Frozen

    n: Count
    content: Hash
    hash: Hash
    event: BundledEvent


class BundledCheckpoint(BaseModel):
    """A checkpoint, as it is published."""

    model_config = _Frozen

    format: Literal["amends-audit-checkpoint/1"] = CHECKPOINT_FORMAT
    n: Count
    position: Count
    hash: Hash
    at: str
    key: str
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @property
    def checkpoint(self) -> Checkpoint:
        """It as the rest of the code has it."""
        return Checkpoint(
            self.n, self.position, bytes.fromhex(self.hash), self.at, self.key,
            bytes.fromhex(self.signature),
        )  # fmt: skip


class Segment(BaseModel):
    """A stretch of the chain, from record `first` to that of the checkpoint, without a gap.

    `previous` is the hash of the record before it. Records of other streams are their `content`.
    """

    model_config = _Frozen

    first: Annotated[int, Field(ge=1, lt=2**53)]
    previous: Hash
    records: tuple[BundledRecord | Hash, ...]
    checkpoint: BundledCheckpoint


class Bundle(BaseModel):
    """What an auditor is given."""

    model_config = _Frozen

    format: Literal["amends-audit-bundle"] = FORMAT
    version: Literal[1] = VERSION
    stream: str
    made_at: str
    made_by: str
    segments: tuple[Segment, ...]

    @property
    def events(self) -> list[BundledEvent]:
        """Its events, in the order of the chain."""
        return [
            record.event
            for segment in self.segments
            for record in segment.records
            if isinstance(record, BundledRecord)
        ]

    def write(self) -> bytes:
        """The file."""
        return to_json(self, indent=1) + b"\n"


def load(path: str | Path) -> Bundle:
    """The bundle in a file. Raises InvalidBundle, which says what is wrong with it."""
    return parse(_read(path, "bundle"), str(path))


def load_checkpoints(path: str | Path) -> list[Checkpoint]:
    """Checkpoints in a file, one JSON object in each line. Raises InvalidBundle."""
    found = []
    for number, line in enumerate(_read(path, "checkpoint").splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number},"
            fields = _object(line, where)
            found.append(_validated(BundledCheckpoint, fields, where, "checkpoint").checkpoint)
    if not found:
        raise InvalidBundle(f"{path} has no checkpoint in it")
    return found


def parse(data: bytes, where: str) -> Bundle:
    """The bundle of a file's bytes. Raises InvalidBundle."""
    fields = _object(data, where)
    if fields.get("format") != FORMAT:
        raise InvalidBundle(
            f"{where} is no bundle of an audit trail: its `format` is {_shown(fields.get('format'))}, "
            f"not {FORMAT!r}"
        )
    version = fields.get("version")
    if type(version) is not int or version != VERSION:  # a JSON true would be equal to 1
        raise InvalidBundle(
            f"{where} is a bundle of version {_shown(version)}, and this release reads "
            f"version {VERSION}: check it with the release that made it, or a newer one"
        )
    return _validated(Bundle, fields, where, "bundle")


def _read(path: str | Path, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidBundle(f"the {what} {path} cannot be read: {why}") from None
    if len(data) > BYTES_MAX:
        raise InvalidBundle(
            f"{path} is larger than {BYTES_MAX // 2**20} MiB, more than any {what} of ours; it was "
            "not read"
        )
    return data


def _object(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        fields = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidBundle(
            f"{where} is damaged, or something else: it is not JSON ({error})"
        ) from None
    if not isinstance(fields, dict):
        raise InvalidBundle(f"{where} is something else: its JSON is no object")
    return fields


def _validated(model: type[M], fields: Mapping[str, Any], where: str, what: str) -> M:
    try:
        # As JSON: there, a list is what a tuple is written as.
        return model.model_validate_json(to_json(fields))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        # Of a record that is neither with nor without its event, what is wrong with the event.
        fault = max(faults, key=lambda fault: len(fault["loc"]))
        at = ".".join(str(part) for part in fault["loc"] if part != "BundledRecord")
        raise InvalidBundle(
            f"{where} is a damaged {what}: {at or 'it'}: {fault['msg'].lower()}"
        ) from None


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]

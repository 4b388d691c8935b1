"""XML read safely, in one pass and bounded memory, with the line of every value.

No tree is built. The caller names *records* (elements that are handed over as soon as they end) and
the *fields* wanted of each; all else is passed over. So memory does not grow with the file, and what
an attacker adds to it costs time in proportion to its length and nothing more.

The parser is defusedxml's: a document type declaration is refused where it begins, and with it every
entity bomb and every reference to a file or an address. Only its content handlers are replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from xml.parsers.expat import ErrorString, ExpatError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from pydantic import BaseModel, ConfigDict, PositiveInt

from examples.payments.pain001.errors import FileTooLarge, NotXml, UnsafeXml
from examples.payments.pain001.values import shown

_CHUNK_BYTES = 64 * 1024
# Python would look any other name up among its codecs, some of which are not encodings of text.
_ENCODINGS = {"utf-8", "utf-16", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252"}


class Limits(BaseModel):
    """How much of a file is taken on. The defaults fit a batch of some 200,000 payments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_bytes_max: PositiveInt = 256 * 1024 * 1024
    depth_max: PositiveInt = 64
    token_bytes_max: PositiveInt = 1024 * 1024
    fields_per_record_max: PositiveInt = 1000
    field_chars_max: PositiveInt = 1000


@dataclass(slots=True)
class Field:
    """The text of one element. `nested`: it held elements. `cut`: it was longer than the limit."""

    line: int
    attributes: Mapping[str, str]
    text: str = ""
    nested: bool = False
    cut: bool = False


@dataclass(slots=True)
class Record:
    """One element that was asked for, with its fields by path, and the record around it."""

    path: str
    line: int
    parent: Record | None
    fields: dict[str, list[Field]] = field(default_factory=dict)
    fields_count: int = 0


class Handler(Protocol):
    """Receives the document. What it raises ends the reading and reaches the caller."""

    def opened(self, namespace: str, root: str, line: int) -> Mapping[str, frozenset[str]]:
        """Say, by path, which records and fields are wanted of a document with this root."""

    def closed(self, record: Record) -> None:
        """Take a record that has just ended. Its parent is still open, and not yet complete."""


@dataclass(slots=True)
class _Node:
    """A step of the wanted paths: what an element is, and what its children may be."""

    children: dict[str, _Node] = field(default_factory=dict)
    record_path: str | None = None
    field_path: str | None = None


def read_xml(source: str | os.PathLike[str] | bytes, handler: Handler, limits: Limits) -> None:
    """Read the document once, from a path or from bytes, and feed `handler`.

    Raises `FileTooLarge`, `NotXml`, `UnsafeXml`, `OSError`, and whatever the handler raises.
    """
    reader = _Reader(handler, limits)
    for chunk in _chunks(source, limits.file_bytes_max):
        reader.feed(chunk)
    reader.feed(b"", final=True)


def _chunks(source: str | os.PathLike[str] | bytes, bytes_max: int) -> Iterator[bytes]:
    # Counted as read, not asked of the file system: a pipe has no size, and a file may grow.
    if isinstance(source, bytes):
        if len(source) > bytes_max:
            raise FileTooLarge(bytes_max)
        for start in range(0, len(source), _CHUNK_BYTES):
            yield source[start : start + _CHUNK_BYTES]
        return
    total_bytes = 0
    with Path(source).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total_bytes += len(chunk)
            if total_bytes > bytes_max:
                raise FileTooLarge(bytes_max)
            yield chunk


class _Reader:
    """Handlers of one parse. `_path` holds a node, or `None` if unwanted, per open element."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler = handler
        self._limits = limits
        self._path: list[_Node | None] = []
        self._record: Record | None = None
        self._field: Field | None = None
        self._fed_bytes = 0
        self._parser = DefusedXMLParser(forbid_dtd=True).parser
        self._parser.ordered_attributes = False
        self._parser.XmlDeclHandler = self._declared
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended
        self._parser.CharacterDataHandler = self._text
        self._parser.DefaultHandlerExpand = None

    def feed(self, chunk: bytes, *, final: bool = False) -> None:
        try:
            self._parser.Parse(chunk, final)
        except ExpatError as error:
            what = f"not well-formed XML: {ErrorString(error.code)}, column {error.offset + 1}"
            raise NotXml(what, line=error.lineno) from error
        except DefusedXmlException as error:
            raise self._unsafe("a document type declaration (DTD) or entities") from error
        self._fed_bytes += len(chunk)
        # Expat looks at an unfinished token again from its start with every chunk: a single one of
        # the whole file's length would cost the square of it.
        if self._fed_bytes - max(self._parser.CurrentByteIndex, 0) > self._limits.token_bytes_max:
            raise self._unsafe(f"a tag of over {self._limits.token_bytes_max:,} bytes")

    def _unsafe(self, what: str) -> UnsafeXml:
        message = f"the file has {what}. No payment file needs it, so the file was refused."
        return UnsafeXml(message, line=self._parser.CurrentLineNumber)

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            known = ", ".join(sorted(_ENCODINGS))
            message = f"the encoding {shown(encoding)} is not read; these are: {known}"
            raise NotXml(message, line=self._parser.CurrentLineNumber)

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= self._limits.depth_max:
            raise self._unsafe(f"elements nested over {self._limits.depth_max} deep")
        if not self._path:
            self._path.append(self._root(name))
            return
        if self._field is not None:
            self._field.nested = True
            self._field = None
        parent = self._path[-1]
        node = None if parent is None else parent.children.get(name)
        self._path.append(node)
        if node is None:
            return
        line = self._parser.CurrentLineNumber
        if node.record_path is not None:
            self._record = Record(node.record_path, line, self._record)
        elif node.field_path is not None and self._record is not None:
            self._add(self._record, node.field_path, Field(line, attributes))

    def _root(self, name: str) -> _Node | None:
        namespace, _, root = name.rpartition("}")
        wanted = self._handler.opened(namespace, root, self._parser.CurrentLineNumber)
        top = _Node()
        for path, fields in wanted.items():
            _at(top, namespace, path).record_path = path
            for relative in fields:
                _at(top, namespace, f"{path}/{relative}").field_path = relative
        return top.children.get(name)

    def _add(self, record: Record, path: str, new: Field) -> None:
        if record.fields_count >= self._limits.fields_per_record_max:
            raise self._unsafe(f"over {record.fields_count:,} values in one element")
        record.fields_count += 1
        record.fields.setdefault(path, []).append(new)
        self._field = new

    def _text(self, text: str) -> None:
        if self._field is None:
            return
        room = self._limits.field_chars_max - len(self._field.text)
        self._field.cut = self._field.cut or len(text) > room
        self._field.text += text[:room]

    def _ended(self, name: str) -> None:
        node = self._path.pop()
        self._field = None
        if node is None or node.record_path is None:
            return
        record = self._record
        assert record is not None, "a record is opened where its element starts"
        self._record = record.parent
        self._handler.closed(record)


def _at(top: _Node, namespace: str, path: str) -> _Node:
    # Expat joins namespace and name by "}", so that an element of another namespace never matches.
    node = top
    for step in path.split("/"):
        node = node.children.setdefault(f"{namespace}}}{step}", _Node())
    return node

"""Value types: what an instance, a stream, a version and a position are called."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NewType

from amends.errors import UsageError

#: Names of sagas, activities, queues and aggregate categories. No "-": EventStoreDB takes what
#: stands before the first "-" of a stream name for the stream's category.
NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")
ID_CHARS_MAX: Final = 200

Position = NewType("Position", int)
"""A place in the log of all streams: grows with every event, with gaps. Compare, never compute."""

START: Final = Position(-1)
"""The position before the first event."""


class StreamName(str):
    """The name of one stream: `<category>-<id>`."""

    __slots__ = ()

    @classmethod
    def of(cls, category: str, id: str) -> StreamName:
        """Build a name. Raises UsageError when either part cannot stand in a stream name."""
        check_name("category", category)
        check_id(id)
        return cls(f"{category}-{id}")

    @property
    def category(self) -> str:
        """What stands before the first "-"."""
        return self.partition("-")[0]


class ExpectedVersion(int):
    """What an append expects its stream to look like: a version, or one of three words.

    An exact version is the number (0, 1, 2 …) of the stream's last event.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return _EXPECTED_WORDS.get(int(self), f"version {int(self)}")

    __str__ = __repr__


NO_STREAM: Final = ExpectedVersion(-1)
ANY: Final = ExpectedVersion(-2)
STREAM_EXISTS: Final = ExpectedVersion(-4)
_EXPECTED_WORDS: Final = {-1: "no stream", -2: "any version", -4: "an existing stream"}


class InstanceId(NamedTuple):
    """The name of one saga instance: the saga's name and an id of the caller's choice."""

    saga: str
    id: str

    @classmethod
    def of(cls, saga: str, id: str) -> InstanceId:
        """Build a name. Raises UsageError when a part is empty, too long or unprintable."""
        check_name("saga", saga)
        check_id(id)
        return cls(saga, id)

    @classmethod
    def parse(cls, text: str) -> InstanceId:
        """Read `<saga>/<id>`, the form that `str()` gives. Raises UsageError."""
        saga, slash, id = text.partition("/")
        if not slash:
            raise UsageError(f"{text!r} does not name an instance; write <saga>/<id>")
        return cls.of(saga, id)

    @classmethod
    def of_stream(cls, stream: str) -> InstanceId | None:
        """The instance whose journal `stream` is, or None when it is no journal."""
        category, _, id = stream.partition("-")
        if not category.startswith(JOURNAL_PREFIX) or not id:
            return None
        return cls(category.removeprefix(JOURNAL_PREFIX), id)

    @property
    def stream(self) -> StreamName:
        """The instance's journal: `saga.<type>-<id>`."""
        return StreamName(f"{JOURNAL_PREFIX}{self.saga}-{self.id}")

    def __str__(self) -> str:
        return f"{self.saga}/{self.id}"


JOURNAL_PREFIX: Final = "saga."


def check_name(what: str, name: str) -> None:
    """Raise UsageError unless `name` is a letter or "_", then letters, digits, "_" and "."."""
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a {what}: use letters, digits, '_' and '.', "
            "at most 100, beginning with a letter"
        )


def check_id(id: str) -> None:
    """Raise UsageError unless `id` is 1 to 200 printable characters."""
    if not 0 < len(id) <= ID_CHARS_MAX or not id.isprintable():
        raise UsageError(
            f"{id[:50]!r} cannot be an id: use 1 to {ID_CHARS_MAX} printable characters"
        )

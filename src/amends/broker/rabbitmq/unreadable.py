"""Properties that the client library cannot read: a time in nanoseconds, a text in Latin-1.

It takes them for a fault of the connection, closes that, and is given the same message again on the
next one: one such message would keep all consumers of its queue from ever consuming. With
`read_anything`, it is a message like any other, whose properties stand in a header as they came.
"""

from __future__ import annotations

import struct
from typing import Final

from pamqp.commands import Basic
from pamqp.header import ContentHeader

#: The header with the bytes of all properties.
UNREADABLE: Final = "amends-unreadable-properties"

#: Class, weight and size of the body stand before the properties.
_FIXED_BYTES: Final = 12


def read_anything() -> None:
    """Teach the client library, for the whole process. Idempotent."""
    ContentHeader.unmarshal = _unmarshal  # type: ignore[assignment, method-assign]


_strictly: Final = ContentHeader.unmarshal


def _unmarshal(header: ContentHeader, data: bytes) -> None:
    try:
        _strictly(header, data)
    except (ArithmeticError, OSError, ValueError, struct.error):
        if len(data) < _FIXED_BYTES:
            raise
        raw = bytearray(data[_FIXED_BYTES:])
        header.properties = Basic.Properties(headers={UNREADABLE: raw})

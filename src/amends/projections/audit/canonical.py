"""SHA-256 over canonical JSON (RFC 8785): the same bytes whoever writes them, in whatever language."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from amends.errors import UsageError

try:
    import rfc8785
except ModuleNotFoundError as error:
    raise UsageError(
        f"the audit trail needs what is not installed: {error}. Nothing was done. Install it with: "
        "pip install 'amends[audit]'"
    ) from None


def canonical(value: Any) -> bytes:
    """A JSON value as RFC 8785 writes it.

    Raises ValueError for what it cannot: a number beyond 2^53, or text that is no Unicode.
    """
    return rfc8785.dumps(value)


def digest(data: bytes) -> bytes:
    """The SHA-256 of bytes: 32 of them."""
    return sha256(data).digest()

"""Checkpoints: signed statements that the chain had this hash at this record.

They are worth most where whoever can change the database cannot reach them: printed, mailed, in
somebody else's log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from amends.projections.audit.canonical import canonical
from amends.projections.audit.keys import PublicKey, SigningKey

FORMAT: Final = "amends-audit-checkpoint/1"

Keys = Mapping[str, PublicKey]


class Checkpoint(NamedTuple):
    """Record `n` of the chain, about the event at `position`, recorded `at`, has this `hash`.

    `key` is the id of the key that signed it, so that keys can change.
    """

    n: int
    position: int
    hash: bytes
    at: str
    key: str
    signature: bytes = b""

    @property
    def statement(self) -> bytes:
        """What is signed."""
        return canonical({"format": FORMAT, **self._facts()})

    def _facts(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "position": self.position,
            "hash": self.hash.hex(),
            "at": self.at,
            "key": self.key,
        }

    @property
    def json(self) -> dict[str, Any]:
        """As it is published."""
        return {"format": FORMAT, **self._facts(), "signature": self.signature.hex()}


def sign(key: SigningKey, *, n: int, position: int, hash: bytes, at: str) -> Checkpoint:
    """A signed checkpoint. Nothing of it depends on when or where it is signed."""
    checkpoint = Checkpoint(n, position, hash, at, key.public.id)
    return checkpoint._replace(signature=key.sign(checkpoint.statement))


def signature_fault(checkpoint: Checkpoint, keys: Keys) -> str | None:
    """What is wrong with a checkpoint's signature, given the keys that are trusted; None if nothing."""
    key = keys.get(checkpoint.key)
    if key is None:
        known = ", ".join(sorted(keys)) or "none"
        return (
            f"it is signed with the key {checkpoint.key}, and the keys to check with are: {known}"
        )
    if not key.has_signed(checkpoint.statement, checkpoint.signature):
        return f"its signature is not that of the key {checkpoint.key}: it was changed, or forged"
    return None

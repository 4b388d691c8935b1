"""Ed25519 keys in PEM files: one that signs, and those by which signatures are checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from amends.errors import KeyUnusable, UsageError
from amends.projections.audit.canonical import digest

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
except ModuleNotFoundError as error:
    raise UsageError(
        f"the audit trail needs what is not installed: {error}. Nothing was done. Install it with: "
        "pip install 'amends[audit]'"
    ) from None

#: A key is some hundred bytes; a certificate chain or a mistaken file is not read further.
_FILE_BYTES_MAX: Final = 64 * 1024
_NEW: Final = "Make a pair of keys with: amends audit keygen FILE"
_ENCRYPTED: Final = b"ENCRYPTED"


class PublicKey:
    """Checks signatures. `id` is what checkpoints call it."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.id = digest(key.public_bytes_raw()).hex()[:32]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The public key of a PEM file. Raises KeyUnusable."""
        data = _read(path)
        if b"PRIVATE KEY" in data:
            raise KeyUnusable(
                f"{path} is a private key, which only whoever signs may have. Nothing was checked. "
                "Name the public key that goes with it"
            )
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyUnusable(f"{path} is no public key in PEM. Nothing was checked") from None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyUnusable(f"{path} is {_kind(key)}; checkpoints are signed with Ed25519")
        return cls(key)

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, over these bytes."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    @property
    def pem(self) -> bytes:
        """The key as a PEM file has it."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class SigningKey:
    """Signs checkpoints: the same bytes, the same signature, so that a rebuild makes the same."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The private key of a PEM file without a password. Raises KeyUnusable."""
        data = _read(path)
        if _ENCRYPTED in data:
            raise KeyUnusable(
                f"{path} is encrypted with a password, which nobody could type into an engine. "
                "Nothing was opened. Give it a key without one, that only its user may read"
            )
        if b"PUBLIC KEY" in data:
            raise KeyUnusable(f"{path} is a public key, which cannot sign. Nothing was opened")
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyUnusable(
                f"{path} is no private key in PEM. Nothing was opened. {_NEW}"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(
                f"{path} is {_kind(key)}; checkpoints are signed with Ed25519. Nothing was opened. "
                + _NEW
            )
        return cls(key)

    @classmethod
    def new(cls) -> Self:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, data: bytes) -> bytes:
        """The signature over these bytes."""
        return self._key.sign(data)

    def save(self, private: Path, public: Path) -> None:
        """Write both keys into new files; only their owner may read the private one.

        Raises KeyUnusable when a file is there already, or cannot be made; then neither is new.
        """
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_new(private, pem, 0o600)
        try:
            _write_new(public, self.public.pem, 0o644)
        except KeyUnusable:
            private.unlink()
            raise


def _kind(key: object) -> str:
    return f"a key of another kind ({type(key).__name__.strip('_')})"


def _read(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise KeyUnusable(
            f"the key {path} cannot be read: {why}. Nothing was opened. {_NEW}"
        ) from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        # Never readable by others, not even for a moment.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except OSError as error:
        raise KeyUnusable(f"{path} was not made: {error.strerror}. Nothing was changed") from None

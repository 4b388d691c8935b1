"""Keys and checkpoints: what signs, what checks, and what is told of a key that does neither."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from amends.errors import InvalidBundle, KeyUnusable
from amends.projections.audit.bundle import load_checkpoints
from amends.projections.audit.checkpoints import Checkpoint, sign, signature_fault
from amends.projections.audit.keys import PublicKey, SigningKey

ENCODING, FORMAT = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def test_a_pair_is_written_and_read(tmp_path: Path) -> None:
    private, public = tmp_path / "audit.pem", tmp_path / "audit.pub.pem"
    key = SigningKey.new()
    key.save(private, public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert SigningKey.load(private).public.id == PublicKey.load(public).id == key.public.id
    assert PublicKey.load(public).has_signed(b"x", SigningKey.load(private).sign(b"x"))
    assert not PublicKey.load(public).has_signed(b"y", key.sign(b"x"))
    assert not SigningKey.new().public.has_signed(b"x", key.sign(b"x"))


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "audit.pem", tmp_path / "audit.pub.pem"
    public.write_text("mine")
    with pytest.raises(KeyUnusable, match="was not made: File exists"):
        SigningKey.new().save(private, public)
    assert not private.exists()
    assert public.read_text() == "mine"
    private.write_text("mine, too")
    with pytest.raises(KeyUnusable, match="Nothing was changed"):
        SigningKey.new().save(private, public)
    assert private.read_text() == "mine, too"


def test_a_file_that_is_no_key_for_signing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(KeyUnusable, match=r"cannot be read: No such file.*amends audit keygen"):
        SigningKey.load(path)
    own = ed25519.Ed25519PrivateKey.generate()
    locked = own.private_bytes(ENCODING, FORMAT, serialization.BestAvailableEncryption(b"secret"))
    other = ec.generate_private_key(ec.SECP256R1())
    for data, told in [
        (b"", "is no private key in PEM"),
        (b"\x00" * 100, "is no private key in PEM"),
        (locked, "is encrypted with a password"),
        (SigningKey.new().public.pem, "is a public key, which cannot sign"),
        (
            other.private_bytes(ENCODING, FORMAT, serialization.NoEncryption()),
            "is a key of another kind",
        ),
    ]:
        path.write_bytes(data)
        with pytest.raises(KeyUnusable, match=told):
            SigningKey.load(path)


def test_a_file_that_is_no_key_for_checking_is_told(tmp_path: Path) -> None:
    path, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    with pytest.raises(KeyUnusable, match="cannot be read: No such file"):
        PublicKey.load(path)
    SigningKey.new().save(path, public)
    with pytest.raises(KeyUnusable, match="is a private key, which only whoever signs may have"):
        PublicKey.load(path)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    public.write_bytes(
        other.public_bytes(ENCODING, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(KeyUnusable, match="of another kind"):
        PublicKey.load(public)
    public.write_bytes(b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n")
    with pytest.raises(KeyUnusable, match="is no public key in PEM"):
        PublicKey.load(public)


def checkpoint(key: SigningKey) -> Checkpoint:
    return sign(key, n=7, position=12, hash=bytes(range(32)), at="2026-03-01T00:00:00.000000+00:00")


def test_a_checkpoint_is_the_same_whenever_it_is_signed() -> None:
    key = SigningKey.new()
    assert checkpoint(key) == checkpoint(key)
    assert signature_fault(checkpoint(key), {key.public.id: key.public}) is None


@pytest.mark.parametrize(
    "change", [{"n": 8}, {"position": 13}, {"hash": bytes(32)}, {"at": "2026"}, {"signature": b""}]
)
def test_everything_in_a_checkpoint_is_signed(change: dict[str, object]) -> None:
    key = SigningKey.new()
    spoiled = checkpoint(key)._replace(**change)  # type: ignore[arg-type]
    fault = signature_fault(spoiled, {key.public.id: key.public})
    assert fault is not None
    assert "changed, or forged" in fault


def test_published_checkpoints_are_read_back(tmp_path: Path) -> None:
    key = SigningKey.new()
    path = tmp_path / "published.jsonl"
    line = json.dumps(checkpoint(key).json)
    path.write_text(f"{line}\n\n{line}\n")
    assert load_checkpoints(path) == [checkpoint(key)] * 2
    path.write_text(f"{line}\n{line[:50]}")
    with pytest.raises(InvalidBundle, match="line 2, is damaged"):
        load_checkpoints(path)
    path.write_text(line.replace('"n": 7', '"n": "7"'))
    with pytest.raises(InvalidBundle, match="line 1, is a damaged checkpoint: n: input should be"):
        load_checkpoints(path)
    path.write_text("\n")
    with pytest.raises(InvalidBundle, match="has no checkpoint in it"):
        load_checkpoints(path)

"""`amends audit`: keys, verifying, bundles and checking them elsewhere."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from amends import Client
from tests.integration.cli import transfer_app
from tests.integration.cli.conftest import Amends, Ran


@pytest.fixture
def key(amends: Amends, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine's key; its public one is beside it."""
    amends.ok("audit", "keygen", "audit.pem")
    monkeypatch.setenv("AMENDS_AUDIT_KEY_FILE", "audit.pem")
    monkeypatch.setenv("AMENDS_AUDIT_EVERY", "10")
    return Path("audit.pub.pem")


@pytest.fixture
def recorded(amends: Amends, key: Path) -> None:
    """Three transfers on record, and the chain up to date."""
    for id in ("one", "two", "three"):
        amends.transfer(id)
    follow(amends)


def follow(amends: Amends) -> None:
    async def caught_up(client: Client) -> None:
        await client.projections.caught_up("audit", timeout=30)

    amends.engine(caught_up)


def sql(file: str, statement: str, *values: object) -> None:
    with sqlite3.connect(file) as connection:
        assert connection.execute(statement, values).rowcount
    connection.close()


def refused(ran: Ran, code: int, told: str) -> None:
    assert ran.code == code, ran
    assert told in " ".join(ran.err.split()), ran
    assert "Traceback" not in ran.err


def test_a_pair_of_keys(amends: Amends) -> None:
    told = amends.ok("audit", "keygen", "a.pem", "--json").json[0]
    assert (told["private"], told["public"]) == ("a.pem", "a.pub.pem")
    before = Path("a.pem").read_bytes()
    refused(amends("audit", "keygen", "a.pem"), 2, "a.pem was not made: File exists")
    assert Path("a.pem").read_bytes() == before
    assert "b.pub.pem (hand it out)" in amends.ok("audit", "keygen", "b").err


@pytest.mark.usefixtures("recorded")
def test_what_nobody_touched(amends: Amends, key: Path) -> None:
    assert "the log is what was recorded" in amends.ok("audit", "verify").out
    (told,) = amends.ok("audit", "verify", "--key", str(key), "--json").json
    assert (told["ok"], told["records"], told["events"], told["checkpoints"]) == (True, 21, 21, 2)
    assert told["signed"] == 20


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    "value",
    [
        "CAST(replace(CAST(data AS TEXT), 'anna', 'anne') AS BLOB)",
        "replace(data, 'anna', 'anne')",  # which makes it text
        "''",
        "7",
    ],
)
def test_one_byte(amends: Amends, value: str) -> None:
    sql("amends.db", f"UPDATE events SET data = {value} WHERE position = 7")
    ran = amends("audit", "verify", "--json")
    refused(
        ran, 1, "The first difference is at position 7 (record 8), SagaStarted in saga.transfer-"
    )
    assert ran.json[0]["difference"]["position"] == 7
    refused(amends("audit", "export", "--saga", "transfer/two"), 1, "is not what was recorded")
    assert not list(Path().glob("audit-*"))


@pytest.mark.usefixtures("recorded")
def test_what_no_store_could_have_written(amends: Amends) -> None:
    sql("amends.db", "UPDATE events SET data = CAST(data AS TEXT)")
    amends.ok("audit", "verify")  # the same bytes
    amends.ok("audit", "export", "--saga", "transfer/one")
    sql("amends.db", "UPDATE events SET id = 'x' WHERE position = 9")
    refused(amends("audit", "verify"), 1, "cannot be read")


@pytest.mark.usefixtures("recorded")
def test_published_checkpoints(amends: Amends) -> None:
    ran = amends.ok("audit", "checkpoints", "--json")
    assert [one["n"] for one in ran.json] == [10, 20]
    Path("published.jsonl").write_text(ran.out)
    (last,) = amends.ok("audit", "checkpoints", "--now", "--after", "20", "--json").json
    assert last["n"] == 21
    amends.ok("audit", "verify", "--checkpoint", "published.jsonl")
    sql("amends-projections.db", "DELETE FROM audit_checkpoints")
    assert amends.ok("audit", "verify", "--json").json[0]["signed"] == 0
    amends.ok("audit", "verify", "--checkpoint", "published.jsonl")
    Path("published.jsonl").write_text(json.dumps({**last, "n": 22}))
    refused(amends("audit", "verify", "--checkpoint", "published.jsonl"), 1, "record 22")
    refused(amends("audit", "verify", "--checkpoint", "none"), 1, "cannot be read")
    assert "hash" in amends.ok("audit", "checkpoints").out


@pytest.mark.usefixtures("recorded")
def test_a_bundle_for_an_auditor(
    amends: Amends, key: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = amends.ok("audit", "export", "--saga", "transfer/two", "--json").json[0]
    assert (told["bundle"], told["page"]) == ("audit-transfer-two.json", "audit-transfer-two.html")
    assert told["events"] == 7
    bundle = Path(told["bundle"]).read_text()
    assert "transfer-one" not in bundle
    page = Path(told["page"]).read_text()
    assert "transfer/two" in page
    assert "SagaCompleted" in page
    assert "$" not in page.replace("$correlationId", "")
    refused(amends("audit", "export", "--saga", "transfer/two"), 1, "is there already")
    amends.ok("audit", "export", "--saga", "transfer/two", "--force")
    # Elsewhere, with nothing but the bundle and the public key, and without what databases need:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "b.json").write_text(bundle)
    (elsewhere / "k.pem").write_bytes(key.read_bytes())
    code = (
        "import sys; from amends.cli.main import app; "
        "app(['audit', 'check', 'b.json', '--key', 'k.pem'], standalone_mode=False); "
        "assert not {'sqlalchemy', 'sqlite3'} & set(sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "these events are what was recorded" in ran.stdout


@pytest.mark.usefixtures("recorded")
def test_a_bundle_that_was_changed(amends: Amends, key: Path) -> None:
    amends.ok("audit", "export", "--saga", "transfer/two", "--out", "b.json")
    amends.ok("audit", "check", "b.json", "--key", str(key))
    amends.ok("audit", "keygen", "other.pem")
    for public, told in [
        ("other.pub.pem", "it is signed with the key"),
        ("audit.pem", "is a private key"),
        ("none.pem", "cannot be read"),
    ]:
        ran = amends("audit", "check", "b.json", "--key", public)
        assert ran.code in (1, 2)
        assert told in ran.err
    good = Path("b.json").read_text()
    Path("b.json").write_text(good.replace("anna", "anne", 1))
    ran = amends("audit", "check", "b.json", "--key", str(key), "--json")
    refused(ran, 1, "b.json proves nothing: event 0 (SagaStarted, position 7) is not what was")
    assert ran.json[0]["ok"] is False
    Path("b.json").write_text(good[:1000])
    refused(amends("audit", "check", "b.json", "--key", str(key)), 1, "is not JSON")
    refused(amends("audit", "check", "none.json", "--key", str(key)), 1, "cannot be read")


@pytest.mark.usefixtures("recorded")
def test_what_cannot_be_exported(amends: Amends, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        amends("audit", "export", "--saga", "transfer/none"), 1, "has no stream saga.transfer-none"
    )
    refused(amends("audit", "export"), 2, "say which")
    refused(amends("audit", "export", "--saga", "transfer"), 2, "does not name an instance")
    amends.ok("audit", "export", "--saga", "transfer/one")
    monkeypatch.delenv("AMENDS_AUDIT_KEY_FILE")
    refused(
        amends("audit", "export", "--saga", "transfer/three"), 1, "no checkpoint was signed since"
    )
    amends.transfer("four")
    refused(amends("audit", "export", "--saga", "transfer/four"), 1, "is not in the chain yet")
    assert [path.name for path in sorted(Path().glob("audit-*"))] == [
        "audit-transfer-one.html", "audit-transfer-one.json",
    ]  # fmt: skip


def test_without_a_trail_or_a_key(amends: Amends, monkeypatch: pytest.MonkeyPatch) -> None:
    amends.ok("audit", "keygen", "k.pem")
    refused(amends("audit", "verify", "--key", "k.pub.pem"), 3, "there is no store")
    amends.transfer("one")
    refused(amends("audit", "verify", "--key", "k.pub.pem"), 3, "there is no audit trail")
    assert not Path("amends-projections.db").exists()
    refused(amends("audit", "verify"), 2, "Name it with --key PUBLIC.pem")
    for file, told in [("none.pem", "cannot be read"), ("k.pub.pem", "is a public key, which")]:
        monkeypatch.setenv("AMENDS_AUDIT_KEY_FILE", file)
        refused(amends("audit", "verify"), 2, told)
        refused(amends("dev", "tests.integration.cli.transfer_app:app"), 2, told)
    assert not Path("amends-projections.db").exists()


@pytest.mark.usefixtures("recorded")
def test_journals_that_were_removed(amends: Amends) -> None:
    with sqlite3.connect("amends.db") as connection:
        connection.execute("UPDATE events SET recorded_at = recorded_at - 4000000000000")
    connection.close()
    Path("amends-projections.db").unlink()  # their chain begins anew: they were always so old
    follow(amends)
    assert amends.ok("purge", "--older-than", "30d", "--yes", "--json").json[0]["journals"] == 3
    for _ in range(2):
        told = amends.ok("audit", "verify", "--json").json[0]
        assert told["removed"]["events"] == 21
        assert told["ok"]
        follow(amends)
    assert "removed, as is on record: 21 events of 3 streams" in amends.ok("audit", "verify").err
    refused(
        amends("audit", "export", "--saga", "transfer/one"), 1,
        "was removed from the log, as is on record at position 21",
    )  # fmt: skip
    amends.engine(lambda client: client.start(transfer_app.approve, id="later"))
    follow(amends)
    amends.ok("audit", "verify")


@pytest.mark.usefixtures("recorded")
def test_a_rebuild_changes_nothing_and_with_another_key_the_signatures(
    amends: Amends, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild = ("projections", "rebuild", "audit", "--app", "tests.integration.cli.transfer_app:app")
    assert "audit is rebuilt" in amends.ok(*rebuild).err
    amends.ok("audit", "keygen", "new.pem")
    monkeypatch.setenv("AMENDS_AUDIT_KEY_FILE", "new.pem")
    ran = amends(*rebuild)
    assert ran.code == 1
    assert '"signature":"' in ran.out
    assert "unexpected" not in ran.err
    amends.ok(*rebuild, "--allow", "2")
    amends.ok("audit", "verify", "--key", "new.pub.pem")
    refused(amends("audit", "verify", "--key", str(key)), 1, "the keys to check with are")

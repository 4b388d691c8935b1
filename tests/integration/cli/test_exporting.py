"""`amends projections export`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.cli import projecting_app
from tests.integration.cli.conftest import Amends
from tests.integration.cli.test_projections import one_more


@pytest.fixture
def counted(amends: Amends) -> Amends:
    amends.engine(one_more, app=projecting_app.app)
    return amends


def test_to_stdout(counted: Amends) -> None:
    ran = counted.ok("projections", "export", "counts")
    header, row = ran.out.splitlines()
    assert header == "id,n"
    assert row.endswith(",1")
    assert "1 rows of counted, as of position" in ran.err
    assert counted.ok("projections", "export", "counts", "--format", "jsonl").json[0]["n"] == 1


def test_to_files(counted: Amends) -> None:
    args = ("projections", "export", "counts", "--format", "parquet", "--out", "out")
    assert "in out/counted.parquet" in counted.ok(*args).err
    assert [file.name for file in Path("out").iterdir()] == ["counted.parquet"]
    again = counted(*args)
    assert again.code == 2
    assert "exists. Nothing was written" in again.err


def test_what_cannot_be(counted: Amends) -> None:
    assert counted("projections", "export", "count").code == 2
    assert "it has counts" in counted("projections", "export", "count").err
    ran = counted("projections", "export", "counts", "--format", "parquet")
    assert (ran.code, ran.out) == (2, "")
    assert "--out DIR" in ran.err
    assert counted("projections", "export", "counts", "--format", "xlsx").code == 2
    Path("file").write_text("")
    ran = counted("projections", "export", "counts", "--out", "file")
    assert ran.code == 1
    assert "file cannot be written" in ran.err


def test_without_a_projection(amends: Amends) -> None:
    amends.transfer("one")
    ran = amends("projections", "export", "counts")
    assert ran.code == 3
    assert not Path("amends-projections.db").exists()


def test_without_pyarrow(counted: Amends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "amends.projections.export.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = counted("projections", "export", "counts", "--format", "parquet", "--out", "out")
    assert ran.code == 2
    assert "pip install 'amends[parquet]'" in ran.err
    assert not Path("out").exists()

"""docs/rabbitmq.md runs from top to bottom, on the session's server."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.test_documents import ON_RABBITMQ, run


@pytest.mark.timeout(180)
def test_the_page_on_rabbitmq_is_true(
    rabbitmq: str, rabbit_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))  # as in the directory of one's program
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setenv("AMENDS_BROKER", rabbitmq)
    monkeypatch.setenv("AMENDS_BROKER_PREFIX", rabbit_prefix)
    monkeypatch.setenv("AMENDS_STORE", "sqlite:///payments.db")
    shown = ON_RABBITMQ.read_text().replace("amends.commands.", f"{rabbit_prefix}.commands.")
    page = tmp_path / ON_RABBITMQ.name
    page.write_text(shown)
    run(page)

"""docs/eventstoredb.md runs from top to bottom, on the protocol double and the private RabbitMQ."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.docs.test_documents import ON_EVENTSTOREDB, run


@pytest.mark.timeout(240)
def test_the_page_on_eventstoredb_is_true(
    esdb: str,
    private_rabbitmq: PrivateRabbitMQ,
    rabbit_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))  # as in the directory of one's program
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    for name in os.environ:
        if name.startswith("AMENDS_"):
            monkeypatch.delenv(name)
    # Of this test alone, and deleted after it.
    monkeypatch.setenv("AMENDS_BROKER_PREFIX", rabbit_prefix)
    text = ON_EVENTSTOREDB.read_text()
    for shown, here in {
        "esdb://localhost:2113?tls=false": esdb,
        "amqp://payments:secret@localhost/payments": private_rabbitmq.url,
    }.items():
        assert shown in text
        text = text.replace(shown, here)
    page = tmp_path / ON_EVENTSTOREDB.name
    page.write_text(text)
    run(page)

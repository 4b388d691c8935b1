"""docs/rabbitmq.md runs from top to bottom, on the private server."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from amends.testing.rabbitmq import PrivateRabbitMQ, RabbitMQError
from tests.docs.test_documents import ON_RABBITMQ, run

#: Whose the page is: its virtual host, and its user.
NAMES = ("payments", "payments2")


@pytest.fixture
def rabbitmqctl(
    private_rabbitmq: PrivateRabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """`sudo rabbitmqctl` is that of the private server; what the page adds goes afterwards."""
    programs = tmp_path / "bin"
    programs.mkdir()
    command, environment = private_rabbitmq.ctl_command()
    settings = [f"{name}={value}" for name, value in environment.items()]
    program = shlex.join(["env", "-i", *settings, *command])
    write_program(programs / "rabbitmqctl", f'cd / && exec {program} "$@"')
    write_program(programs / "sudo", 'exec "$@"')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    yield
    for name in NAMES:
        for thing in ("vhost", "user"):
            with suppress(RabbitMQError):
                private_rabbitmq.ctl(f"delete_{thing}", name)


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("rabbitmqctl")
def test_the_page_on_rabbitmq_is_true(
    private_rabbitmq: PrivateRabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))  # as in the directory of one's program
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    for name in os.environ:
        if name.startswith("AMENDS_"):
            monkeypatch.delenv(name)
    page = tmp_path / ON_RABBITMQ.name
    here = private_rabbitmq.url.rpartition("@")[2]
    page.write_text(ON_RABBITMQ.read_text().replace("@localhost/", f"@{here}"))
    run(page)

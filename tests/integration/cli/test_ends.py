"""How commands end: exit codes, messages without tracebacks, closed pipes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amends.cli import listing
from tests.integration.cli.conftest import APP, ROOT, Amends


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", command.replace("amends ", f"{sys.executable} -m amends ")],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_help_documents_the_exit_codes(amends: Amends) -> None:
    text = " ".join(amends.ok("--help").out.split())
    assert "Exit codes: 0 done; 1 it failed or was refused; 2 wrong usage; 3" in text
    for verb in [
        "dev",
        "orchestrator",
        "worker",
        "start",
        "list",
        "status",
        "show",
        "signal",
        "cancel",
        "terminate",
        "resolve",
        "events",
        "replay",
        "broker",
    ]:
        assert f" {verb} " in text
        assert max(map(len, amends.ok(verb, "--help").out.splitlines())) <= 80


def test_the_version_is_the_package_s(amends: Amends) -> None:
    assert amends.ok("--version").out.startswith("amends 0.")


@pytest.mark.parametrize("verb", ["events --json", "list"])  # our own writes, and rich's
def test_a_closed_pipe_is_no_error(amends: Amends, verb: str) -> None:
    amends.transfer("t")
    ran = shell(f"set -o pipefail; amends {verb} | exec true")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_terminal_without_arrows_shows_what_it_can(amends: Amends) -> None:
    amends.transfer("t", payer="Zoë")
    ran = shell("amends show transfer/t", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert "? withdraw completed" in ran.stdout
    ran = shell("amends show transfer/t --json", PYTHONIOENCODING="ascii")
    assert "Zoë" in ran.stdout


def test_the_module_is_the_command(amends: Amends) -> None:
    ran = shell("amends list")
    assert ran.returncode == 3
    assert "there is no store at" in ran.stderr


@pytest.mark.parametrize("where", ["bash", "zsh", "fish"])
def test_shells_can_complete(amends: Amends, where: str) -> None:
    """What --show-completion prints, but of a shell that is named: it looks for the one above."""
    ran = shell("amends ", _AMENDS_COMPLETE=f"source_{where}")
    assert ran.returncode == 0
    assert f"_AMENDS_COMPLETE=complete_{where}" in ran.stdout


def test_completion_knows_the_verbs(amends: Amends) -> None:
    ran = shell(
        "amends ",
        _AMENDS_COMPLETE="complete_bash", COMP_WORDS="amends re", COMP_CWORD="1",
    )  # fmt: skip
    assert ran.stdout.split() == ["resolve", "replay", "reconcile"]


def test_a_bug_is_one_message_and_a_traceback_only_on_request(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ExceptionGroup("some tasks", [KeyError("surprise")])

    monkeypatch.setattr(listing, "looking", broken)
    ran = amends("list")
    assert ran.code == 1
    assert ran.err.startswith("error: unexpected KeyError: 'surprise'")
    assert "Traceback" not in ran.err
    assert "Traceback" in amends("--debug", "list").err


def test_settings_that_cannot_be_are_a_usage_error(
    amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_PARTITIONS", "none")
    ran = amends("list")
    assert ran.code == 2
    assert "AMENDS_PARTITIONS='none': it should be a valid integer" in ran.err


def test_the_environment_names_the_store(amends: Amends, monkeypatch: pytest.MonkeyPatch) -> None:
    amends.transfer("t")
    Path("amends.db").rename("other.db")
    monkeypatch.setenv("AMENDS_STORE", "sqlite:///other.db")
    assert amends.state("transfer/t") == "completed"
    monkeypatch.setenv("AMENDS_STORE", "memory://")
    ran = amends("list")
    assert ran.code == 2
    assert "gone with its process" in ran.err
    monkeypatch.setenv("AMENDS_STORE", "esdb://localhost")
    assert amends("list").code == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:app", "there is no module 'nowhere'"),
        ("tests.nowhere:app", "there is no module 'tests.nowhere'"),
        ("tests/integration/app.py:app", "name the module instead: tests.integration.app:app"),
        ("not a module", "write module:attribute"),
        (APP.replace(":app", ":application"), f"it has {APP}"),
        (APP.replace(":app", ":not_an_app"), "is a str, not an App; it has"),
        ("json:loads", "make one there: app = App("),
    ],
)
def test_an_application_that_is_not_there(amends: Amends, name: str, said: str) -> None:
    ran = amends("dev", name)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("from amends import App\napp = App(sagas=['text'])", "is no saga"),
    ],
)
def test_an_application_that_cannot_be_imported_names_the_line(
    amends: Amends, source: str, said: str
) -> None:
    name = f"broken_{abs(hash(source))}"
    Path(f"{name}.py").write_text(source)
    ran = amends("dev", f"{name}:app")
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    if "saga" not in said:
        assert f"{name}.py, line 1" in ran.err


def test_modules_are_found_in_the_current_directory(amends: Amends) -> None:
    Path("my_program.py").write_text("from amends import App\nmain = App()\n")
    ran = amends("replay", "my_program:main", "a/b")
    assert ran.code == 3  # there is no store, but there is the program

"""The verbs: which module has which, and that nobody waits for the others."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import amends.cli
from amends.cli.verbs import MODULES, commands_of


def test_every_verb_is_in_the_table_with_its_module() -> None:
    assert amends.cli.__file__ is not None
    modules = [
        import_module(f"amends.cli.{path.stem}")
        for path in Path(amends.cli.__file__).parent.glob("*.py")
        if path.stem != "__main__"
    ]
    found = {
        verb: module.__name__.removeprefix("amends.cli.")
        for module in modules
        if hasattr(module, "router")
        for verb in commands_of(module.router)
    }
    assert found == MODULES


def test_a_verb_does_not_import_the_others() -> None:
    code = (
        "import sys; from amends.cli.main import app\n"
        "app(['dev', '--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith('amends.cli.')], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "'amends.cli.running'" in ran.stderr
    assert not any(
        f"'amends.cli.{module}'" in ran.stderr for module in {*MODULES.values()} - {"running"}
    )

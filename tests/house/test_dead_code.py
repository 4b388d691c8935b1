"""Code that nothing uses is removed.

Vulture looks for names that occur only where they are defined. Tests count as users: what a test
alone uses is API for users of the package. Fields and other variables are left out: serialisation
reads them without naming them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy.types import TypeDecorator
from typer.core import TyperGroup
from vulture import Vulture

ROOT = Path(__file__).resolve().parents[2]

CHECKED = ("src", "examples", "benchmarks")
KINDS = {"class", "function", "import", "method", "property", "unreachable_code"}

#: A function under one of these is handed to a framework, or to our own registry, by the decorator.
REGISTERING_DECORATORS = [
    "@*.command",  # typer
    "@*.callback",
    "@field_validator",  # pydantic
    "@model_validator",
    "@field_serializer",
    "@model_serializer",
    "@applies",  # ours
    "@on",
    "@on_every",
    "@*.undo",
    "@*.probe",
]

#: Files with classes whose methods are called through this base class.
OVERRIDES: dict[str, type] = {
    "src/amends/sagas/loop.py": asyncio.BaseEventLoop,
    "src/amends/testing/clock.py": asyncio.BaseEventLoop,
    "src/amends/cli/output.py": Console,
    "src/amends/projections/moment.py": TypeDecorator,
    "src/amends/cli/verbs.py": TyperGroup,
}

#: `path::name` -> who uses it although no code of ours names it.
USED_FROM_OUTSIDE: dict[str, str] = {
    "src/amends/projections/__init__.py::__getattr__": "the language",
    "benchmarks/projections_eventsourcing.py::process_event": "the eventsourcing library",
}


def unused(root: Path) -> dict[str, str]:
    """What is defined and never used: `path::name` -> what it is and where."""
    vulture = Vulture(ignore_decorators=REGISTERING_DECORATORS)
    vulture.scavenge([root / folder for folder in (*CHECKED, "tests") if (root / folder).exists()])
    found = {}
    for item in vulture.get_unused_code(min_confidence=60):
        path = Path(item.filename).relative_to(root)
        if item.typ in KINDS and path.parts[0] in CHECKED:
            found[f"{path.as_posix()}::{item.name}"] = f"{item.message}, line {item.first_lineno}"
    return found


def is_override(what: str) -> bool:
    path, _, name = what.partition("::")
    return path in OVERRIDES and hasattr(OVERRIDES[path], name)


@pytest.fixture(scope="module")
def dead() -> dict[str, str]:
    return unused(ROOT)


def test_everything_is_used(dead: dict[str, str]) -> None:
    unexcused = [
        f"{what}: {where}"
        for what, where in dead.items()
        if what not in USED_FROM_OUTSIDE and not is_override(what)
    ]
    if unexcused:
        pytest.fail("\n".join(unexcused), pytrace=False)


def test_no_excuse_outlives_its_reason(dead: dict[str, str]) -> None:
    assert not USED_FROM_OUTSIDE.keys() - dead.keys()
    assert all((ROOT / path).exists() for path in OVERRIDES)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def orphan(): ...", {"src/amends/a.py::orphan"}),
        ("class Orphan: ...", {"src/amends/a.py::Orphan"}),
        ("import json", {"src/amends/a.py::json"}),
        ("class A:\n    def orphan(self): ...\nA()", {"src/amends/a.py::orphan"}),
        ("def f():\n    return 1\n    print()\nf()", {"src/amends/a.py::return"}),
        ("class A:\n    field: int = 1\nA()", set()),
        ("@withdraw.undo\nasync def refund(cmd): ...", set()),
        ("__all__ = ['exported']\ndef exported(): ...", set()),
        ("def tested(): ...", set()),
    ],
)
def test_the_check_finds_what_is_dead(tmp_path: Path, source: str, found: set[str]) -> None:
    for name, text in {"src/amends/a.py": source, "tests/test_a.py": "tested()"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert unused(tmp_path).keys() == found

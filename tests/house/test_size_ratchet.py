"""Nothing grows too large to be read: files and functions have a limit in lines.

What is over its limit stands in `TOLERATED` at its present size. An entry may only shrink, and one
that is no longer needed fails, so that the list ends empty.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FILE_LINES_MAX = {"src": 400, "examples": 400, "benchmarks": 400, "tests": 600}
FUNCTION_LINES_MAX = 70

#: `path` or `path::Class.function` -> its lines.
TOLERATED: dict[str, int] = {}


def function_lines(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every function in a module by qualified name, and its lines from `def` to its end."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                assert node.end_lineno is not None  # the parser always sets it
                yield name, node.end_lineno - node.lineno + 1
            yield from function_lines(node, f"{name}.")
        else:
            yield from function_lines(node, prefix)


def sizes_over_limit(root: Path) -> dict[str, int]:
    """What is over its limit below `root`."""
    over: dict[str, int] = {}
    for folder, file_lines_max in FILE_LINES_MAX.items():
        for path in sorted((root / folder).rglob("*.py")):
            name, source = path.relative_to(root).as_posix(), path.read_text()
            if (lines := len(source.splitlines())) > file_lines_max:
                over[name] = lines
            for function, lines in function_lines(ast.parse(source)):
                if lines > FUNCTION_LINES_MAX:
                    over[f"{name}::{function}"] = lines
    return over


def complaints(over: dict[str, int], tolerated: dict[str, int]) -> list[str]:
    """What is wrong with the present sizes, given the tolerated ones; empty when nothing is."""
    said = [
        f"{what} has {lines} lines: split it"
        for what, lines in over.items()
        if lines > tolerated.get(what, 0)
    ]
    said += [
        f"{what} is down from {lines} lines to {over.get(what, 'its limit')}: "
        "lower or remove its entry in TOLERATED"
        for what, lines in tolerated.items()
        if over.get(what, 0) < lines
    ]
    return sorted(said)


def test_nothing_is_over_its_limit() -> None:
    if said := complaints(sizes_over_limit(ROOT), TOLERATED):
        pytest.fail("\n".join(said), pytrace=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def long_function(lines: int, name: str = "long") -> str:
    return f"async def {name}():\n" + "    pass\n" * (lines - 1)


def test_a_long_file_is_found(tmp_path: Path) -> None:
    write(tmp_path / "src/amends/at_limit.py", "\n" * 400)
    write(tmp_path / "src/amends/over.py", "\n" * 401)
    write(tmp_path / "tests/unit/test_at_limit.py", "\n" * 600)
    write(tmp_path / "tests/unit/test_over.py", "\n" * 601)
    assert sizes_over_limit(tmp_path) == {
        "src/amends/over.py": 401,
        "tests/unit/test_over.py": 601,
    }


def test_a_long_function_is_found_wherever_it_hides(tmp_path: Path) -> None:
    method = "class Thing:\n    if True:\n" + "".join(
        f"        {line}\n" for line in long_function(71).splitlines()
    )
    write(tmp_path / "examples/a.py", long_function(70, "at_limit") + method)
    assert sizes_over_limit(tmp_path) == {"examples/a.py::Thing.long": 71}


def test_what_is_tolerated_may_neither_grow_nor_outstay() -> None:
    tolerated = {"a.py": 450, "b.py": 450, "c.py": 450, "d.py": 450}
    now = {"a.py": 450, "b.py": 460, "c.py": 440}
    assert complaints(now, tolerated) == [
        "b.py has 460 lines: split it",
        "c.py is down from 450 lines to 440: lower or remove its entry in TOLERATED",
        "d.py is down from 450 lines to its limit: lower or remove its entry in TOLERATED",
    ]

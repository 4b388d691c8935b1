"""What a type checker infers from the public API, pinned.

Each file in `cases/` is checked by mypy as a user would check it. `typing.assert_type` says what
must be inferred; a line that must be refused ends in `# error: code` (or several, by commas). Every
other line must be accepted.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted((ROOT / "tests/typing/cases").glob("*.py"))

Errors = set[tuple[str, int, str]]
"""File name, line, error code."""


def expected_errors(case: Path) -> Errors:
    return {
        (case.name, number, code.strip())
        for number, line in enumerate(case.read_text().splitlines(), start=1)
        if (marker := re.search(r"# error: ([a-z, -]+)$", line))
        for code in marker[1].split(",")
    }


def reported_errors(*cases: Path) -> Errors:
    """What `mypy --strict`, with this project's configuration, says about the files."""
    mypy = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", *map(str, cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert mypy.returncode in (0, 1), mypy.stdout + mypy.stderr
    pattern = re.compile(r"^(?P<path>.+?):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$", re.M)
    return {
        (Path(error["path"]).name, int(error["line"]), error["code"])
        for error in pattern.finditer(mypy.stdout)
    }


@pytest.fixture(scope="module")
def reported() -> Errors:
    """One run for all cases: most of its time goes into the start."""
    return reported_errors(*CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_inference(case: Path, reported: Errors) -> None:
    found = {error for error in reported if error[0] == case.name}
    assert found == expected_errors(case)


def test_a_wrong_type_is_noticed(tmp_path: Path) -> None:
    case = tmp_path / "wrong_case.py"
    case.write_text(
        "from typing import assert_type\n\n"
        "assert_type(1, str)\n"
        "refused: str = 1  # error: assignment\n"
        "accepted: str = ''  # error: assignment\n"
    )
    found, expected = reported_errors(case), expected_errors(case)
    assert found - expected == {("wrong_case.py", 3, "assert-type")}
    assert expected - found == {("wrong_case.py", 5, "assignment")}

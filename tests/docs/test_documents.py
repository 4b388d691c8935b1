"""What the documents show is true: their code runs, their commands and links exist.

Each document runs from top to bottom as one program, as a reader would type it: in a module of its
own, in an empty directory. A block that cannot run here is skipped by a comment above it, and the
comment says why:

    <!-- skip: next "needs a RabbitMQ server" -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from unittest import SkipTest

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from tests.docs.console import Console

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("compose/*.md")])
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
)

#: Run with servers, in tests/integration.
ON_RABBITMQ = ROOT / "docs/rabbitmq.md"
ON_EVENTSTOREDB = ROOT / "docs/eventstoredb.md"

MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class SkipWithReason(SkipParser):
    """Sybil's `skip`, but only of the next block, and never without a reason."""

    def __call__(self, document: Document) -> Iterable[Region]:
        for region in super().__call__(document):
            action, reason = region.parsed
            if action != "next" or not re.fullmatch(r'"[^"]+"', reason or ""):
                line, _ = document.line_column(region.start).split(",")
                raise ValueError(
                    f'{document.path}, {line}: write <!-- skip: next "reason" -->; a block '
                    "that is not run says why"
                )
            yield region


def save_file(example: Example) -> None:
    """A Python block that begins with `# file: name.py` is also that file."""
    first, _, rest = str(example.parsed).partition("\n")
    if name := re.fullmatch(r"# file: (\w+\.py)", first.strip()):
        Path(name[1]).write_text(rest)


def check_commands(example: Example) -> None:
    """A shell block (every line, or in a console block what follows `$`) names real targets."""
    for command in re.findall(r"^(?:\$ )?make ([a-z]+)", example.parsed, re.MULTILINE):
        assert command in MAKE_TARGETS, f"there is no `make {command}`"


def run_commands(example: Example) -> None:
    """A console block is typed in, and must print what it shows."""
    check_commands(example)
    example.namespace["__console__"].run_block(example.parsed)


PARSE = Sybil(
    [
        SkipWithReason(),
        PythonCodeBlockParser(),
        CodeBlockParser("console", run_commands),
        *(CodeBlockParser(language, check_commands) for language in ("bash", "sh")),
    ]
).parse


def run(path: Path) -> None:
    """Run a document's blocks in order. Raises what the first failing one raises."""
    document = PARSE(path)
    document.namespace = sys.modules["__main__"].__dict__
    console = document.namespace["__console__"] = Console()
    try:
        for example in document.examples():
            save_file(example)
            try:
                example.evaluate()
            except SkipTest:
                continue
    finally:
        console.close()


@pytest.fixture(autouse=True)
def fresh_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory, and an empty `__main__` for the document to be."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


@each_document
def test_a_document_runs(path: Path) -> None:
    if path not in (ON_RABBITMQ, ON_EVENTSTOREDB):
        run(path)


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", path.read_text())
    assert not [target for target in targets if not (path.parent / target).exists()]


def document(directory: Path, text: str) -> Path:
    path = directory / "document.md"
    path.write_text(text)
    return path


def test_a_block_sees_the_ones_before_it(tmp_path: Path) -> None:
    run(
        document(
            tmp_path,
            "```python\nimport inspect\nasync def saga(): ...\n```\n"
            "```python\nassert __name__ == '__main__'\n"
            "assert inspect.getsource(saga) == 'async def saga(): ...\\n'\n```\n",
        )
    )


@pytest.mark.parametrize(
    "block",
    [
        "```python\n1 / 0\n```",
        "```python\n>>> 1\n2\n```",
        "```console\n$ make nothing\n```",
    ],
)
def test_a_false_block_fails_and_a_skip_excuses_it(tmp_path: Path, block: str) -> None:
    with pytest.raises(Exception, match=r"division|Expected|there is no"):
        run(document(tmp_path, block))
    run(document(tmp_path, f'<!-- skip: next "it shows what is wrong" -->\n\n{block}'))


@pytest.mark.parametrize("comment", ["skip: next", 'skip: next ""', 'skip: start "all"'])
def test_a_skip_without_a_reason_fails(tmp_path: Path, comment: str) -> None:
    with pytest.raises(ValueError, match="says why"):
        run(document(tmp_path, f"<!-- {comment} -->\n\n```python\nassert 1 == 2\n```"))


def test_a_skip_excuses_one_block_only(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(
            document(
                tmp_path,
                '<!-- skip: next "needs a server" -->\n\n```console\n$ make nothing\n```\n\n'
                "```python\n1 / 0\n```\n",
            )
        )

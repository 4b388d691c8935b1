"""Where output goes: results to stdout, everything else to stderr.

With --json, stdout carries one JSON object per line and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydantic_core import to_json
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the root command deal with it, like with any other write."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console on today's stdout or stderr."""
    return _Console(stderr=stderr, highlight=False, emoji=False)


def show(what: RenderableType, *, whole_lines: bool = False) -> None:
    """Print for people. `whole_lines`: leave long lines to the terminal."""
    console().print(what, soft_wrap=whole_lines)


def emit(value: Any) -> None:
    """Print for programs: one line of JSON, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.buffer.write(to_json(value) + b"\n")


def note(text: str) -> None:
    """Say something on the side."""
    _say(Text(clean(text), style="dim"))


def complain(text: str) -> None:
    """Say what went wrong."""
    _say(Text.assemble(("error: ", "bold red"), clean(text)))


def warn(text: str) -> None:
    """Say what must not be overlooked."""
    _say(Text(clean(text), style="bold red"))


def _say(text: Text) -> None:
    out = console(stderr=True)
    out.print(text, soft_wrap=not out.is_terminal)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show on a terminal that something takes its time."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield
        return
    with err.status(escape(clean(text))):
        yield


_KEPT: Final = frozenset("\n\t")


def clean(text: str) -> str:
    """Text from elsewhere, without what a terminal would take for commands."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _KEPT else f"\\x{ord(char):02x}" for char in text
    )

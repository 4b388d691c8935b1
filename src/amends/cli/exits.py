"""How a command ends: its exit code, and one clear message when it does not succeed.

Whatever Amends raises on purpose becomes its message on stderr; a traceback is for bugs, and
only with --debug.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from amends.cli.output import complain, note
from amends.errors import AmendsError, InstanceNotFound, UsageError


class Exit(IntEnum):
    """What the exit code of a command says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_COMPLETED = 4


THREADS_GRACE_S: Final = 1.0

EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done; 1 it failed or was refused; 2 wrong usage; 3 what you named does not "
    "exist; 4 the saga that `start --wait` waited for did not complete."
)


class Stop(Exception):
    """End the command with a message and a code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


class Group(TyperGroup):
    """The root command: turns what its verbs raise into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        with ending():
            result = super().invoke(ctx)
            # A pipe that was closed early is noticed here, and not when the interpreter ends.
            sys.stdout.flush()
            return result


@contextmanager
def ending() -> Iterator[None]:
    """Turn errors into messages and exit codes."""
    try:
        yield
    except Stop as stop:
        complain(str(stop))
        raise typer.Exit(stop.code) from None
    except AmendsError as error:
        complain(str(error))
        _trace(error)
        raise typer.Exit(code_of(error)) from None
    except BrokenPipeError:
        _leave_pipe()
        raise typer.Exit(Exit.OK) from None
    except Exception as error:
        if _is_typers(error):
            raise
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            with ending():  # a task group's one failure is what failed
                raise error.exceptions[0] from None
        complain(
            f"unexpected {type(error).__name__}: {error}\n"
            "This is a bug. What was durable before is still there. "
            + ("" if _debug else "Run `amends --debug …` to see where it happened.")
        )
        _trace(error)
        raise typer.Exit(Exit.FAILED) from None


def code_of(error: AmendsError) -> Exit:
    """The exit code of an error."""
    if isinstance(error, InstanceNotFound):
        return Exit.NOT_FOUND
    return Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED


_debug = False


def set_debug(on: bool) -> None:
    """Whether errors show their traceback."""
    global _debug  # noqa: PLW0603 - a fact about the process, known once its options are read
    _debug = on


def _trace(error: BaseException) -> None:
    if _debug:
        sys.stderr.write("".join(traceback.format_exception(error)))


def _is_typers(error: Exception) -> bool:
    """Whether typer itself knows what to do: usage errors, Exit and Abort."""
    module = type(error).__module__.partition(".")[0]
    return module in ("click", "typer")


def leave(code: int) -> NoReturn:
    """End the process. Threads that hang, in an activity say, do not keep it."""
    deadline = time.monotonic() + THREADS_GRACE_S
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                note(f"thread {thread.name!r} is left behind: what it was doing is run again later")
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    sys.exit(code)


def _leave_pipe() -> None:
    """Nobody reads stdout any more: what is still buffered goes nowhere."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError) as error:  # stdout is not a file, in a test
        if isinstance(error, OSError) and error.errno not in (None, errno.EBADF):
            raise

"""Telling a declared failure from a bug."""

from __future__ import annotations

import traceback

from amends.domain.events import ErrorInfo
from amends.errors import Failure, StepFailed

MESSAGE_CHARS_MAX = 2_000
TRACEBACK_CHARS_MAX = 8_000


def is_declared_failure(error: BaseException) -> bool:
    """Whether `error` is a `Failure`, or a group (of a TaskGroup, say) of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_declared_failure(inner) for inner in error.exceptions)
    # In a saga nothing but its own durable timers can time out: it asked for that.
    return isinstance(error, Failure | TimeoutError)


def error_info(error: BaseException, *, with_traceback: bool = False) -> ErrorInfo:
    """An error in the form in which it goes on record.

    A step's failure that a saga did not catch goes on record as what the activity reported, and
    a group as its first member: the cause is what people look for.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, StepFailed):
        return error.error
    text = None
    if with_traceback:
        text = _utf8("".join(traceback.format_exception(error))[-TRACEBACK_CHARS_MAX:])
    return ErrorInfo(
        type=type(error).__name__,
        message=_message(error),
        traceback=text,
        declared=isinstance(error, Failure),
    )


def _message(error: BaseException) -> str:
    try:
        return _utf8(str(error)[:MESSAGE_CHARS_MAX])
    except Exception as bug:  # the class's own code may raise anything
        return f"<its text cannot be shown: {type(bug).__name__}>"


def _utf8(text: str) -> str:
    """A file name that is not UTF-8 has lone surrogates, and they stand in an error's text."""
    return text.encode(errors="backslashreplace").decode()

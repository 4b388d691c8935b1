"""What a function's own code names: objects among its globals and enclosing variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any


def names_in_reach(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """The globals and the enclosing variables of a function."""
    return {**fn.__globals__, **inspect.getclosurevars(fn).nonlocals}


def named_by(fn: Callable[..., Any]) -> Iterator[Any]:
    """Every object that a function names, functions inside it included; some more than once."""
    known = names_in_reach(fn)
    codes = [fn.__code__]
    while codes:
        code = codes.pop()
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        for name in (*code.co_names, *code.co_freevars):
            if name in known:
                yield known[name]

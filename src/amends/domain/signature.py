"""Reading the types off a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from amends.errors import DefinitionError


class Signature(NamedTuple):
    """The types of a function's positional parameters and of its result."""

    parameter_types: tuple[Any, ...]
    result_type: Any


def read_signature(
    fn: Callable[..., Any], frame_locals: dict[str, Any] | None, *, must: bool = False
) -> Signature | None:
    """The types that `fn` declares; None while a name in them is not defined yet.

    Raises DefinitionError for a missing annotation, and, if `must`, for an undefined name.
    """
    try:
        hints = get_type_hints(fn, localns=frame_locals, include_extras=True)
    except NameError as error:
        if not must:
            return None
        raise DefinitionError(f"{fn.__qualname__}: {error}; its types must be defined") from None
    parameters = inspect.signature(fn).parameters
    missing = [name for name in (*parameters, "return") if name not in hints]
    if missing:
        raise DefinitionError(
            f"{fn.__qualname__} lacks a type for {', '.join(missing)}: types are how its values "
            "are written to the journal and read back"
        )
    return Signature(tuple(hints[name] for name in parameters), hints["return"])


def admits_or_none(tp: Any, value_type: Any) -> bool:
    """Whether a parameter of type `tp` takes values of a type, and None."""
    if tp is Any or tp is object:
        return True
    members = _members(tp)  # no set: what Annotated holds may have no hash
    wanted = [type(None)] if value_type is Any else [*_members(value_type), type(None)]
    return all(member in members for member in wanted)


def _members(tp: Any) -> list[Any]:
    return [*get_args(tp)] if get_origin(tp) in (Union, UnionType) else [tp]

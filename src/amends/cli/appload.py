"""Finding the application that a command names: `module:attribute`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType
from typing import Final

from amends.app import App
from amends.cli.exits import Exit, Stop
from amends.domain.aggregate import Aggregate
from amends.errors import AmendsError

DEFAULT_ATTRIBUTE: Final = "app"


def load_app(name: str) -> App:
    """The application of a name; modules are looked for in the current directory first.

    Raises Stop, with what to do about it, and what Amends raises about a wrong definition.
    """
    module_name, _, attribute = name.partition(":")
    _check_name(name, module_name)
    module = _import(module_name)
    return _attribute(module, attribute or DEFAULT_ATTRIBUTE)


def load_aggregate(name: str) -> type[Aggregate]:
    """The class of an aggregate: `module:Class`. Raises Stop, with what to do about it."""
    module_name, _, attribute = name.partition(":")
    _check_name(name, module_name)
    found: object = _import(module_name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not (
        isinstance(found, type) and issubclass(found, Aggregate) and hasattr(found, "category")
    ):
        raise Stop(f"{name!r} names no aggregate; write module:Class", Exit.USAGE)
    return found


def _check_name(name: str, module_name: str) -> None:
    if module_name.endswith(".py") or os.sep in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise Stop(
            f"{name!r} is a file; name the module instead: {dotted}:{DEFAULT_ATTRIBUTE}", Exit.USAGE
        )
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise Stop(
            f"{name!r} does not name an application; write module:attribute, "
            f"payments.app:{DEFAULT_ATTRIBUTE} for example",
            Exit.USAGE,
        )


def _import(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise Stop(_blame(name, error), Exit.USAGE) from error
        raise Stop(
            f"there is no module {error.name!r}, neither in {here} nor installed. Run the command "
            "in the directory where your program is",
            Exit.USAGE,
        ) from None
    except AmendsError:
        raise
    except Exception as error:
        raise Stop(_blame(name, error), Exit.USAGE) from error


def _blame(name: str, error: Exception) -> str:
    """What the user's module raised, and the line of theirs that did."""
    frames = traceback.extract_tb(error.__traceback__)
    place = ""
    theirs = [frame for frame in frames if "importlib" not in frame.filename]
    if isinstance(error, SyntaxError):
        place = f"\n  {error.filename}, line {error.lineno}"
    elif len(theirs) > 1:  # the first one is ours
        place = f"\n  {theirs[-1].filename}, line {theirs[-1].lineno}: {theirs[-1].line}"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"module {name!r} cannot be imported: {type(error).__name__}: {text}{place}"


def _attribute(module: ModuleType, path: str) -> App:
    found: object = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise Stop(f"module {module.__name__!r} has no {path!r}; {_apps(module)}", Exit.USAGE)
        found = getattr(found, part)
    if not isinstance(found, App):
        raise Stop(
            f"{module.__name__}:{path} is a {type(found).__name__}, not an App; {_apps(module)}",
            Exit.USAGE,
        )
    return found


def _apps(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, App)]
    if not names:
        return f"make one there: {DEFAULT_ATTRIBUTE} = App(sagas=[…], activities=[…])"
    return "it has " + ", ".join(f"{module.__name__}:{name}" for name in names)

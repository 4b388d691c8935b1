"""Projections: read models over the log, kept in SQL tables. See docs/projections.md.

What needs SQLAlchemy is imported when it is asked for: looking at sagas does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from amends.projections.definition import Projection, on, on_every
    from amends.projections.event import Event
    from amends.projections.moment import Moment
    from amends.projections.rows import Rows

__all__ = ["Event", "Moment", "Projection", "Rows", "on", "on_every"]

_MODULES: Final = {
    "Event": "event",
    "Moment": "moment",
    "Projection": "definition",
    "Rows": "rows",
    "on": "definition",
    "on_every": "definition",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

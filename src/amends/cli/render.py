"""How things look: states, times, JSON in little room. Pure, except for the width of a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic_core import to_json
from rich import box
from rich.table import Table
from rich.text import Text

from amends.cli.output import clean
from amends.domain.status import Status
from amends.projections.filter import UNREADABLE
from amends.projections.sagas import SagaSummary

STYLES: Final[dict[Status | str, str]] = {
    Status.RUNNING: "blue",
    Status.COMPENSATING: "yellow",
    Status.PARKED: "bold magenta",
    Status.STALLED: "bold red",
    Status.COMPLETED: "green",
    Status.COMPENSATED: "yellow",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
    Status.TERMINATED: "bold red",
    UNREADABLE: "bold red",
}


def state_text(state: Status | str) -> Text:
    """A state in its colour."""
    return Text(str(state), style=STYLES[state])


def state_of(summary: SagaSummary) -> Status | str:
    """The state of an instance, or that nobody can tell."""
    return summary.state if summary.fault is None else UNREADABLE


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; the columns `right` are numbers."""
    made = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    for name in columns:
        made.add_column(
            name, justify="right" if name in right else "left", overflow="fold", min_width=4
        )
    return made


def stamp(when: datetime) -> str:
    """A moment to the second. UTC; whoever shows it says so."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def clock_time(when: datetime) -> str:
    """The time of day to the millisecond. UTC; whoever shows it says so."""
    return when.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def span(time: timedelta) -> str:
    """A span of time in its two or three leading digits."""
    seconds = max(0.0, time.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86_400:.0f} d"


def compact(value: Any, chars_max: int | None = None) -> str:
    """A value as JSON on one line, bytes in hex, cut after so many characters."""
    text = clean(to_json(value, bytes_mode="hex").decode())
    if chars_max is None or len(text) <= chars_max:
        return text
    return f"{text[: max(0, chars_max - 1)]}…"

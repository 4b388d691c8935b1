"""What the engine says of itself: structured log lines, by structlog.

structlog is imported when there is something to say. That takes a fifth of the time of
`import amends`, most of it for drawing on terminals, and a process that only starts sagas and
looks at them never says anything.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any


class Log:
    """Hands lines to structlog's logger of a name, as it is configured at that moment.

    A line that cannot be written (a full disk, a closed pipe, a letter that the terminal lacks) is
    lost, and changes nothing else: what an engine does for a saga must not depend on it.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **fields: Any) -> None:
        """Something that is as it should be."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that the engine can deal with."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that somebody must look at."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        import structlog  # noqa: PLC0415 - see above

        with suppress(Exception):
            getattr(structlog.get_logger(self._name), level)(event, **fields)

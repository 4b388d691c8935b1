"""What the engine says of itself: structured log lines, by structlog.

structlog is imported when there is something to say. That takes a fifth of the time of
`import amends`, most of it for drawing on terminals, and a process that only starts sagas and
looks at them never says anything.
"""

from __future__ import annotations

from typing import Any


class Log:
    """Hands lines to structlog's logger of a name, as it is configured at that moment."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **fields: Any) -> None:
        """Something that is as it should be."""
        self._logger().info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that the engine can deal with."""
        self._logger().warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that somebody must look at."""
        self._logger().error(event, **fields)

    def _logger(self) -> Any:
        import structlog  # noqa: PLC0415 - see above

        return structlog.get_logger(self._name)

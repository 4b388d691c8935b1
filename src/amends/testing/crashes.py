"""Crashes: a scenario is run once for each point at which its engine can die.

Every operation with an effect is a numbered point before it and one after it::

    def scenario(points: CrashPoints) -> None:
        run_app(app, transfer, points=points)


    crash_at_every_point(scenario)
"""

from __future__ import annotations

from collections.abc import Callable

from amends.domain.bell import Bell


class SimulatedCrash(BaseException):
    """The process died here; whatever it tries afterwards raises this too.

    No `Exception`, because nothing may handle its own death.
    """


class CrashPoints:
    """Counts the points that a process passes, and kills it at one of them.

    `log` names the points that were passed. The dead can do nothing more: their operations raise
    SimulatedCrash, and closing consumers has no effect. Whoever runs the simulation waits for
    `crashed`, cancels the engine, and calls `MemoryBroker.crash_consumers`.
    """

    def __init__(self, crash_at: int | None = None) -> None:
        self.log: list[str] = []
        self.is_dead = False
        self._crash_at = crash_at
        self._died = Bell()

    def reach(self, point: str) -> None:
        """Pass a point, or die at it."""
        self.check_alive()
        self.log.append(point)
        if len(self.log) == self._crash_at:
            self.kill()
            self.check_alive()

    def spare(self) -> None:
        """No point kills it any more."""
        self._crash_at = None

    def kill(self) -> None:
        """Die here and now."""
        self.is_dead = True
        self._died.ring()

    def check_alive(self) -> None:
        """Raise SimulatedCrash after death."""
        if self.is_dead:
            at = self.log[-1] if self.log else "the beginning"
            raise SimulatedCrash(f"crashed at point {len(self.log)}: {at}")

    async def crashed(self) -> None:
        """Return once the process is dead."""
        if not self.is_dead:
            await self._died.wait()


def crash_at_every_point(run: Callable[[CrashPoints], object], *, points_max: int = 10_000) -> int:
    """Run a scenario with a crash at its first point, then at its second …, then without one.

    Returns how many points there were. Raises AssertionError when there is no end of them; what
    `run` raises comes with a note that names the point.
    """
    for crash_at in range(1, points_max + 2):
        points = CrashPoints(crash_at)
        try:
            run(points)
        except BaseException as error:
            at = points.log[-1] if points.is_dead and points.log else "no point"
            error.add_note(f"CrashPoints(crash_at={crash_at}) crashed at {at}")
            raise
        if not points.is_dead:
            return crash_at - 1
    raise AssertionError(f"more than {points_max} points: does the scenario end?")

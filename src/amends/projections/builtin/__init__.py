"""Projections that every application can have: `App(projections=[Sagas(), Effects()])`.

What they show is in docs/visibility.md.
"""

from amends.projections.builtin.compensations import Compensations
from amends.projections.builtin.effects import Effects
from amends.projections.builtin.sagas import Sagas
from amends.projections.builtin.timeline import Timeline

__all__ = ["Compensations", "Effects", "Sagas", "Timeline"]

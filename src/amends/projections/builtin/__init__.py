"""Projections that every application can have: `App(projections=[Sagas(), Effects()])`.

What they show is in docs/visibility.md.
"""

from amends.projections.builtin.sagas import Sagas

__all__ = ["Sagas"]

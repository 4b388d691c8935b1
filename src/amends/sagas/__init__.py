"""The saga runtime: definition, context, deterministic loop, replay, compensation, turns."""

from amends.sagas.as_completed import install as _install_as_completed

_install_as_completed()

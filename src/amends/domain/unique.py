"""New ids, without asking the operating system for each."""

from __future__ import annotations

import os
from random import Random
from uuid import UUID

_source = Random(os.urandom(32))


def _reseed() -> None:
    """A forked process must not draw what its parent draws."""
    _source.seed(os.urandom(32))


os.register_at_fork(after_in_child=_reseed)


def new_id() -> UUID:
    """A random UUID (version 4 in form). Unique, not secret."""
    return UUID(int=_source.getrandbits(128), version=4)


def new_id_block() -> int:
    """The first of a million ids that nobody else has, as a number: `UUID(int=first + n)`."""
    return _source.getrandbits(128) & ~0xFFFFF

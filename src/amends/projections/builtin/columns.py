"""What the tables of the built-in projections have in common."""

from __future__ import annotations

from typing import Final

from sqlalchemy import String

#: Text that is compared and sorted by its characters, in PostgreSQL too, so that a prefix is a range.
Word: Final = String().with_variant(String(collation="C"), "postgresql")

#: Texts of errors are cut there.
ERROR_CHARS_MAX: Final = 500


def after_prefix(prefix: str) -> str:
    """The least text that sorts after all that begin with `prefix`."""
    return prefix + "\U0010ffff"

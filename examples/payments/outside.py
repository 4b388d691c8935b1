"""The outside world of the demo: a ledger and banks that misbehave, the same way on every run.

What goes wrong with a step is drawn from its idempotency key, so it does not depend on timing or
on how often the worker was killed.
"""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from amends import activity_context

#: Longer than any attempt may take.
FOREVER_S: Final = 3600.0
STEP_LOG_VARIABLE: Final = "PAYMENTS_STEP_LOG"


class Trouble(StrEnum):
    """What can go wrong around a step."""

    NONE = "none"
    SLOW = "slow"
    """The first attempt has its effect, but its answer is lost."""
    SILENT = "silent"
    """Every attempt has its effect, and no answer ever comes."""
    FLAKY = "flaky"
    """The first attempt fails before it does anything."""
    LATE = "late"
    """The answer takes its time, within what is allowed."""
    REFUSED = "refused"
    """The other side will not have it."""


def trouble_with(shares: dict[Trouble, float]) -> Trouble:
    """What goes wrong with the step that is running; `shares` give how often, of 1."""
    key = activity_context().idempotency_key
    digest = blake2b(key.encode(), digest_size=8).digest()
    drawn = int.from_bytes(digest, "big") / 2**64
    for trouble, share in shares.items():
        if drawn < share:
            return trouble
        drawn -= share
    return Trouble.NONE


async def before_effect(trouble: Trouble) -> None:
    """What goes wrong before the effect."""
    if trouble is Trouble.FLAKY and activity_context().attempt == 1:
        raise ConnectionError("connection reset by peer")


async def after_effect(trouble: Trouble) -> None:
    """What goes wrong once the effect has happened."""
    if trouble is Trouble.SILENT or (trouble is Trouble.SLOW and activity_context().attempt == 1):
        await asyncio.sleep(FOREVER_S)
    if trouble is Trouble.LATE:
        await asyncio.sleep(0.2)


def note_step() -> None:
    """Write down that an attempt began, in one atomic append: the demo counts from this file how
    many attempts ran more than once because of its kills.
    """
    path = os.environ.get(STEP_LOG_VARIABLE)
    if path is None:
        return
    context = activity_context()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{context.idempotency_key}#{context.attempt}\n".encode())
    finally:
        os.close(file)

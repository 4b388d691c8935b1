"""A bank that is not the engine's: the oracle of crash tests and simulations.

Like a bank, it books once for each idempotency key, and a reversal once for each booking. What
its activities do wrong, and how long they take, is its `fate`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel

from amends import DidNotHappen, Failure, Happened, Retry, activity, activity_context

QUICK = Retry(max_attempts=3, initial_s=0.5, jitter=0.0)


class Booking(BaseModel):
    account: str
    cents: int


class Refused(Failure):
    """The bank says no."""


class Broken(Exception):
    """The line was cut before the bank heard anything."""


@dataclass(frozen=True)
class Fate:
    """What happens to one attempt. Seconds beyond the activity's timeout leave it unknown."""

    refuse: bool = False
    broken: bool = False
    before_s: float = 0.0
    after_s: float = 0.0


FINE = Fate()


@dataclass
class Bank:
    """Accounts, and what went on. `tombstones`: what was undone before it was booked is refused
    when it comes after all; a bank without them relies on the engine to undo it again, which it
    does when it hears of it.
    """

    fate: Callable[[str, str, int], Fate] = lambda name, key, attempt: FINE
    tombstones: bool = False
    booked: dict[str, Booking] = field(default_factory=dict)
    reversed: dict[str, str] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)
    undone_by: dict[str, list[str]] = field(default_factory=dict)
    calls: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def standing(self) -> dict[str, Booking]:
        """The bookings that were not reversed."""
        return {key: b for key, b in self.booked.items() if key not in self.reversed}

    def standing_of(self, instance: str) -> set[str]:
        return {key for key in self.standing if key.startswith(f"{instance}/")}

    def total(self) -> int:
        return sum(booking.cents for booking in self.standing.values())

    def balances(self) -> Counter[str]:
        counter: Counter[str] = Counter()
        for booking in self.standing.values():
            counter[booking.account] += booking.cents
        return counter

    # --- what activities do

    async def book(self, booking: Booking) -> str:
        key = activity_context().idempotency_key
        fate = self._called()
        await asyncio.sleep(fate.before_s)
        if fate.broken:
            raise Broken
        if key not in self.booked:
            if fate.refuse or key in self.voided:
                raise Refused(booking.account)
            self.booked[key] = booking
        # What happens after its undo must be heard of, or nobody can know: see `tombstones`.
        await asyncio.sleep(0.0 if key in self.undone_by else fate.after_s)
        return key

    async def reverse(self, receipt: str | None) -> None:
        context = activity_context()
        origin = context.origin_key
        assert origin is not None
        assert receipt in (None, origin), f"the receipt of another step: {receipt} for {origin}"
        fate = self._called()
        await asyncio.sleep(fate.before_s)
        if fate.broken and origin not in self.reversed:
            raise Broken
        undone_by = self.undone_by.setdefault(origin, [])
        if context.idempotency_key not in undone_by:
            undone_by.append(context.idempotency_key)
        self.reverse_by_hand(origin, context.idempotency_key)
        await asyncio.sleep(fate.after_s)

    def reverse_by_hand(self, origin: str, by: str) -> None:
        if origin in self.booked:
            self.reversed.setdefault(origin, by)
        elif self.tombstones:
            self.voided.add(origin)

    async def ask(self) -> Happened[str] | DidNotHappen:
        origin = activity_context().origin_key
        assert origin is not None
        fate = self._called()
        await asyncio.sleep(fate.before_s)
        if fate.broken:
            raise Broken
        if origin in self.booked:
            return Happened(origin)
        # "Did not happen" promises that it will not happen any more.
        self.voided.add(origin)
        return DidNotHappen()

    def _called(self) -> Fate:
        context = activity_context()
        call = (context.activity, context.idempotency_key, context.attempt)
        self.calls.append(call)
        return self.fate(*call)


class _Current:
    """The bank of the run that is going on: activities are declared once, runs are many."""

    bank = Bank()


def the_bank() -> Bank:
    return _Current.bank


def open_bank(bank: Bank) -> Bank:
    _Current.bank = bank
    return bank


@activity(queue="bank", retry=QUICK, timeout=5)
async def pay(booking: Booking) -> str:
    return await the_bank().book(booking)


@pay.undo(retry=QUICK, timeout=5)
async def unpay(booking: Booking, receipt: str | None) -> None:
    await the_bank().reverse(receipt)


@activity(queue="wires", retry=QUICK, timeout=5, total_timeout=60)
async def wire(booking: Booking) -> str:
    """Like `pay`, and the bank can be asked about it."""
    return await the_bank().book(booking)


@wire.undo(retry=QUICK, timeout=5)
async def unwire(booking: Booking, receipt: str | None) -> None:
    await the_bank().reverse(receipt)


@wire.probe
async def ask_about_wire(booking: Booking) -> Happened[str] | DidNotHappen:
    return await the_bank().ask()

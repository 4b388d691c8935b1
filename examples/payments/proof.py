"""The proof: whether what the log says is what was to happen, to the cent.

It reads the file with SQL and folds the events by itself; no line of the engine takes part. Run it
again at any time, also after you have changed an event by hand to see that it notices:

    python -m examples.payments.proof .amends-demo
"""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.payments.log import Fact, read_log
from examples.payments.plan import Order, Plan, amount_text

STORE: Final = "payments.db"
PLAN: Final = "plan.json"

_ACCOUNTS: Final = "account-"
_JOURNALS: Final = "saga.transfer_money-"
_BOOKINGS: Final = {"MoneyWithdrawn": -1, "MoneyRefunded": 1, "MoneyDeposited": 1}
_ENDINGS: Final = {
    "SagaCompleted": "completed",
    "SagaCompensated": "compensated",
    "SagaFailed": "failed",
    "SagaCancelled": "cancelled",
    "SagaTerminated": "terminated",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that must be true: what was looked at, and everything that contradicts it."""

    title: str
    detail: str
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Booking:
    """Money that moved: which way, on which account, how much."""

    type: str
    account: str
    cents: int


class Books:
    """What the log says of the accounts and of the payments, event by event."""

    def __init__(self, log: Iterable[Fact]) -> None:
        self.events = 0
        self.opened: dict[str, tuple[str, int]] = {}
        self.balances: Counter[str] = Counter()
        self.bookings: dict[str, list[Booking]] = defaultdict(list)
        self.started: dict[str, Any] = {}
        self.endings: dict[str, list[str]] = defaultdict(list)
        self.parked: dict[str, set[int]] = defaultdict(set)
        self.overdrawn: list[str] = []
        self.gaps: list[str] = []
        self._versions: Counter[str] = Counter()
        for fact in log:
            self._take(fact)

    def _take(self, fact: Fact) -> None:
        self.events += 1
        if fact.version != self._versions[fact.stream]:
            wanted = self._versions[fact.stream]
            self.gaps.append(f"{fact.stream} has version {fact.version} instead of {wanted}")
        self._versions[fact.stream] = fact.version + 1
        if fact.stream.startswith(_ACCOUNTS):
            self._take_account(fact)
        elif fact.stream.startswith(_JOURNALS):
            self._take_journal(fact)

    def _take_account(self, fact: Fact) -> None:
        account = fact.stream.removeprefix(_ACCOUNTS)
        if fact.type == "AccountOpened":
            if account in self.opened:
                self.gaps.append(f"{fact.stream} was opened twice")
            self.opened[account] = (fact.data["currency"], fact.data["cents"])
            self.balances[account] += fact.data["cents"]
        elif fact.type in _BOOKINGS:
            cents = fact.data["cents"]
            self.balances[account] += _BOOKINGS[fact.type] * cents
            self.bookings[fact.data["payment"]].append(Booking(fact.type, account, cents))
        if self.balances[account] < 0:
            at = f"at position {fact.position}"
            self.overdrawn.append(f"{account} is at {self.balances[account]} cents {at}")

    def _take_journal(self, fact: Fact) -> None:
        key = fact.stream.removeprefix(_JOURNALS)
        if fact.type == "SagaStarted":
            self.started[key] = fact.data["input"]
        elif fact.type in _ENDINGS:
            self.endings[key].append(_ENDINGS[fact.type])
        elif fact.type == "StepParked" or fact.data.get("then") == "park":
            self.parked[key].add(fact.data["seq"])
        elif fact.type == "StepResolved":
            self.parked[key].discard(fact.data["seq"])


def prove(db: Path, plan: Plan) -> list[Claim]:
    """Check everything. Raises sqlite3.Error for a file that is no store at all."""
    try:
        books = Books(read_log(db))
    except (ValueError, KeyError, TypeError) as error:
        return [Claim("the log can be read", "", (f"{type(error).__name__}: {error}",))]
    return [
        *_money_is_there(books, plan),
        _nothing_twice(books, plan),
        _all_settled(books, plan),
        _never_below_zero(books),
        _no_gaps(books),
    ]


def _money_is_there(books: Books, plan: Plan) -> Iterator[Claim]:
    planned = {opening.account: (opening.currency, opening.cents) for opening in plan.openings}
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    faults: dict[str, list[str]] = defaultdict(list)
    for account, (currency, cents) in planned.items():
        before[currency] += cents
        if (opened := books.opened.get(account)) != (currency, cents):
            faults[currency].append(f"{account} was to open with {cents} cents, not {opened}")
    for account, cents in books.balances.items():
        currency = books.opened.get(account, planned.get(account, ("?", 0)))[0]
        after[currency] += cents
    for currency in sorted({*before, *after}):
        was, is_now = (amount_text(sums[currency], currency) for sums in (before, after))
        if was != is_now:
            faults[currency].insert(0, f"it was {was} and is {is_now}")
        detail = f"{is_now} in all accounts, before and after"
        yield Claim("no cent is lost or made", detail, tuple(faults[currency]))


def _nothing_twice(books: Books, plan: Plan) -> Claim:
    faults = []
    known = {order.key for order in plan.orders}
    for payment, bookings in books.bookings.items():
        times = Counter(booking.type for booking in bookings)
        faults += [f"{payment}: {type} {n} times" for type, n in times.items() if n > 1]
        if times["MoneyDeposited"] and times["MoneyRefunded"]:
            faults.append(f"{payment}: both deposited and refunded")
        if payment not in known:
            faults.append(f"{payment}: booked, and no payment of the file")
    bookings_count = sum(len(bookings) for bookings in books.bookings.values())
    return Claim(
        "no payment is applied twice", f"{bookings_count:,} bookings, each once", tuple(faults)
    )


def _all_settled(books: Books, plan: Plan) -> Claim:
    faults = [
        f"{order.key}: {fault}" for order in plan.orders if (fault := _fault_of(order, books))
    ]
    detail = f"{len(plan.orders):,} sagas ended as the accounts say"
    return Claim("every payment is settled", detail, tuple(faults))


def _fault_of(order: Order, books: Books) -> str | None:
    """What is wrong between a payment of the file, its saga and its bookings."""
    started = books.started.get(order.key)
    if started is None:
        return "it was never started"
    wanted = order.model_dump(exclude={"key"})
    if {name: started.get(name) for name in wanted} != wanted:
        return f"it was started as {started}"
    match books.endings.get(order.key, []):
        case [ending]:
            pass
        case []:
            return "its saga has not ended"
        case several:
            return f"its saga ended {len(several)} times"
    if books.parked[order.key]:
        return "its saga waits for a person"
    withdrawn = Booking("MoneyWithdrawn", order.payer, order.cents)
    deposited = Booking("MoneyDeposited", order.payee, order.cents)
    refunded = Booking("MoneyRefunded", order.payer, order.cents)
    allowed: dict[str, list[list[Booking]]] = {
        "completed": [[withdrawn, deposited]],
        "compensated": [[withdrawn, refunded], []],
        "failed": [[]],
    }
    found = books.bookings.get(order.key, [])
    if found in allowed.get(ending, []):
        return None
    booked = ", ".join(f"{b.type} {b.cents} on {b.account}" for b in found) or "nothing"
    return f"its saga ended {ending}, but booked was: {booked}"


def _never_below_zero(books: Books) -> Claim:
    detail = f"{len(books.opened):,} accounts, at any moment of their history"
    return Claim("no account is below zero", detail, tuple(books.overdrawn))


def _no_gaps(books: Books) -> Claim:
    detail = f"{books.events:,} events, numbered 0, 1, 2 … in each"
    return Claim("no stream has a gap", detail, tuple(books.gaps))


def main() -> int:
    """Prove the run of a work directory once more; 1 if anything is untrue, 2 if there is none."""
    if len(sys.argv) != 2:
        print("usage: python -m examples.payments.proof DIRECTORY", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        claims = prove(folder / STORE, Plan.load(folder / PLAN))
    except (OSError, ValueError, sqlite3.Error) as error:
        print(f"{folder} has no finished run to prove: {error}", file=sys.stderr)
        return 2
    for claim in claims:
        print(f"true   {claim.title}: {claim.detail}" if claim.holds else f"FALSE  {claim.title}")
        for fault in claim.faults:
            print(f"           {fault}")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())

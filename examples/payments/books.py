"""Reading the ledger: the trial balance, statements of accounts, and what is wrong.

python -m examples.payments.books .amends-demo                       the trial balance
python -m examples.payments.books .amends-demo ACCOUNT               its statement as of now
python -m examples.payments.books .amends-demo ACCOUNT 2026-05-01    … as of the end of that day
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select

from amends.projections.database import Database
from examples.payments.ledger import CUSTOMER, OPENING, TRANSIT, alarms, balances, entries
from examples.payments.plan import amount_text
from examples.payments.proof import STORE

DATABASE: Final = STORE.replace(".", "-projections.")


class Trial(NamedTuple):
    """What all accounts of one currency come to, in minor units."""

    currency: str
    accounts: int
    transit: int
    opening: int

    @property
    def total(self) -> int:
        """What is left over; 0 if the books balance."""
        return self.accounts + self.transit + self.opening


class Books(NamedTuple):
    """The trial balance, how many postings it is made of, and everything that is wrong."""

    trials: list[Trial]
    postings: int
    faults: tuple[str, ...]


class Statement(NamedTuple):
    """An account as of a day: what it held in the morning, what happened, and what it held then."""

    account: str
    currency: str
    before: int
    lines: list[dict[str, Any]]
    after: int


async def books_in(folder: Path) -> Books:
    """The books of a run, by its folder."""
    async with Database.at(f"sqlite:///{folder / DATABASE}") as database:
        return await read_books(database)


async def read_books(database: Database) -> Books:
    """Read the trial balance, and check the books."""
    c = balances.c
    by_kind = select(c.currency, c.kind, func.sum(c.cents).label("cents"))
    sums: dict[str, dict[str, int]] = {}
    for row in await database.query(by_kind.group_by(c.currency, c.kind)):
        sums.setdefault(row["currency"], {})[row["kind"]] = int(row["cents"])
    trials = [
        Trial(currency, *(of.get(kind, 0) for kind in (CUSTOMER, TRANSIT, OPENING)))
        for currency, of in sorted(sums.items())
    ]
    postings = select(func.count(func.distinct(entries.c.position)).label("n"))
    (counted,) = await database.query(postings)
    return Books(trials, counted["n"], tuple(await _faults(database, trials)))


async def _faults(database: Database, trials: Sequence[Trial]) -> list[str]:
    lopsided = select(entries.c.position).group_by(entries.c.position)
    lopsided = lopsided.having(func.sum(entries.c.cents) != 0)
    sums = select(entries.c.account, func.sum(entries.c.cents).label("cents"))
    summed = sums.group_by(entries.c.account).subquery()
    differs = select(balances.c.account).join(summed, summed.c.account == balances.c.account)
    differs = differs.where(summed.c.cents != balances.c.cents)
    return [
        *(
            f"{trial.currency} does not balance: {amount_text(trial.total, trial.currency)} too much"
            for trial in trials
            if trial.total
        ),
        *(
            f"the posting at position {row['position']} has two sides that differ"
            for row in await database.query(lopsided)
        ),
        *(
            f"{row['account']}: its balance is not what was booked"
            for row in await database.query(differs)
        ),
        *(
            f"payment {row['payment']}: {row['why']} ({row['cents']})"
            for row in await database.query(select(alarms).order_by(alarms.c.since))
        ),
    ]


async def statement(database: Database, account: str, day: date) -> Statement | None:
    """An account as of the end of a day, in UTC; None if nothing was booked on it by then."""
    midnight = datetime.combine(day, time(), UTC)
    booked = select(entries).where(entries.c.account == account)
    until = booked.where(entries.c.at < midnight + timedelta(days=1)).order_by(entries.c.position)
    lines = await database.query(until)
    if not lines:
        return None
    before = sum(line["cents"] for line in lines if line["at"] < midnight)
    today = [line for line in lines if line["at"] >= midnight]
    after = before + sum(line["cents"] for line in today)
    return Statement(account, lines[0]["currency"], before, today, after)


async def _show(folder: Path, account: str | None, day: date) -> int:
    async with Database.at(f"sqlite:///{folder / DATABASE}") as database:
        if account is None:
            books = await read_books(database)
            for line in (*trial_lines(books), *books.faults):
                print(line)
            return 1 if books.faults else 0
        found = await statement(database, account, day)
        if found is None:
            print(f"nothing was booked on {account} by {day}", file=sys.stderr)
            return 1
        for line in statement_lines(found, day):
            print(line)
    return 0


def trial_lines(books: Books) -> list[str]:
    """The trial balance for people, in 80 columns."""
    titles = ("", "in accounts", "on its way", "from outside", "in all")
    rows: list[tuple[str, ...]] = [titles]
    for trial in books.trials:
        numbers = (trial.accounts, trial.transit, trial.opening, trial.total)
        amounts = (amount_text(cents, trial.currency).rpartition(" ")[0] for cents in numbers)
        rows.append((trial.currency, *amounts))
    return ["  {:4}{:>18}{:>14}{:>20}{:>8}".format(*row) for row in rows]


def statement_lines(found: Statement, day: date) -> list[str]:
    """A statement for people."""
    balance = found.before
    lines = [f"{found.account}  {day}", _line("before", "", balance, found.currency)]
    for line in found.lines:
        balance += line["cents"]
        moved = amount_text(line["cents"], found.currency)
        what = f"{line['at']:%H:%M:%S} {line['what']} {line['payment'] or ''}"
        lines.append(_line(what, moved, balance, found.currency))
    return lines


def _line(what: str, moved: str, balance: int, currency: str) -> str:
    return f"  {what:<45}{moved:>18}{amount_text(balance, currency):>20}"


def main(arguments: Sequence[str]) -> int:
    """Show what was asked for; 1 if the books are wrong or there is nothing."""
    if not 1 <= len(arguments) <= 3 or not (Path(arguments[0]) / DATABASE).exists():
        print(__doc__, file=sys.stderr)
        return 2
    folder, account, day = [*arguments, None, None][:3]
    assert folder is not None
    try:
        as_of = datetime.now(UTC).date() if day is None else date.fromisoformat(day)
    except ValueError:
        print(f"{day!r} is no day; write it like 2026-05-01", file=sys.stderr)
        return 2
    return asyncio.run(_show(Path(folder), account, as_of))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

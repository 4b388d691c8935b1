"""What the demo sets out to do, written down before the engine runs: the proof holds it to that.

The accounts of a payment file say nothing of their balances, so these are made up here: enough
for most payments, too little for some, with a limit that a few exceed and a payee or two frozen.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from examples.payments.pain001 import MINOR_DIGITS, Party, Payment

#: The share of payments of a currency that is within the limit of its accounts.
WITHIN_LIMIT: Final = 0.98
#: One payer in so many holds too little, if it makes at least so many payments.
PAYERS_PER_POOR: Final = 10
POOR_PAYMENTS_MIN: Final = 4
#: One payee in so many is frozen, and never more than this.
PAYEES_PER_FROZEN: Final = 10
FROZEN_MAX: Final = 2


class _Planned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(_Planned):
    """One payment: `cents` minor units of `currency`, from one account to another."""

    key: str
    payer: str
    payee: str
    cents: int
    currency: str


class Opening(_Planned):
    """An account as it is before the first payment."""

    account: str
    currency: str
    cents: int
    limit_cents: int
    poor: bool = False
    frozen: bool = False


class Plan(_Planned):
    """Every payment, and every account that they need."""

    orders: tuple[Order, ...]
    openings: tuple[Opening, ...]

    def save(self, path: Path) -> None:
        """Write it down."""
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what `save` wrote. Raises OSError, and ValueError for anything else."""
        return cls.model_validate_json(path.read_bytes())


def account_of(party: Party) -> str:
    """What the ledger calls an account: the IBAN, or the bank's own number together with its BIC."""
    return party.iban or f"other:{party.account}" + (f"@{party.bic}" if party.bic else "")


def amount_text(cents: int, currency: str) -> str:
    """An amount for people: 1,234.50 EUR."""
    digits = MINOR_DIGITS.get(currency, 2)
    whole, part = divmod(abs(cents), 10**digits)
    fraction = f".{part:0{digits}}" if digits else ""
    return f"{'-' if cents < 0 else ''}{whole:,}{fraction} {currency}"


def make_plan(payments: Sequence[Payment], seed: int) -> Plan:
    """Plan to pay `payments`; what is made up about their accounts is the same for a seed."""
    orders = tuple(
        Order(
            key=payment.key,
            payer=account_of(payment.payer),
            payee=account_of(payment.payee),
            cents=payment.amount.cents,
            currency=payment.amount.currency,
        )
        for payment in payments
    )
    return Plan(orders=orders, openings=tuple(_openings(orders, random.Random(seed))))


def _openings(orders: Sequence[Order], rng: random.Random) -> Iterable[Opening]:
    currencies: dict[str, str] = {}
    spent: Counter[str] = Counter()
    for order in orders:
        currencies.setdefault(order.payer, order.currency)
        currencies.setdefault(order.payee, order.currency)
        spent[order.payer] += order.cents
    limits = _limits(orders)
    poor = _poor(orders, rng)
    frozen = _frozen(orders, rng)
    for account, currency in currencies.items():
        share = rng.uniform(0.3, 0.7) if account in poor else rng.uniform(1.0, 1.5)
        yield Opening(
            account=account,
            currency=currency,
            cents=round(spent[account] * share),
            limit_cents=limits[currency],
            poor=account in poor,
            frozen=account in frozen,
        )


def _limits(orders: Sequence[Order]) -> Mapping[str, int]:
    """The limit by currency: the amount that all but the largest payments stay within."""
    amounts: dict[str, list[int]] = defaultdict(list)
    for order in orders:
        amounts[order.currency].append(order.cents)
    return {
        currency: sorted(cents)[min(int(len(cents) * WITHIN_LIMIT), len(cents) - 1)]
        for currency, cents in amounts.items()
    }


def _poor(orders: Sequence[Order], rng: random.Random) -> set[str]:
    made = Counter(order.payer for order in orders)
    candidates = sorted(payer for payer, count in made.items() if count >= POOR_PAYMENTS_MIN)
    wanted = max(1, len(candidates) // PAYERS_PER_POOR) if candidates else 0
    return set(rng.sample(candidates, wanted))


def _frozen(orders: Sequence[Order], rng: random.Random) -> set[str]:
    """Payees that pay little themselves, so that what fails is mostly deposits."""
    made = Counter(order.payer for order in orders)
    payees = sorted({order.payee for order in orders}, key=lambda payee: (made[payee], payee))
    wanted = min(FROZEN_MAX, len(payees) // PAYEES_PER_FROZEN)
    return set(rng.sample(payees[: len(payees) // 2], wanted))

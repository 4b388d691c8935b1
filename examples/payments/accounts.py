"""Accounts as event-sourced aggregates: the demo's ledger."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from amends import Aggregate, Failure, applies

#: What an account may pay out in one transfer, in minor units.
DEFAULT_LIMIT: Final = 200_000


class LedgerEvent(BaseModel):
    """Base of the ledger's facts. Amounts are in minor units (cents) of the account's currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AccountOpened(LedgerEvent):
    """An account came into being with some money in it."""

    currency: str
    cents: int
    limit_cents: int = DEFAULT_LIMIT


class AccountFrozen(LedgerEvent):
    """An account takes part in no payment any more."""

    why: str


class MoneyWithdrawn(LedgerEvent):
    """Money left the account for a payment."""

    payment: str
    cents: int


class MoneyRefunded(LedgerEvent):
    """Money came back, because its payment could not be completed."""

    payment: str
    cents: int


class MoneyDeposited(LedgerEvent):
    """Money arrived from a payment."""

    payment: str
    cents: int


class NoSuchAccount(Failure):
    """The ledger has no account of that number."""


class AccountIsFrozen(Failure):
    """A frozen account neither pays nor is paid."""


class InsufficientFunds(Failure):
    """The account holds less than the payment."""


class LimitExceeded(Failure):
    """The payment is above what the account may pay at once."""


class WrongCurrency(Failure):
    """The account is held in another currency."""


class Account(Aggregate):
    """One account. Its balance is the sum of its events, and never below zero."""

    category = "account"
    events = (AccountOpened, AccountFrozen, MoneyWithdrawn, MoneyRefunded, MoneyDeposited)

    currency = ""
    cents = 0
    limit_cents = 0
    frozen = ""

    def open(self, currency: str, cents: int, limit_cents: int = DEFAULT_LIMIT) -> None:
        """Open the account, once: opening again changes nothing."""
        if not self.exists:
            self.record(AccountOpened(currency=currency, cents=cents, limit_cents=limit_cents))

    def freeze(self, why: str) -> None:
        """Let it take part in no payment any more."""
        if not self.frozen:
            self.record(AccountFrozen(why=why))

    def withdraw(self, payment: str, cents: int, currency: str) -> None:
        """Take money out. Raises a Failure that says why not."""
        self._check_usable(currency)
        if cents > self.limit_cents:
            raise LimitExceeded(f"{cents} is above the limit of {self.limit_cents}")
        if cents > self.cents:
            raise InsufficientFunds(f"{cents} is more than the {self.cents} there are")
        self.record(MoneyWithdrawn(payment=payment, cents=cents))

    def deposit(self, payment: str, cents: int, currency: str) -> None:
        """Put money in. Raises a Failure that says why not."""
        self._check_usable(currency)
        self.record(MoneyDeposited(payment=payment, cents=cents))

    def refund(self, payment: str, cents: int) -> None:
        """Put money back that had been withdrawn. A frozen account is refunded too."""
        self.record(MoneyRefunded(payment=payment, cents=cents))

    def _check_usable(self, currency: str) -> None:
        if not self.exists:
            raise NoSuchAccount(self.id)
        if self.frozen:
            raise AccountIsFrozen(self.frozen)
        if currency != self.currency:
            raise WrongCurrency(f"{currency} into an account held in {self.currency}")

    @applies(AccountOpened)
    def _opened(self, event: AccountOpened) -> None:
        self.currency = event.currency
        self.cents = event.cents
        self.limit_cents = event.limit_cents

    @applies(AccountFrozen)
    def _froze(self, event: AccountFrozen) -> None:
        self.frozen = event.why

    @applies(MoneyWithdrawn)
    def _withdrew(self, event: MoneyWithdrawn) -> None:
        self.cents -= event.cents

    @applies(MoneyDeposited, MoneyRefunded)
    def _received(self, event: MoneyDeposited | MoneyRefunded) -> None:
        self.cents += event.cents

"""The ledger: double-entry books over the accounts' events, and a standing check of them.

Each booking has two sides that sum to nothing: money that leaves an account is in transit for its
payment, and arrives from there, or comes back. So the books say at any moment what is under way for
which payment, and a payment that is over must have nothing there.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table

from amends.domain import events as e
from amends.projections import Event, Moment, Projection, Rows, on, on_every
from examples.payments.accounts import (
    Account,
    AccountFrozen,
    AccountOpened,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
)

_metadata: Final = MetaData()

entries: Final = Table(
    "ledger_entries",
    _metadata,
    Column("position", BigInteger, primary_key=True),
    Column("account", String, primary_key=True),
    Column("cents", BigInteger, nullable=False),
    Column("currency", String, nullable=False),
    Column("what", String, nullable=False),
    Column("payment", String),
    Column("at", Moment, nullable=False),
    Index("ledger_entries_by_account", "account", "at"),
)
balances: Final = Table(
    "ledger_balances",
    _metadata,
    Column("account", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("currency", String, nullable=False),
    Column("cents", BigInteger, nullable=False),
)
payments: Final = Table(
    "ledger_payments",
    _metadata,
    Column("payment", String, primary_key=True),
    Column("cents", BigInteger, nullable=False),
    Column("ending", String),
)
alarms: Final = Table(
    "ledger_alarms",
    _metadata,
    Column("payment", String, primary_key=True),
    Column("why", String, nullable=False),
    Column("cents", BigInteger, nullable=False),
    Column("since", Moment, nullable=False),
)

#: What an account of the books is: a customer's, money on its way, or where it came from.
CUSTOMER, TRANSIT, OPENING = "account", "transit", "opening"


class Ledger(Projection):
    """The books of all accounts. What is wrong with a payment is in `alarms` while it is so."""

    name = "ledger"
    version = 1
    tables = (entries, balances, payments, alarms)
    streams = ("account-", "saga.transfer_money-")
    events = Account

    @on(AccountOpened)
    def opened(self, event: Event[AccountOpened], rows: Rows) -> None:
        """What an account holds at first comes from outside."""
        fact = event.data
        _book(event, rows, fact.cents, fact.currency, OPENING, CUSTOMER)

    @on(MoneyWithdrawn)
    def withdrawn(self, event: Event[MoneyWithdrawn], rows: Rows) -> None:
        """Money is on its way."""
        _book(event, rows, event.data.cents, _currency(event, rows), CUSTOMER, TRANSIT)

    @on(MoneyDeposited, MoneyRefunded)
    def arrived(self, event: Event[MoneyDeposited | MoneyRefunded], rows: Rows) -> None:
        """It has arrived, or come back."""
        _book(event, rows, event.data.cents, _currency(event, rows), TRANSIT, CUSTOMER)

    @on(e.SagaStarted)
    def began(self, event: Event[e.SagaStarted], rows: Rows) -> None:
        """From here on money may move for it."""
        cents = event.json["input"]["cents"]
        rows.upsert(payments, payment=event.stream_id, cents=cents, ending=None)
        _check(event, rows, event.stream_id)

    @on(*e.FINAL_EVENTS)
    def over(self, event: Event[Any], rows: Rows) -> None:
        """From here on nothing may be on its way for it."""
        rows.update(payments, payment=event.stream_id, ending=event.type)
        _check(event, rows, event.stream_id)

    @on_every
    def other(self, event: Event[Any], rows: Rows) -> None:
        """Of the journals, beginnings and ends are enough; of the accounts nothing is overlooked."""
        if event.type != AccountFrozen.__name__ and event.stream.startswith("account-"):
            raise ValueError(f"the books do not know {event.type}")


def _book(
    event: Event[Any], rows: Rows, cents: int, currency: str, source: str, target: str
) -> None:
    """Book both sides of an event."""
    payment = getattr(event.data, "payment", None)
    names = {
        CUSTOMER: event.stream_id,
        TRANSIT: f"{TRANSIT} {payment}",
        OPENING: f"{OPENING} {currency}",
    }
    for kind, amount in ((source, -cents), (target, cents)):
        account = names[kind]
        rows.insert(
            entries, position=event.position, account=account, cents=amount, currency=currency,
            what=event.type, payment=payment, at=event.at,
        )  # fmt: skip
        before = rows.get(balances, account=account) or {"cents": 0}
        after = before["cents"] + amount
        rows.upsert(balances, account=account, kind=kind, currency=currency, cents=after)
    if payment is not None:
        _check(event, rows, payment)


def _currency(event: Event[Any], rows: Rows) -> str:
    """The currency that an account was opened in."""
    account = rows.get(balances, account=event.stream_id)
    if account is None:
        raise ValueError(f"money moved on {event.stream_id}, which was never opened")
    return str(account["currency"])


def _check(event: Event[Any], rows: Rows, payment: str) -> None:
    """The standing check: raise an alarm about a payment, or take it back."""
    known = rows.get(payments, payment=payment)
    row = rows.get(balances, account=f"{TRANSIT} {payment}")
    cents = 0 if row is None else row["cents"]
    if known is None:
        why = "money moved, and no such payment was begun"
    elif cents and known["ending"]:
        why = f"it is over ({known['ending']}), and money is on its way"
    elif cents not in (0, known["cents"]):
        why = f"on its way is neither nothing nor its amount, which is {known['cents']}"
    else:
        rows.delete(alarms, payment=payment)
        return
    raised = rows.get(alarms, payment=payment)
    since = event.at if raised is None else raised["since"]
    rows.upsert(alarms, payment=payment, why=why, cents=cents, since=since)

"""From a payment file to accounts and started sagas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from amends import Client, Repository
from examples.payments.accounts import Account
from examples.payments.pain001 import Batch, Payment, Rejection, read_batch
from examples.payments.plan import Opening, Order, Plan, account_of
from examples.payments.transfer import Transfer, transfer_money

T = TypeVar("T")

#: So many appends or starts are on their way at once: the store commits them together.
TOGETHER: Final = 200


def read_payments(path: Path) -> Batch:
    """Read a payment file, and hold every account to the currency of its first payment.

    The file does not say which currency an account is held in, so it is read twice: once to learn
    that, and once to reject by line what does not fit it.

    Raises PaymentFileError and OSError.
    """
    first = read_batch(path)
    batch = read_batch(path, accounts=_currencies(first.payments))
    refused = {id(payment): reason for payment in batch.payments if (reason := _unusable(payment))}
    batch.rejected.extend(
        Rejection(payment.line, payment.end_to_end_id, refused[id(payment)])
        for payment in batch.payments
        if id(payment) in refused
    )
    batch.rejected.sort(key=lambda rejection: rejection.line)
    batch.payments[:] = [payment for payment in batch.payments if id(payment) not in refused]
    return batch


def _currencies(payments: Iterable[Payment]) -> Mapping[str, str]:
    """The currency by account number, from the first payment that contradicts no earlier one."""
    held_in: dict[str, str] = {}
    banks: dict[str, str] = {}
    several: set[str] = set()
    for payment in payments:
        numbers = [party.account for party in (payment.payer, payment.payee)]
        currency = payment.amount.currency
        for party in (payment.payer, payment.payee):
            if banks.setdefault(party.account, account_of(party)) != account_of(party):
                several.add(party.account)
        if all(held_in.get(number, currency) == currency for number in numbers):
            held_in.update(dict.fromkeys(numbers, currency))
    # Two banks may use one number, in two currencies: these accounts decide for themselves.
    return {number: currency for number, currency in held_in.items() if number not in several}


def _unusable(payment: Payment) -> str | None:
    """Why the ledger cannot have a payment that the file may have."""
    names = (payment.key, account_of(payment.payer), account_of(payment.payee))
    if all(name.isprintable() for name in names):
        return None
    return "an id or account number has characters that cannot be printed"


async def open_accounts(client: Client, plan: Plan) -> None:
    """Open every account with its money, and freeze those that are to be frozen; each once."""
    accounts = Repository(client.backend.store, Account)

    async def open_one(opening: Opening) -> None:
        def decide(account: Account) -> None:
            account.open(opening.currency, opening.cents, opening.limit_cents)
            if opening.frozen:
                account.freeze("the court has frozen it")

        await accounts.execute(opening.account, decide, key=f"opening/{opening.account}")

    await _all(open_one, plan.openings)


async def submit(client: Client, plan: Plan) -> None:
    """Start a saga for every payment, under the payment's own key.

    That key is what makes it safe to submit a file again: a saga that exists is left alone.
    """

    async def submit_one(order: Order) -> None:
        transfer = Transfer(
            payment=order.key,
            payer=order.payer,
            payee=order.payee,
            cents=order.cents,
            currency=order.currency,
        )
        await client.submit(transfer_money, transfer, id=order.key)

    await _all(submit_one, plan.orders)


async def _all(act: Callable[[T], Awaitable[None]], on: Sequence[T]) -> None:
    for chunk in _chunks(on, TOGETHER):
        await asyncio.gather(*(act(one) for one in chunk))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

"""Writes a valid payment file of any size, the same bytes for the same seed.

The accounts belong to nobody: their IBANs have the form and the check digits of their countries
and are otherwise random figures.

    sample = write_sample("work/batch.xml", payments=1000)
    read_batch("work/batch.xml", accounts=sample.currencies)

On request some payments more are in it, each spoiled in one way that senders do spoil them.
"""

from __future__ import annotations

import io
import os
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Final, TextIO

from examples.payments.pain001 import Money, check_digits

CURRENCY: Final = "EUR"
# The seed is part of the message id, which has 35 characters.
SEED_MAX: Final = 2**64 - 1
MESSAGE_ID: Final = "SAMPLE-{seed}-{payments}"
CREATED_AT: Final = "2025-01-15T09:30:00Z"
EXECUTION_DATE: Final = "2025-01-16"
_CENTS_MIN, _CENTS_MAX = 100, 250_000


@dataclass(frozen=True, slots=True)
class SampleAccount:
    """An account that sample payments are made between."""

    name: str
    iban: str
    currency: str = CURRENCY


class Fault(StrEnum):
    """What is wrong with a spoiled payment; a reader rejects it for that and nothing else."""

    MISTYPED_IBAN = "a figure of the payee's IBAN is mistyped"
    DECIMAL_COMMA = "the amount has a decimal comma"
    OTHER_CURRENCY = "the amount is in a currency that neither account is held in"
    NO_AMOUNT = "the amount is zero"
    TO_ITSELF = "payer and payee are one account"
    USED_ID = "the end-to-end id is that of the first payment"


@dataclass(frozen=True, slots=True)
class SamplePayment:
    """A payment before it is written: its accounts by their place in `Sample.accounts`."""

    payer: int
    payee: int
    cents: int
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was written, to compare with what is read or paid."""

    accounts: tuple[SampleAccount, ...]
    payments: tuple[SamplePayment, ...]

    @property
    def currencies(self) -> Mapping[str, str]:
        """The currency by IBAN, as `read_batch` takes it."""
        return {account.iban: account.currency for account in self.accounts}

    @property
    def total(self) -> Money:
        """The sum of all payments, as the control sum of the file states it."""
        return Money(cents=sum(p.cents for p in self.payments), currency=CURRENCY)


def write_sample(
    path: str | os.PathLike[str],
    *,
    payments: int = 1000,
    accounts: int = 100,
    seed: int = 1,
    spoiled: int = 0,
) -> Sample:
    """Write a pain.001.001.09 file of `payments` payments between `accounts` accounts to `path`.

    `spoiled` payments more are in it that cannot be paid, one after the other for each `Fault`.

    The folder must exist; a file there is replaced. Raises `ValueError` for fewer than one payment
    or two accounts or a seed out of range, and `OSError` when the file cannot be written.
    """
    sample = make_sample(payments=payments, accounts=accounts, seed=seed, spoiled=spoiled)
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        _write(file, sample, seed, "09")
    return sample


def sample_xml(sample: Sample, *, seed: int = 1, version: str = "09") -> bytes:
    """The same file as bytes, in any `version` from "03" to "12" of pain.001.001."""
    buffer = io.StringIO()
    _write(buffer, sample, seed, version)
    return buffer.getvalue().encode()


def make_sample(
    *, payments: int = 1000, accounts: int = 100, seed: int = 1, spoiled: int = 0
) -> Sample:
    """Choose accounts and payments. Raises `ValueError` as `write_sample` does."""
    if payments < 1 or accounts < 2:
        raise ValueError("a sample needs at least one payment and two accounts to make it between")
    if not 0 <= seed <= SEED_MAX:
        raise ValueError(f"a seed is between 0 and {SEED_MAX}, and this is {seed}")
    rng = random.Random(seed)
    chosen = [_payment(rng, accounts) for _ in range(payments)]
    made = tuple(_accounts(rng, accounts))
    # Behind the sound ones of the same payer, so that the file begins with what is right.
    chosen += [_spoil(rng.choice(chosen), fault) for fault in islice(cycle(Fault), max(spoiled, 0))]
    # Files carry the payments of one payer together, in one block.
    return Sample(made, tuple(sorted(chosen, key=lambda payment: payment.payer)))


def _spoil(like: SamplePayment, fault: Fault) -> SamplePayment:
    payee = like.payer if fault is Fault.TO_ITSELF else like.payee
    cents = 0 if fault is Fault.NO_AMOUNT else like.cents
    return SamplePayment(like.payer, payee, cents, fault)


def _payment(rng: random.Random, accounts: int) -> SamplePayment:
    payer, payee = rng.sample(range(accounts), 2)
    # Most payments are small and a few are large, as in the files of real senders.
    cents = int(_CENTS_MIN * (_CENTS_MAX / _CENTS_MIN) ** rng.random())
    return SamplePayment(payer, payee, cents)


def _accounts(rng: random.Random, count: int) -> Iterator[SampleAccount]:
    taken: set[str] = set()
    countries = sorted(_BBANS)
    for number in range(1, count + 1):
        country = countries[number % len(countries)]
        iban = _iban(rng, country)
        while iban in taken:
            iban = _iban(rng, country)
        taken.add(iban)
        yield SampleAccount(f"Account {number:03}", iban)


def _iban(rng: random.Random, country: str) -> str:
    bban = _BBANS[country](rng)
    return f"{country}{check_digits(country, bban)}{bban}"


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.ascii_uppercase, k=count))


def _belgian(rng: random.Random) -> str:
    """Ten figures and their remainder by 97, where 97 stands for no remainder."""
    number = _digits(rng, 10)
    return f"{number}{int(number) % 97 or 97:02}"


def _french(rng: random.Random) -> str:
    """Bank, branch and account, and the RIB key over all three (letters are not used here)."""
    bank, branch, account = _digits(rng, 5), _digits(rng, 5), _digits(rng, 11)
    key = 97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97
    return f"{bank}{branch}{account}{key:02}"


def _spanish(rng: random.Random) -> str:
    """Bank and branch, two control figures, and the account: each half has a figure of its own."""
    weights = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)
    branch, account = _digits(rng, 8), _digits(rng, 10)
    control = ""
    for half in ("00" + branch, account):
        left = 11 - sum(w * int(f) for w, f in zip(weights, half, strict=True)) % 11
        control += {10: "1", 11: "0"}.get(left, str(left))
    return f"{branch}{control}{account}"


_BBANS: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "AT": lambda rng: _digits(rng, 16),
    "BE": _belgian,
    "DE": lambda rng: _digits(rng, 18),
    "ES": _spanish,
    "FR": _french,
    "IE": lambda rng: _letters(rng, 4) + _digits(rng, 14),
    "LT": lambda rng: _digits(rng, 16),
    "LU": lambda rng: _digits(rng, 16),
    "LV": lambda rng: _letters(rng, 4) + _digits(rng, 13),
    "NL": lambda rng: _letters(rng, 4) + _digits(rng, 10),
}


def _write(out: TextIO, sample: Sample, seed: int, version: str) -> None:
    # Nothing is escaped: every text below is made here, of letters, figures and spaces.
    message_id = MESSAGE_ID.format(seed=seed, payments=len(sample.payments))
    out.write(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.{version}">\n'
        "  <CstmrCdtTrfInitn>\n"
        "    <GrpHdr>\n"
        f"      <MsgId>{message_id}</MsgId>\n"
        f"      <CreDtTm>{CREATED_AT}</CreDtTm>\n"
        f"{_sums(sample.payments)}"
        "      <InitgPty>\n        <Nm>Sample sender</Nm>\n      </InitgPty>\n"
        "    </GrpHdr>\n"
    )
    number = 0
    for payer, group in groupby(sample.payments, key=lambda payment: payment.payer):
        payments = tuple(group)
        out.write(_block_head(sample.accounts[payer], payer + 1, payments, version))
        for payment in payments:
            number += 1
            out.write(_transaction(payment, sample.accounts[payment.payee], number))
        out.write("    </PmtInf>\n")
    out.write("  </CstmrCdtTrfInitn>\n</Document>\n")


def _sums(payments: tuple[SamplePayment, ...]) -> str:
    total = _euros(sum(payment.cents for payment in payments))
    return f"      <NbOfTxs>{len(payments)}</NbOfTxs>\n      <CtrlSum>{total}</CtrlSum>\n"


def _euros(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _block_head(
    payer: SampleAccount, number: int, payments: tuple[SamplePayment, ...], version: str
) -> str:
    date = EXECUTION_DATE if version < "08" else f"<Dt>{EXECUTION_DATE}</Dt>"
    return (
        "    <PmtInf>\n"
        f"      <PmtInfId>BLOCK-{number:03}</PmtInfId>\n"
        "      <PmtMtd>TRF</PmtMtd>\n"
        f"{_sums(payments)}"
        f"      <ReqdExctnDt>{date}</ReqdExctnDt>\n"
        f"      <Dbtr>\n        <Nm>{payer.name}</Nm>\n      </Dbtr>\n"
        f"      <DbtrAcct>\n        <Id>\n          <IBAN>{payer.iban}</IBAN>\n        </Id>\n"
        f"        <Ccy>{payer.currency}</Ccy>\n      </DbtrAcct>\n"
        # The bank follows from the IBAN; the element is mandatory all the same.
        "      <DbtrAgt>\n        <FinInstnId>\n          <Othr>\n"
        "            <Id>NOTPROVIDED</Id>\n"
        "          </Othr>\n        </FinInstnId>\n      </DbtrAgt>\n"
    )


def _transaction(payment: SamplePayment, payee: SampleAccount, number: int) -> str:
    fault = payment.fault
    name = f"{1 if fault is Fault.USED_ID else number:06}"
    amount, iban = _euros(payment.cents), payee.iban
    currency = "USD" if fault is Fault.OTHER_CURRENCY else payee.currency
    if fault is Fault.DECIMAL_COMMA:
        amount = amount.replace(".", ",")
    if fault is Fault.MISTYPED_IBAN:
        iban = f"{iban[:-1]}{(int(iban[-1]) + 1) % 10}"
    return (
        "      <CdtTrfTxInf>\n"
        "        <PmtId>\n"
        f"          <InstrId>INSTR-{number:06}</InstrId>\n"
        f"          <EndToEndId>E2E-{name}</EndToEndId>\n"
        "        </PmtId>\n"
        "        <Amt>\n"
        f'          <InstdAmt Ccy="{currency}">{amount}</InstdAmt>\n'
        "        </Amt>\n"
        f"        <Cdtr>\n          <Nm>{payee.name}</Nm>\n        </Cdtr>\n"
        "        <CdtrAcct>\n          <Id>\n"
        f"            <IBAN>{iban}</IBAN>\n"
        "          </Id>\n        </CdtrAcct>\n"
        f"        <RmtInf>\n          <Ustrd>Invoice {number:06}</Ustrd>\n        </RmtInf>\n"
        "      </CdtTrfTxInf>\n"
    )

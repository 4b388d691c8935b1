"""Reads customer credit transfer initiations of ISO 20022 (pain.001.001.03 to .12).

    batch = read_batch("batch.xml", accounts={"DE89370400440532013000": "EUR"})
    for rejection in batch.rejected:
        print(rejection.line, rejection.reason)

A payment is paid or rejected by itself. What is wrong with the file as a whole is either a finding,
where the payments can be read all the same, or a `PaymentFileError`.
"""

from __future__ import annotations

from examples.payments.pain001.errors import (
    BadHeader,
    FileTooLarge,
    NotXml,
    PaymentFileError,
    UnknownVersion,
    UnsafeXml,
    WrongMessage,
)
from examples.payments.pain001.iban import IBAN_LENGTHS, InvalidIban, check_digits, parse_iban
from examples.payments.pain001.models import Batch, Finding, Party, Payment, Rejection
from examples.payments.pain001.money import MINOR_DIGITS, InvalidAmount, Money
from examples.payments.pain001.reader import read_batch
from examples.payments.pain001.xml_reader import Limits

__all__ = [
    "IBAN_LENGTHS",
    "MINOR_DIGITS",
    "BadHeader",
    "Batch",
    "FileTooLarge",
    "Finding",
    "InvalidAmount",
    "InvalidIban",
    "Limits",
    "Money",
    "NotXml",
    "Party",
    "Payment",
    "PaymentFileError",
    "Rejection",
    "UnknownVersion",
    "UnsafeXml",
    "WrongMessage",
    "check_digits",
    "parse_iban",
    "read_batch",
]

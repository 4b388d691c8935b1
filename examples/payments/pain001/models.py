"""What a payment file is read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from examples.payments.pain001.money import Money

# What the implementation guides put where a payment has no end-to-end id of its own.
NOT_PROVIDED = "NOTPROVIDED"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Party(_Frozen):
    """A payer or payee: a name and an account.

    `account` is the IBAN, checked and in capitals, where `scheme` is "IBAN"; with "OTHR" it is the
    bank's own number as the file has it, unique only together with `bic`.
    """

    name: str
    account: str
    scheme: Literal["IBAN", "OTHR"] = "IBAN"
    bic: str | None = None

    @property
    def iban(self) -> str | None:
        """The IBAN, or `None` where the account is known by another number."""
        return self.account if self.scheme == "IBAN" else None

    def same_account(self, other: Party) -> bool:
        """Whether both name one account. The BIC matters only to numbers that are not IBANs."""
        if (self.scheme, self.account) != (other.scheme, other.account):
            return False
        return self.scheme == "IBAN" or self.bic == other.bic


class Payment(_Frozen):
    """One credit transfer: pay `amount` from `payer` to `payee` on `execution_date`.

    `line` is where its `CdtTrfTxInf` begins in the file, from 1.
    """

    end_to_end_id: str
    instruction_id: str | None
    payment_info_id: str
    payer: Party
    payee: Party
    amount: Money
    remittance: str
    execution_date: date
    line: int

    @property
    def key(self) -> str:
        """What tells this payment from all others of its file, and stays when it is read again."""
        return payment_key(self.end_to_end_id, self.payment_info_id, self.instruction_id)


def payment_key(end_to_end_id: str, payment_info_id: str, instruction_id: str | None) -> str:
    """The end-to-end id; where it is "NOTPROVIDED", the ids of block and instruction instead."""
    if end_to_end_id != NOT_PROVIDED:
        return end_to_end_id
    return f"{NOT_PROVIDED}/{payment_info_id}/{instruction_id or ''}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One payment of the file that is not to be paid, and every reason why, joined by "; "."""

    line: int
    end_to_end_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with the file around its payments, such as a control sum that is off."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A payment file that was read to its end.

    Every `CdtTrfTxInf` of the file is in exactly one of `payments` and `rejected`, in file order.
    With `findings` the file is not what its sender meant to send: whether to pay it is the
    caller's decision. `created_at` is aware only if the file gives a time zone.
    """

    message_id: str
    created_at: datetime
    version: str
    payments: list[Payment] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

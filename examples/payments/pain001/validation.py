"""One payment at a time: what a record of the file says, and everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from examples.payments.pain001.faults import Faults, Value, read_one
from examples.payments.pain001.iban import InvalidIban, parse_iban
from examples.payments.pain001.layout import Layout
from examples.payments.pain001.models import NOT_PROVIDED, Party, Payment, Rejection, payment_key
from examples.payments.pain001.money import InvalidAmount, Money
from examples.payments.pain001.values import parse_date, parse_datetime, parse_decimal, shown
from examples.payments.pain001.xml_reader import Record

# Lengths of ISO 20022's own text types: Max35Text, Max140Text, Max34Text.
ID_CHARS_MAX = 35
NAME_CHARS_MAX = 140
OTHER_ACCOUNT_CHARS_MAX = 34
# Longer than any valid one, so that the message can say what is wrong rather than "too long".
_CODE_CHARS_MAX = 60
_BIC = re.compile(r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?")


@dataclass(frozen=True, slots=True)
class Block:
    """What all payments of one `PmtInf` have in common; `None` where `faults` say why."""

    id: str | None
    payer: Party | None
    execution_date: date | None
    faults: tuple[tuple[int, str], ...]


def read_block(record: Record, layout: Layout) -> Block:
    """The block as read so far: by the order of the schema, all but its payments comes first."""
    faults = Faults()
    block_id = read_one(record, "PmtInfId", "the id of the block", faults, chars_max=ID_CHARS_MAX)
    method = read_one(record, "PmtMtd", "the payment method", faults, chars_max=_CODE_CHARS_MAX)
    if method is not None and method.text not in ("TRF", "TRA"):
        faults.add(method.line, f"the payment method is {shown(method.text)}, no credit transfer")
    payer = _read_party(record, "Dbtr", "payer", layout, faults)
    day = _read_execution_date(record, layout, faults)
    return Block(None if block_id is None else block_id.text, payer, day, tuple(faults.found))


def _read_execution_date(record: Record, layout: Layout, faults: Faults) -> date | None:
    what = "the requested execution date"
    present = [path for path in layout.dates if path in record.fields]
    if len(present) > 1:
        line = record.fields[present[1]][0].line
        faults.add(line, f"{what} is there as {' and as '.join(present)}")
        return None
    path = present[0] if present else layout.dates[0]
    value = read_one(record, path, what, faults, chars_max=_CODE_CHARS_MAX)
    if value is None:
        return None
    if path.endswith("DtTm"):
        moment = parse_datetime(value.text)
        day = None if moment is None else moment.date()
    else:
        day = parse_date(value.text)
    if day is None:
        faults.add(value.line, f"{what} {shown(value.text)} is not a date of ISO 8601")
    return day


def _read_party(
    record: Record, role: str, noun: str, layout: Layout, faults: Faults
) -> Party | None:
    name = read_one(record, f"{role}/Nm", f"the {noun}'s name", faults, chars_max=NAME_CHARS_MAX)
    account = _read_account(record, f"{role}Acct", noun, faults)
    bic = read_one(
        record,
        f"{role}Agt/FinInstnId/{layout.bic}",
        f"the BIC of the {noun}'s bank",
        faults,
        chars_max=_CODE_CHARS_MAX,
        required=False,
    )
    if bic is not None and _BIC.fullmatch(bic.text) is None:
        faults.add(bic.line, f"the BIC of the {noun}'s bank is malformed: {shown(bic.text)}")
    if name is None or account is None:
        return None
    number, scheme = account
    return Party(name=name.text, account=number, scheme=scheme, bic=bic.text if bic else None)


def _read_account(
    record: Record, element: str, noun: str, faults: Faults
) -> tuple[str, Literal["IBAN", "OTHR"]] | None:
    iban_path, other_path, proxy_path = (
        f"{element}/{tail}" for tail in ("Id/IBAN", "Id/Othr/Id", "Prxy/Id")
    )
    if other_path in record.fields:
        if iban_path in record.fields:
            line = record.fields[other_path][0].line
            faults.add(line, f"the {noun}'s account is there as IBAN and as Othr")
            return None
        what = f"the {noun}'s account number"
        other = read_one(record, other_path, what, faults, chars_max=OTHER_ACCOUNT_CHARS_MAX)
        return None if other is None else (other.text, "OTHR")
    if proxy_path in record.fields and iban_path not in record.fields:
        line = record.fields[proxy_path][0].line
        faults.add(
            line, f"the {noun}'s account is known by a proxy alone, which only banks resolve"
        )
        return None
    iban = read_one(record, iban_path, f"the {noun}'s IBAN", faults, chars_max=_CODE_CHARS_MAX)
    if iban is None:
        return None
    try:
        return parse_iban(iban.text), "IBAN"
    except InvalidIban as error:
        faults.add(iban.line, f"the {noun}'s IBAN {error}")
        return None


def stated_amount(record: Record) -> Decimal | None:
    """What the payment adds to control sums, in no currency at all; `None` if it is no number.

    Rejected payments count too: the sender's sum is over everything the file was to hold.
    """
    for path in ("Amt/InstdAmt", "Amt/EqvtAmt/Amt"):
        if path in record.fields:
            return parse_decimal(record.fields[path][0].text.strip())
    return None


def _read_amount(record: Record, faults: Faults) -> Money | None:
    path, equivalent = "Amt/InstdAmt", record.fields.get("Amt/EqvtAmt/Amt")
    if equivalent:
        reason = "the amount is an equivalent in another currency (EqvtAmt), which needs a rate"
        faults.add(equivalent[0].line, reason)
        return None
    value = read_one(record, path, "the amount", faults, chars_max=_CODE_CHARS_MAX)
    if value is None:
        return None
    currency = record.fields[path][0].attributes.get("Ccy")
    if currency is None:
        faults.add(value.line, f"the currency of the amount is missing ({path}/@Ccy)")
        return None
    try:
        amount = Money.parse(value.text, currency.strip())
    except InvalidAmount as error:
        faults.add(value.line, f"the amount {error}")
        return None
    if amount.cents <= 0:
        sign = "zero" if amount.cents == 0 else "negative"
        faults.add(value.line, f"the amount {shown(value.text)} is {sign}")
        return None
    return amount


def _read_remittance(record: Record, faults: Faults) -> str:
    """The unstructured text, one line for each element, or else the structured references."""
    path = "RmtInf/Ustrd" if "RmtInf/Ustrd" in record.fields else "RmtInf/Strd/CdtrRefInf/Ref"
    for part in record.fields.get(path, []):
        if part.nested or part.cut or len(part.text.strip()) > NAME_CHARS_MAX:
            faults.add(part.line, f"the remittance is not text of {NAME_CHARS_MAX} characters")
            return ""
    return "\n".join(part.text.strip() for part in record.fields.get(path, []))


class PaymentChecker:
    """Turns the payments of one file, in their order, into `Payment` or `Rejection`.

    It remembers the id of every payment it saw, so its memory is in proportion to the result.
    """

    def __init__(self, layout: Layout, accounts: Mapping[str, str] | None) -> None:
        self._layout = layout
        self._accounts = accounts or {}
        self._seen_on_line: dict[str, int] = {}

    def check(self, record: Record, block: Block) -> Payment | Rejection:
        """The payment in `record`, or a rejection with every fault of it and of its block."""
        faults = Faults(block.faults)
        end_to_end = read_one(
            record, "PmtId/EndToEndId", "the end-to-end id", faults, chars_max=ID_CHARS_MAX
        )
        instruction = read_one(
            record,
            "PmtId/InstrId",
            "the instruction id",
            faults,
            chars_max=ID_CHARS_MAX,
            required=False,
        )
        amount = _read_amount(record, faults)
        payee = _read_party(record, "Cdtr", "payee", self._layout, faults)
        remittance = _read_remittance(record, faults)
        instruction_id = None if instruction is None else instruction.text
        if end_to_end is not None:
            self._check_once(end_to_end, instruction_id, block, faults)
        self._check_accounts(record, block.payer, payee, amount, faults)
        if faults.found:
            return faults.rejection(record, None if end_to_end is None else end_to_end.text)
        # Each of these is missing only with a fault, its own or the block's.
        assert end_to_end is not None
        assert amount is not None
        assert payee is not None
        assert block.id is not None
        assert block.payer is not None
        assert block.execution_date is not None
        return Payment(
            end_to_end_id=end_to_end.text,
            instruction_id=instruction_id,
            payment_info_id=block.id,
            payer=block.payer,
            payee=payee,
            amount=amount,
            remittance=remittance,
            execution_date=block.execution_date,
            line=record.line,
        )

    def _check_once(
        self, end_to_end: Value, instruction_id: str | None, block: Block, faults: Faults
    ) -> None:
        if end_to_end.text == NOT_PROVIDED and instruction_id is None:
            reason = "the end-to-end id is NOTPROVIDED and there is no instruction id in its place"
            faults.add(end_to_end.line, reason)
            return
        key = payment_key(end_to_end.text, block.id or "", instruction_id)
        if key in self._seen_on_line:
            # Even if the first one was rejected: its id is not free for another payment.
            first_line = self._seen_on_line[key]
            faults.add(end_to_end.line, f"{shown(key)} was the id of line {first_line} already")
            return
        self._seen_on_line[key] = end_to_end.line

    def _check_accounts(
        self,
        record: Record,
        payer: Party | None,
        payee: Party | None,
        amount: Money | None,
        faults: Faults,
    ) -> None:
        if payer is not None and payee is not None and payer.same_account(payee):
            path = "CdtrAcct/Id/IBAN" if payee.iban else "CdtrAcct/Id/Othr/Id"
            line = record.fields[path][0].line
            faults.add(line, f"payer and payee are one account, {payee.account}")
        if amount is None:
            return
        for noun, party in (("payer", payer), ("payee", payee)):
            held_in = None if party is None else self._accounts.get(party.account)
            if party is not None and held_in is not None and held_in != amount.currency:
                faults.add(
                    record.fields["Amt/InstdAmt"][0].line,
                    f"the amount is in {amount.currency}, "
                    f"but the {noun}'s account {party.account} is held in {held_in}",
                )

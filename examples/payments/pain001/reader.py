"""A whole payment file: its header, its blocks, its payments, and whether its sums are right."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal

from examples.payments.pain001.errors import BadHeader
from examples.payments.pain001.faults import Faults, read_one
from examples.payments.pain001.layout import BLOCK, GROUP, PAYMENT, Layout, layout_of
from examples.payments.pain001.models import Batch, Finding, Payment, Rejection
from examples.payments.pain001.validation import (
    ID_CHARS_MAX,
    Block,
    PaymentChecker,
    read_block,
    stated_amount,
)
from examples.payments.pain001.values import (
    DECIMAL_CHARS_MAX,
    parse_datetime,
    parse_decimal,
    shown,
)
from examples.payments.pain001.xml_reader import Limits, Record, read_xml

_COUNT = re.compile(r"[0-9]{1,15}")
# Digits enough on both sides of the point that no sum of a file is ever rounded.
_EXACT = Context(prec=4 * DECIMAL_CHARS_MAX)


def read_batch(
    source: str | os.PathLike[str] | bytes,
    *,
    accounts: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Batch:
    """Read a customer credit transfer initiation (pain.001.001.03 to .12), from a path or bytes.

    The file is read once, in pieces; memory beyond the result does not grow with its length. A
    faulty payment becomes a `Rejection` and the rest goes on; sums that are off become findings.
    With `accounts` (account number, IBANs without spaces, to currency), a payment in another
    currency than the payer's or payee's account is rejected; accounts not listed are not checked.

    The schema is not validated beyond what is read: unknown elements are passed over.

    Raises a `PaymentFileError` when the file as a whole cannot be read (`FileTooLarge`, `NotXml`,
    `UnsafeXml`, `WrongMessage`, `UnknownVersion`, `BadHeader`), and `OSError` when it cannot be
    opened. Nothing is returned of a file that breaks off in the middle.
    """
    assembler = _Assembler(accounts)
    read_xml(source, assembler, limits or Limits())
    return assembler.batch()


class _Tally:
    """What the payments of a block or file really add up to."""

    def __init__(self) -> None:
        self.count = 0
        self.unreadable = 0
        self.total = Decimal(0)

    def add(self, amount: Decimal | None) -> None:
        self.count += 1
        if amount is None:
            self.unreadable += 1
        else:
            self.total = _EXACT.add(self.total, amount)


@dataclass(frozen=True, slots=True)
class _Header:
    """The group header; `record` is kept for its sums, checked at the end."""

    record: Record
    message_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _OpenBlock:
    """The block being read, frozen at its first payment."""

    block: Block
    fields_count: int
    tally: _Tally


class _Assembler:
    """Receives the records of the file and keeps what the batch is made of."""

    def __init__(self, accounts: Mapping[str, str] | None) -> None:
        self._accounts = accounts
        self._layout: Layout | None = None
        self._checker: PaymentChecker | None = None
        self._header: _Header | None = None
        self._open: _OpenBlock | None = None
        self._block_lines: dict[str, int] = {}
        self._blocks_count = 0
        self._tally = _Tally()
        self._payments: list[Payment] = []
        self._rejected: list[Rejection] = []
        self._findings: list[Finding] = []

    def opened(self, namespace: str, root: str, line: int) -> Mapping[str, frozenset[str]]:
        self._layout = layout_of(namespace, root, line)
        self._checker = PaymentChecker(self._layout, self._accounts)
        return self._layout.fields()

    def closed(self, record: Record) -> None:
        if record.path == PAYMENT:
            self._take_payment(record)
        elif record.path == BLOCK:
            self._close_block(record)
        elif record.path == GROUP:
            self._take_group(record)

    def batch(self) -> Batch:
        """The finished batch. Raises `BadHeader` if the file ended without any header."""
        header = self._header
        if header is None or self._layout is None:
            raise BadHeader("the file has no group header (CstmrCdtTrfInitn/GrpHdr)")
        if self._blocks_count == 0:
            self._find(header.record.line, "the file has no block of payments (PmtInf)")
        self._check_sums(header.record, self._tally, "the file", count_required=True)
        return Batch(
            message_id=header.message_id,
            created_at=header.created_at,
            version=self._layout.version,
            payments=self._payments,
            rejected=self._rejected,
            findings=sorted(self._findings, key=lambda finding: finding.line),
        )

    def _find(self, line: int, message: str) -> None:
        self._findings.append(Finding(line, message))

    def _take_group(self, record: Record) -> None:
        if self._header is not None:
            raise BadHeader("a second group header (GrpHdr)", line=record.line)
        faults = Faults()
        message_id = read_one(record, "MsgId", "the message id", faults, chars_max=ID_CHARS_MAX)
        created = read_one(record, "CreDtTm", "the creation time", faults, chars_max=ID_CHARS_MAX)
        created_at = None if created is None else parse_datetime(created.text)
        if created is not None and created_at is None:
            what = f"the creation time {shown(created.text)} is not a date and time of ISO 8601"
            faults.add(created.line, what)
        if message_id is None or created_at is None:
            line, reason = faults.found[0]
            raise BadHeader(f"{reason}. Without it a file is not told from another.", line=line)
        self._header = _Header(record, message_id.text, created_at)

    def _take_payment(self, record: Record) -> None:
        assert self._layout is not None
        assert self._checker is not None
        assert record.parent is not None, "only payments inside a block are handed over"
        if self._open is None:
            block = read_block(record.parent, self._layout)
            self._open = _OpenBlock(block, record.parent.fields_count, _Tally())
        amount = stated_amount(record)
        self._tally.add(amount)
        self._open.tally.add(amount)
        result = self._checker.check(record, self._open.block)
        if isinstance(result, Payment):
            self._payments.append(result)
        else:
            self._rejected.append(result)

    def _close_block(self, record: Record) -> None:
        self._blocks_count += 1
        block_id = record.fields["PmtInfId"][0].text.strip() if "PmtInfId" in record.fields else ""
        where = f"block {shown(block_id)}"
        if block_id in self._block_lines:
            first_line = self._block_lines[block_id]
            self._find(record.line, f"{where} has the id of the block on line {first_line}")
        elif block_id:
            self._block_lines[block_id] = record.line
        if self._open is None:
            self._find(record.line, f"{where} has no payment")
        elif self._open.fields_count != record.fields_count:
            late = max(field.line for fields in record.fields.values() for field in fields)
            message = f"{where} goes on after its first payment; that part was not applied to them"
            self._find(late, message)
        self._check_sums(record, self._open.tally if self._open else _Tally(), where)
        self._open = None

    def _check_sums(
        self, record: Record, tally: _Tally, where: str, *, count_required: bool = False
    ) -> None:
        faults = Faults()
        count = read_one(
            record,
            "NbOfTxs",
            f"the number of payments of {where}",
            faults,
            chars_max=ID_CHARS_MAX,
            required=count_required,
        )
        if count is not None and (
            _COUNT.fullmatch(count.text) is None or int(count.text) != tally.count
        ):
            message = f"{where} says {shown(count.text)} payments (NbOfTxs), but has {tally.count}"
            faults.add(count.line, message)
        total = read_one(
            record,
            "CtrlSum",
            f"the control sum of {where}",
            faults,
            chars_max=DECIMAL_CHARS_MAX,
            required=False,
        )
        if total is not None and tally.unreadable:
            message = f"the control sum of {where} cannot be checked (CtrlSum): "
            faults.add(total.line, f"{message}amounts that are no numbers, {tally.unreadable}")
        elif total is not None and parse_decimal(total.text) != tally.total:
            message = f"{where} says {shown(total.text)} in all (CtrlSum), but adds up to "
            faults.add(total.line, f"{message}{tally.total:f}")
        for line, message in faults.found:
            self._find(line, message)

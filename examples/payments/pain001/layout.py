"""Where the versions of pain.001 keep what is read, and how a version is told.

From .03 to .12 the message grew mostly by elements that are not read here. What moved: the agent's
BIC became BICFI in .04, and the execution date became a choice of Dt and DtTm in .08. From .11 an
account may come without Id, known by its proxy alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from examples.payments.pain001.errors import UnknownVersion, WrongMessage
from examples.payments.pain001.values import shown

BODY = "Document/CstmrCdtTrfInitn"
GROUP = f"{BODY}/GrpHdr"
BLOCK = f"{BODY}/PmtInf"
PAYMENT = f"{BLOCK}/CdtTrfTxInf"

_VERSIONS = {f"{number:02}": number for number in range(3, 13)}
_MESSAGE_ID = re.compile(r"[a-z]{4}\.[0-9]{3}\.[0-9]{3}\.[0-9]{2}")
_MESSAGE_NAMES = {
    "pain.002": "a payment status report",
    "pain.007": "a payment reversal",
    "pain.008": "a direct debit initiation",
    "pain.013": "a request to pay",
    "camt.052": "an account report",
    "camt.053": "an account statement",
    "camt.054": "a debit credit notification",
    "pacs.002": "an interbank status report",
    "pacs.008": "an interbank credit transfer",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The elements of one version; paths are relative to their block or payment."""

    version: str
    bic: str
    dates: tuple[str, ...]

    def fields(self) -> Mapping[str, frozenset[str]]:
        """The elements to keep, by the record that they belong to."""
        return {
            GROUP: frozenset({"MsgId", "CreDtTm", "NbOfTxs", "CtrlSum"}),
            BLOCK: frozenset({"PmtInfId", "PmtMtd", "NbOfTxs", "CtrlSum", *self.dates})
            | self._party("Dbtr"),
            PAYMENT: frozenset(
                {
                    "PmtId/InstrId",
                    "PmtId/EndToEndId",
                    "Amt/InstdAmt",
                    "Amt/EqvtAmt/Amt",
                    "RmtInf/Ustrd",
                    "RmtInf/Strd/CdtrRefInf/Ref",
                }
            )
            | self._party("Cdtr"),
        }

    def _party(self, role: str) -> frozenset[str]:
        account = f"{role}Acct"
        return frozenset(
            {
                f"{role}/Nm",
                f"{account}/Id/IBAN",
                f"{account}/Id/Othr/Id",
                f"{account}/Prxy/Id",
                f"{role}Agt/FinInstnId/{self.bic}",
            }
        )


def layout_of(namespace: str, root: str, line: int) -> Layout:
    """The layout of the message whose root element is `root` in `namespace`.

    Raises `WrongMessage` for another message and `UnknownVersion` for another pain.001.
    """
    prefix, _, version = namespace.rpartition(".")
    if prefix == "urn:iso:std:iso:20022:tech:xsd:pain.001.001" and version in _VERSIONS:
        if root != "Document":
            raise WrongMessage(f"pain.001 with the root {shown(root)}", line=line)
        number = _VERSIONS[version]
        dates = ("ReqdExctnDt/Dt", "ReqdExctnDt/DtTm") if number >= 8 else ("ReqdExctnDt",)
        return Layout(version, "BICFI" if number >= 4 else "BIC", dates)
    if "pain.001." in namespace:  # national variants have namespaces of their own
        raise UnknownVersion(shown(namespace.rpartition(":")[2]), line=line)
    message = _MESSAGE_ID.search(namespace)
    if message is None:
        where = f"in the namespace {shown(namespace)}" if namespace else "without a namespace"
        raise WrongMessage(f"XML with the root {shown(root)} {where}", line=line)
    name = _MESSAGE_NAMES.get(message[0][:8], "another message of ISO 20022")
    raise WrongMessage(f"{message[0]}, {name}", line=line)

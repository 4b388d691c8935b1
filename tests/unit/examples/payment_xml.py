"""A small payment file that the tests here spoil in one place each."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data" / "pain001"

DE = "DE89370400440532013000"
FR = "FR1420041010050500013M02606"
NL = "NL91ABNA0417164300"

GOOD = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09">
  <CstmrCdtTrfInitn>
    <GrpHdr>
      <MsgId>MSG-1</MsgId>
      <CreDtTm>2025-01-15T09:30:00Z</CreDtTm>
      <NbOfTxs>2</NbOfTxs>
      <CtrlSum>3.50</CtrlSum>
    </GrpHdr>
    <PmtInf>
      <PmtInfId>BLOCK-1</PmtInfId>
      <PmtMtd>TRF</PmtMtd>
      <NbOfTxs>2</NbOfTxs>
      <CtrlSum>3.50</CtrlSum>
      <ReqdExctnDt>
        <Dt>2025-01-16</Dt>
      </ReqdExctnDt>
      <Dbtr>
        <Nm>Account 001</Nm>
      </Dbtr>
      <DbtrAcct>
        <Id>
          <IBAN>{DE}</IBAN>
        </Id>
      </DbtrAcct>
      <DbtrAgt>
        <FinInstnId>
          <BICFI>TESTDEFF</BICFI>
        </FinInstnId>
      </DbtrAgt>
      <CdtTrfTxInf>
        <PmtId>
          <InstrId>I-1</InstrId>
          <EndToEndId>E-1</EndToEndId>
        </PmtId>
        <Amt>
          <InstdAmt Ccy="EUR">1.00</InstdAmt>
        </Amt>
        <Cdtr>
          <Nm>Account 002</Nm>
        </Cdtr>
        <CdtrAcct>
          <Id>
            <IBAN>{FR}</IBAN>
          </Id>
        </CdtrAcct>
        <RmtInf>
          <Ustrd>Invoice 1</Ustrd>
        </RmtInf>
      </CdtTrfTxInf>
      <CdtTrfTxInf>
        <PmtId>
          <EndToEndId>E-2</EndToEndId>
        </PmtId>
        <Amt>
          <InstdAmt Ccy="EUR">2.50</InstdAmt>
        </Amt>
        <Cdtr>
          <Nm>Account 003</Nm>
        </Cdtr>
        <CdtrAcct>
          <Id>
            <IBAN>{NL}</IBAN>
          </Id>
        </CdtrAcct>
      </CdtTrfTxInf>
    </PmtInf>
  </CstmrCdtTrfInitn>
</Document>
"""


def spoiled(old: str, new: str) -> bytes:
    """The good file with the one place that reads `old` replaced by `new`."""
    assert GOOD.count(old) == 1, f"{old!r} is there {GOOD.count(old)} times"
    return GOOD.replace(old, new).encode()


def line_of(xml: bytes | str, text: str) -> int:
    """The line, from 1, of the one place that reads `text`."""
    lines = (xml.decode() if isinstance(xml, bytes) else xml).split("\n")
    found = [number for number, line in enumerate(lines, start=1) if text in line]
    assert len(found) == 1, f"{text!r} is on the lines {found}"
    return found[0]

"""Faults of single payments: named by line and reason, and the others are not held up."""

from __future__ import annotations

import pytest

from examples.payments.pain001 import Rejection, read_batch
from tests.unit.examples.payment_xml import DE, FR, GOOD, NL, line_of, spoiled

PAYEE_IBAN = f"            <IBAN>{FR}</IBAN>\n"
PAYEE_NAME = "        <Cdtr>\n          <Nm>Account 002</Nm>\n        </Cdtr>\n"
AMOUNT = '          <InstdAmt Ccy="EUR">1.00</InstdAmt>\n'
EQUIVALENT = '<EqvtAmt><Amt Ccy="USD">1.00</Amt></EqvtAmt>'
OTHER = "<Othr><Id>0012345678</Id></Othr>"
LONG = "x" * 141

#: old text, new text, what identifies the line of the fault, what the reason says
FAULTS = [
    (FR, FR[:-1] + "7", "02607<", "the payee's IBAN 'FR1420041010050500013M02607' has wrong"),
    (
        FR,
        DE[:-1],
        DE[:-1] + "<",
        f"the payee's IBAN '{DE[:-1]}' has 21 characters, where DE has 22",
    ),
    (FR, "XX00123", "XX00123", "'XX00123' does not begin with a country that has IBANs"),
    (FR, "FR14 2004", "FR14 2004", "is written with spaces"),
    (FR, "A" * 61, "A" * 61, "the payee's IBAN is longer than 60 characters"),
    (PAYEE_IBAN, "", "I-1", "the payee's IBAN is missing (CdtrAcct/Id/IBAN)"),
    (PAYEE_IBAN, PAYEE_IBAN + f"<IBAN>{NL}</IBAN >\n", f"{NL}</IBAN >", "is there 2 times"),
    (PAYEE_IBAN, PAYEE_IBAN + OTHER, OTHER, "the payee's account is there as IBAN and as Othr"),
    (PAYEE_IBAN, f"<Othr><Id>{'7' * 35}</Id></Othr>\n", "7" * 35, "longer than 34 characters"),
    (FR, DE, f"{' ' * 12}<IBAN>{DE}", f"payer and payee are one account, {DE}"),
    (PAYEE_NAME, "", "I-1", "the payee's name is missing (Cdtr/Nm)"),
    ("Account 002", " ", "<Nm> </Nm>", "the payee's name is empty"),
    ("Account 002", LONG, LONG, "the payee's name is longer than 140 characters"),
    ("Account 002", "A<!-- --><b/>", "<b/>", "the payee's name holds elements"),
    (AMOUNT, "", "I-1", "the amount is missing (Amt/InstdAmt)"),
    (AMOUNT, AMOUNT + AMOUNT.replace("1.00", "9.00"), "9.00", "the amount is there 2 times"),
    (AMOUNT, EQUIVALENT + "\n", EQUIVALENT, "an equivalent in another currency"),
    (AMOUNT, AMOUNT + EQUIVALENT + "\n", EQUIVALENT, "an equivalent in another currency"),
    (' Ccy="EUR">1.00', ">1.00", ">1.00<", "the currency of the amount is missing"),
    ('"EUR">1.00', '"EUX">1.00', "EUX", "is in 'EUX', which is no currency"),
    ('"EUR">1.00', '"XAU">1.00', "XAU", "is in 'XAU', which is no currency"),
    (">1.00<", ">0<", ">0<", "the amount '0' is zero"),
    (">1.00<", ">-1.00<", ">-1.00<", "the amount '-1.00' is negative"),
    (">1.00<", ">1.001<", ">1.001<", "1.001 has more decimals than EUR has (2)"),
    (">1.00<", ">1,00<", ">1,00<", "'1,00' is not a decimal number"),
    (">1.00<", ">1e3<", ">1e3<", "'1e3' is not a decimal number"),
    (">1.00<", ">NaN<", ">NaN<", "'NaN' is not a decimal number"),
    (">1.00<", ">12345678901234567<", "234567<", "has more than 18 digits"),
    (">1.00<", ">" + "1" * 2000 + "<", "11111", "the amount is longer than 60 characters"),
    ("          <EndToEndId>E-1</EndToEndId>\n", "", "I-1", "the end-to-end id is missing"),
    (">E-1<", "><", "<EndToEndId></EndToEndId>", "the end-to-end id is empty"),
    (">E-1<", ">" + "E" * 36 + "<", "E" * 36, "the end-to-end id is longer than 35"),
    (">I-1<", ">" + "I" * 36 + "<", "I" * 36, "the instruction id is longer than 35"),
    ("Invoice 1", LONG, LONG, "the remittance is not text of 140 characters"),
    ("Invoice 1", "<b/>", "<b/>", "the remittance is not text of 140 characters"),
    (
        PAYEE_NAME,
        "<CdtrAgt><FinInstnId><BICFI>nobank</BICFI></FinInstnId></CdtrAgt>\n" + PAYEE_NAME,
        "nobank",
        "the BIC of the payee's bank is malformed: 'nobank'",
    ),
]


@pytest.mark.parametrize(("old", "new", "on_line", "reason"), FAULTS)
def test_a_fault_rejects_its_payment_alone(old: str, new: str, on_line: str, reason: str) -> None:
    xml = spoiled(old, new)

    batch = read_batch(xml)

    (rejection,) = batch.rejected
    assert reason in rejection.reason
    # A fault of absence has no line of its own: it is the payment's.
    expected = line_of(xml, on_line) - 2 if on_line == "I-1" else line_of(xml, on_line)
    assert rejection.line == expected
    assert [payment.end_to_end_id for payment in batch.payments] == ["E-2"]


BLOCK_FAULTS = [
    (f"{DE}<", f"{DE[:-1]}1<", 23, "the payer's IBAN 'DE89370400440532013001' has wrong check"),
    ("          <IBAN>" + DE + "</IBAN>\n", "", 10, "the payer's IBAN is missing"),
    ("        <Nm>Account 001</Nm>\n", "", 10, "the payer's name is missing (Dbtr/Nm)"),
    (">BLOCK-1<", "><", 11, "the id of the block is empty (PmtInfId)"),
    ("      <PmtMtd>TRF</PmtMtd>\n", "", 10, "the payment method is missing (PmtMtd)"),
    (">TRF<", ">CHK<", 12, "the payment method is 'CHK', no credit transfer"),
    ("        <Dt>2025-01-16</Dt>\n", "", 10, "the requested execution date is missing"),
    ("<Dt>2025-01-16<", "<Dt>2025-02-30<", 16, "'2025-02-30' is not a date"),
    ("<Dt>2025-01-16<", "<Dt>20250116<", 16, "'20250116' is not a date"),
    ("<Dt>2025-01-16<", "<Dt>2025-W03-4<", 16, "'2025-W03-4' is not a date"),
    ("Dt>2025-01-16</Dt", "DtTm>2025-01-16</DtTm", 16, "'2025-01-16' is not a date"),
    ("<Dt>", "<DtTm>2025-01-16T00:00:00Z</DtTm><Dt>", 16, "as ReqdExctnDt/Dt and as Req"),
    (">TESTDEFF<", ">TESTDE<", 28, "the BIC of the payer's bank is malformed: 'TESTDE'"),
]


@pytest.mark.parametrize(("old", "new", "line", "reason"), BLOCK_FAULTS)
def test_a_fault_of_the_block_rejects_each_of_its_payments(
    old: str, new: str, line: int, reason: str
) -> None:
    xml = spoiled(old, new)

    batch = read_batch(xml)

    assert batch.payments == []
    assert [rejection.end_to_end_id for rejection in batch.rejected] == ["E-1", "E-2"]
    starts = [n for n, text in enumerate(xml.decode().split("\n"), 1) if "<CdtTrfTxInf>" in text]
    assert [rejection.line for rejection in batch.rejected] == starts
    for rejection in batch.rejected:
        assert reason in rejection.reason
        assert f"(line {line})" in rejection.reason


def test_a_time_zone_of_a_date_is_allowed() -> None:
    batch = read_batch(spoiled("2025-01-16", "2025-01-16+01:00"))

    assert [payment.execution_date.isoformat() for payment in batch.payments] == ["2025-01-16"] * 2


def test_all_faults_of_a_payment_are_named_those_of_the_block_last() -> None:
    xml = GOOD.replace(">1.00<", ">-1<").replace(FR, "FR00").replace(">TRF<", ">CHK<")

    first, second = read_batch(xml.encode()).rejected

    line = line_of(xml, ">-1<")
    assert first.line == line
    reasons = first.reason.split("; ")
    assert [reason.partition(" '")[0] for reason in reasons] == [
        "the amount",
        "the payee's IBAN",
        "the payment method is",
    ]
    assert reasons[1].endswith(f"where FR has 27 (line {line_of(xml, 'FR00')})")
    assert reasons[2].endswith("(line 12)")
    assert second.reason == reasons[2]


def test_a_missing_value_is_named_before_what_follows() -> None:
    xml = GOOD.replace(PAYEE_NAME, "").replace(">1.00<", ">0<")

    (rejection,) = read_batch(xml.encode()).rejected

    line = line_of(xml, ">0<")
    assert rejection.line == line_of(xml, "I-1") - 2
    assert rejection.reason == (
        f"the payee's name is missing (Cdtr/Nm); the amount '0' is zero (line {line})"
    )


@pytest.mark.parametrize(
    ("old", "chars_max"),
    [("E-1", 35), ("I-1", 35), ("BLOCK-1", 35), ("Account 001", 140), ("Invoice 1", 140)],
)
def test_a_text_may_be_as_long_as_iso_20022_says(old: str, chars_max: int) -> None:
    assert read_batch(spoiled(f">{old}<", f">{'x' * chars_max}<")).rejected == []
    assert read_batch(spoiled(f">{old}<", f">{'x' * (chars_max + 1)}<")).rejected


def test_text_beyond_the_limit_is_not_cut_to_something_else() -> None:
    blank = " " * 600

    (rejection,) = read_batch(spoiled(">E-1<", f">E-1{blank}<!-- -->{blank}0<")).rejected

    assert "the end-to-end id is longer than 35 characters" in rejection.reason


def test_an_end_to_end_id_stays_with_its_first_payment() -> None:
    batch = read_batch(spoiled(">E-2<", ">E-1<"))

    assert [payment.payee.iban for payment in batch.payments] == [FR]
    assert batch.rejected == [
        Rejection(53, "E-1", "'E-1' was the id of line 34 already"),
    ]


def test_an_id_is_used_even_if_its_first_payment_was_rejected() -> None:
    xml = GOOD.replace(">E-2<", ">E-1<").replace(">1.00<", ">0<")

    batch = read_batch(xml.encode())

    assert batch.payments == []
    assert ["zero" in batch.rejected[0].reason, "already" in batch.rejected[1].reason] == [True] * 2


def test_ids_differ_by_case() -> None:
    assert len(read_batch(spoiled(">E-2<", ">e-1<")).payments) == 2


def test_not_provided_needs_an_instruction_id_of_its_own() -> None:
    xml = GOOD.replace(">E-1<", ">NOTPROVIDED<").replace(">E-2<", ">NOTPROVIDED<")
    second = "<PmtId>\n          <EndToEndId>"
    assert xml.count(second) == 1

    without = read_batch(xml.encode())
    same, other = (
        read_batch(xml.replace(second, f"<PmtId>\n<InstrId>{id_}</InstrId><EndToEndId>").encode())
        for id_ in ("I-1", "I-2")
    )

    assert [p.key for p in without.payments] == ["NOTPROVIDED/BLOCK-1/I-1"]
    assert "no instruction id" in without.rejected[0].reason
    assert "'NOTPROVIDED/BLOCK-1/I-1' was the id of line 34 already" in same.rejected[0].reason
    assert [p.key for p in other.payments] == ["NOTPROVIDED/BLOCK-1/I-1", "NOTPROVIDED/BLOCK-1/I-2"]


@pytest.mark.parametrize(
    ("account", "held_in", "rejected", "noun"),
    [
        (DE, "CHF", ["E-1", "E-2"], "payer"),
        (FR, "CHF", ["E-1"], "payee"),
        (NL, "CHF", ["E-2"], "payee"),
        (NL, "EUR", [], ""),
        ("ES9121000418450200051332", "CHF", [], ""),
    ],
)
def test_the_currency_is_that_of_the_accounts(
    account: str, held_in: str, rejected: list[str], noun: str
) -> None:
    batch = read_batch(GOOD.encode(), accounts={account: held_in})

    assert [rejection.end_to_end_id for rejection in batch.rejected] == rejected
    for rejection in batch.rejected:
        assert rejection.reason == (
            f"the amount is in EUR, but the {noun}'s account {account} is held in {held_in}"
        )
        amount = {"E-1": ">1.00<", "E-2": ">2.50<"}[str(rejection.end_to_end_id)]
        assert rejection.line == line_of(GOOD, amount)


@pytest.mark.parametrize(
    ("payee_bic", "rejected"),
    [("TESTDEFF", 1), ("TESTFRPP", 0), (None, 0)],
)
def test_numbers_that_are_no_ibans_are_one_account_only_at_one_bank(
    payee_bic: str | None, rejected: int
) -> None:
    agent = f"<CdtrAgt><FinInstnId><BICFI>{payee_bic}</BICFI></FinInstnId></CdtrAgt>\n"
    xml = (
        GOOD.replace(f"<IBAN>{DE}</IBAN>", OTHER)
        .replace(f"<IBAN>{FR}</IBAN>", OTHER)
        .replace(PAYEE_NAME, (agent if payee_bic else "") + PAYEE_NAME)
    )

    batch = read_batch(xml.encode())

    assert [r.reason for r in batch.rejected] == [
        "payer and payee are one account, 0012345678"
    ] * rejected
    assert len(batch.payments) == 2 - rejected


def test_an_element_of_another_namespace_is_not_the_one_wanted() -> None:
    xml = spoiled(
        '<InstdAmt Ccy="EUR">1.00</InstdAmt>', '<InstdAmt xmlns="urn:x" Ccy="EUR">9</InstdAmt>'
    )

    assert "the amount is missing" in read_batch(xml).rejected[0].reason

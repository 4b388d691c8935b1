"""Payment files as a whole: every version, several blocks, headers and sums."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from examples.payments.pain001 import BadHeader, Finding, Money, Party, Payment, read_batch
from examples.payments.sample import make_sample, sample_xml
from tests.unit.examples.payment_xml import DATA, DE, FR, GOOD, NL, line_of, spoiled

AT = "AT611904300234573201"
CH = "CH9300762011623852957"
VERSIONS = [f"{number:02}" for number in range(3, 13)]
BLOCK_END = "    </PmtInf>\n"


def test_version_03_from_a_path() -> None:
    batch = read_batch(DATA / "batch.03.xml")

    assert (batch.message_id, batch.version) == ("MSG-03", "03")
    assert batch.created_at == datetime(2025, 1, 15, 9, 30)  # noqa: DTZ001 - the file has no zone
    assert batch.payments[0] == Payment(
        end_to_end_id="E-1",
        instruction_id="I-1",
        payment_info_id="BLOCK-1",
        payer=Party(name="Account 001", account=DE, bic="TESTDEFFXXX"),
        payee=Party(name="Account 002", account=FR, bic="TESTFRPP"),
        amount=Money(cents=10000, currency="EUR"),
        remittance="Invoice 1",
        execution_date=date(2025, 1, 16),
        line=24,
    )
    assert [(p.end_to_end_id, p.amount.cents, p.line) for p in batch.payments[1:]] == [
        ("E-3", 1, 45),
        ("E-6", 123456, 77),
    ]
    assert [(r.line, r.end_to_end_id) for r in batch.rejected] == [
        (41, "E-2"),
        (64, "E-4"),
        (71, "E-1"),
    ]
    checksum, zero, duplicate = [rejection.reason for rejection in batch.rejected]
    assert "IBAN 'FR1420041010050500013M02607' has wrong check digits" in checksum
    assert "is zero" in zero
    assert "'E-1' was the id of line 27 already" in duplicate
    assert batch.findings == []


def test_each_block_has_its_own_payer_and_date() -> None:
    batch = read_batch(DATA / "batch.03.xml")

    assert [(p.payment_info_id, p.payer.iban, p.execution_date) for p in batch.payments] == [
        ("BLOCK-1", DE, date(2025, 1, 16)),
        ("BLOCK-1", DE, date(2025, 1, 16)),
        ("BLOCK-2", NL, date(2025, 1, 17)),
    ]


def test_version_09_with_a_prefix_a_time_and_a_structured_reference() -> None:
    batch = read_batch(str(DATA / "batch.09.xml"))

    zone = timezone(timedelta(hours=1))
    assert batch.created_at == datetime(2025, 1, 15, 9, 30, 0, 250_000, tzinfo=zone)
    assert [
        (p.line, p.payer.iban, p.payee.iban, str(p.amount), p.execution_date.day)
        for p in batch.payments
    ] == [
        (19, AT, "ES9121000418450200051332", "1.50 EUR", 16),
        (41, AT, CH, "100 JPY", 16),
        (70, CH, DE, "10.50 CHF", 17),
    ]
    assert batch.payments[0].remittance == "RF18539007547034"
    assert [p.payer.bic for p in batch.payments] == ["TESTATWW", "TESTATWW", "TESTCHZZ80A"]
    assert [(r.line, r.reason) for r in batch.rejected] == [
        (36, "the amount 100.50 has more decimals than JPY has (0)"),
        (53, f"payer and payee are one account, {AT}"),
        (57, "the payee's name is missing (Cdtr/Nm)"),
    ]
    assert batch.findings == []


def test_version_12_with_accounts_that_are_no_ibans() -> None:
    batch = read_batch((DATA / "batch.12.xml").read_bytes())

    assert batch.created_at == datetime(2025, 1, 15, 9, 30, tzinfo=UTC)
    payer = Party(name="Account 007", account="0012345678", scheme="OTHR", bic="TESTUS33")
    assert batch.payments[0].payer == payer
    assert batch.payments[0].payer.iban is None
    assert [(p.key, str(p.amount)) for p in batch.payments] == [
        ("NOTPROVIDED/BLOCK-1/I-1", "1.234 KWD"),
        ("NOTPROVIDED/BLOCK-1/I-2", "5.00 USD"),
        ("E-7", "7.00 EUR"),
    ]
    assert batch.payments[1].remittance == "First part,\nsecond & last"
    assert [(r.line, r.end_to_end_id) for r in batch.rejected] == [
        (40, "NOTPROVIDED"),
        (51, "E-4"),
        (62, "E-5"),
        (78, "E-6"),
    ]
    reasons = "\n".join(rejection.reason for rejection in batch.rejected)
    for fragment in ("no instruction id", "proxy", "'CHK', no credit transfer (line 57)", "a rate"):
        assert fragment in reasons
    assert batch.findings == [
        Finding(8, "the file says '8' payments (NbOfTxs), but has 7"),
        Finding(16, "block 'BLOCK-1' says '9.23' in all (CtrlSum), but adds up to 9.234"),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_reads_alike(version: str) -> None:
    sample = make_sample(payments=5, accounts=3)

    batch = read_batch(sample_xml(sample, version=version))

    assert batch.version == version
    assert batch.payments == read_batch(sample_xml(sample, version="09")).payments
    assert len(batch.payments) == 5
    assert batch.findings == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_date_is_a_choice_since_version_08(version: str) -> None:
    plain = sample_xml(make_sample(payments=1, accounts=2), version="03")
    choice = sample_xml(make_sample(payments=1, accounts=2), version="09")

    def renamed(xml: bytes) -> bytes:
        return xml.replace(b"001.001.03", f"001.001.{version}".encode()).replace(
            b"001.001.09", f"001.001.{version}".encode()
        )

    right, wrong = (plain, choice) if version < "08" else (choice, plain)
    assert read_batch(renamed(right)).rejected == []
    (rejection,) = read_batch(renamed(wrong)).rejected
    assert "the requested execution date" in rejection.reason


@pytest.mark.parametrize(("version", "element"), [("03", "BIC"), ("04", "BICFI"), ("12", "BICFI")])
def test_the_bic_has_the_name_of_its_version(version: str, element: str) -> None:
    xml = sample_xml(make_sample(payments=1, accounts=2), version=version).decode()
    other = xml[xml.index("<Othr>") : xml.index("</Othr>") + len("</Othr>")]

    named = {
        name: read_batch(xml.replace(other, f"<{name}>TESTDEFF</{name}>").encode())
        for name in ("BIC", "BICFI")
    }

    assert [name for name, batch in named.items() if batch.payments[0].payer.bic] == [element]


def test_a_payment_survives_json() -> None:
    payment = read_batch(GOOD.encode()).payments[0]

    assert Payment.model_validate_json(payment.model_dump_json()) == payment


def test_a_payment_does_not_change() -> None:
    payment = read_batch(GOOD.encode()).payments[0]

    with pytest.raises(ValidationError):
        payment.payer = payment.payee  # type: ignore[misc]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_where_the_pieces_end_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    xml = (DATA / "batch.12.xml").read_bytes()
    whole = read_batch(xml)

    monkeypatch.setattr("examples.payments.pain001.xml_reader._CHUNK_BYTES", chunk_bytes)

    assert read_batch(xml) == whole
    assert read_batch(DATA / "batch.12.xml") == whole


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16"), ("iso8859-1", "ISO-8859-1")],
)
def test_encodings(encoding: str, declared: str) -> None:
    text = GOOD.replace("UTF-8", declared).replace("Account 002", "Übertrag é")

    batch = read_batch(text.encode(encoding))

    assert batch.payments[0].payee.name == "Übertrag é"
    assert [p.line for p in batch.payments] == [p.line for p in read_batch(GOOD.encode()).payments]


def test_windows_line_ends_and_one_single_line() -> None:
    lines = [payment.line for payment in read_batch(GOOD.encode()).payments]
    flat = "".join(line.strip() for line in GOOD.splitlines())

    assert [p.line for p in read_batch(GOOD.replace("\n", "\r\n").encode()).payments] == lines
    assert [p.line for p in read_batch(flat.encode()).payments] == [1, 1]
    (rejection,) = read_batch(flat.replace(">E-2<", ">E-1<").encode()).rejected
    assert rejection.reason == "'E-1' was the id of line 1 already"


SUMS = [
    ("<GrpHdr>", "NbOfTxs>2<", "NbOfTxs>3<", "the file says '3' payments (NbOfTxs), but has 2"),
    ("<GrpHdr>", "NbOfTxs>2<", "NbOfTxs>two<", "the file says 'two' payments"),
    ("<GrpHdr>", "NbOfTxs>2<", "NbOfTxs>٢<", "the file says '٢' payments"),
    ("<GrpHdr>", "NbOfTxs>2<", "NbOfTxs><", "the number of payments of the file is empty"),
    ("<GrpHdr>", "CtrlSum>3.50<", "CtrlSum>3.51<", "says '3.51' in all (CtrlSum), but adds up to"),
    ("<GrpHdr>", "CtrlSum>3.50<", "CtrlSum>3,50<", "says '3,50' in all"),
    ("<PmtInf>", "NbOfTxs>2<", "NbOfTxs>1<", "block 'BLOCK-1' says '1' payments (NbOfTxs)"),
    ("<PmtInf>", "CtrlSum>3.50<", "CtrlSum>35<", "block 'BLOCK-1' says '35' in all (CtrlSum)"),
]


@pytest.mark.parametrize(("after", "old", "new", "message"), SUMS)
def test_sums_that_are_off_are_found(after: str, old: str, new: str, message: str) -> None:
    head, middle, tail = GOOD.partition(after)
    xml = head + middle + tail.replace(old, new, 1)

    batch = read_batch(xml.encode())

    (finding,) = batch.findings
    assert message in finding.message
    assert finding.line == line_of(xml, f"<{new}")
    assert len(batch.payments) == 2


@pytest.mark.parametrize("total", ["3.5", "+3.500000", "0000003.50", " 3.50 "])
def test_a_control_sum_is_compared_by_value(total: str) -> None:
    assert read_batch(GOOD.replace(">3.50<", f">{total}<").encode()).findings == []


def test_sums_are_exact_however_far_apart_the_amounts_are() -> None:
    xml = (
        GOOD.replace(">1.00<", ">999999999999999999<")
        .replace(">2.50<", ">0.00001<")
        .replace(">3.50<", ">999999999999999999.00001<")
    )

    assert read_batch(xml.encode()).findings == []


def test_a_rejected_payment_counts_in_the_sums() -> None:
    batch = read_batch(spoiled(FR, FR[:-1] + "7"))

    assert len(batch.rejected) == 1
    assert batch.findings == []


def test_an_unreadable_amount_leaves_the_sums_open() -> None:
    batch = read_batch(spoiled(">1.00<", ">one<"))

    assert [finding.message for finding in batch.findings] == [
        f"the control sum of {where} cannot be checked (CtrlSum): amounts that are no numbers, 1"
        for where in ("the file", "block 'BLOCK-1'")
    ]


def test_the_count_of_the_file_is_mandatory_and_that_of_a_block_is_not() -> None:
    head, group, tail = GOOD.partition("</GrpHdr>")
    count = "      <NbOfTxs>2</NbOfTxs>\n"

    (finding,) = read_batch((head.replace(count, "") + group + tail).encode()).findings
    assert finding == Finding(4, "the number of payments of the file is missing (NbOfTxs)")
    assert read_batch((head + group + tail.replace(count, "")).encode()).findings == []


def test_a_block_without_payments_and_a_file_without_blocks() -> None:
    start, end = GOOD.index("      <CdtTrfTxInf>"), GOOD.index(BLOCK_END)
    no_payments = (GOOD[:start] + GOOD[end:]).replace(">2<", ">0<").replace(">3.50<", ">0<")
    no_blocks = (
        no_payments[: no_payments.index("    <PmtInf>")]
        + no_payments[no_payments.index(BLOCK_END) + len(BLOCK_END) :]
    )

    batch = read_batch(no_payments.encode())
    assert batch.findings == [Finding(10, "block 'BLOCK-1' has no payment")]
    assert (batch.payments, batch.rejected) == ([], [])
    assert read_batch(no_blocks.encode()).findings == [
        Finding(4, "the file has no block of payments (PmtInf)")
    ]


def test_two_blocks_of_one_id() -> None:
    xml = (DATA / "batch.03.xml").read_text().replace("BLOCK-2", "BLOCK-1")

    assert read_batch(xml.encode()).findings == [
        Finding(52, "block 'BLOCK-1' has the id of the block on line 12")
    ]


def test_what_follows_the_payments_of_a_block_is_not_applied_to_them() -> None:
    late = f"      <DbtrAcct><Id><IBAN>{NL}</IBAN></Id></DbtrAcct>\n"
    xml = spoiled(BLOCK_END, late + BLOCK_END)

    batch = read_batch(xml)

    assert {payment.payer.iban for payment in batch.payments} == {DE}
    (finding,) = batch.findings
    assert finding.line == line_of(xml, late.strip())
    assert "goes on after its first payment" in finding.message


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("      <MsgId>MSG-1</MsgId>\n", "", 4, "the message id is missing (MsgId)"),
        (">MSG-1<", "> <", 5, "the message id is empty"),
        (">MSG-1<", f">{'M' * 36}<", 5, "the message id is longer than 35 characters"),
        (">MSG-1<", "><b>M</b><", 5, "the message id holds elements"),
        ("      <CreDtTm>2025-01-15T09:30:00Z</CreDtTm>\n", "", 4, "the creation time is missing"),
        ("2025-01-15T09:30:00Z", "2025-01-15", 6, "'2025-01-15' is not a date and time"),
        ("2025-01-15T09:30:00Z", "2025-02-30T09:30:00Z", 6, "is not a date and time"),
        ("2025-01-15T09:30:00Z", "20250115T093000Z", 6, "is not a date and time"),
        ("    </GrpHdr>", "    </GrpHdr>\n    <GrpHdr></GrpHdr>", 10, "a second group header"),
    ],
)
def test_a_header_that_does_not_name_the_message(
    old: str, new: str, line: int, reason: str
) -> None:
    with pytest.raises(BadHeader) as caught:
        read_batch(spoiled(old, new))

    assert caught.value.line == line
    assert reason in str(caught.value)


def test_no_header_at_all() -> None:
    xml = GOOD[: GOOD.index("    <GrpHdr>")] + GOOD[GOOD.index("    <PmtInf>") :]

    with pytest.raises(BadHeader, match="no group header") as caught:
        read_batch(xml.encode())
    assert caught.value.line is None

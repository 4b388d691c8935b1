"""Hostile and broken files: refused with a declared error, at once and in bounded memory."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples.payments.pain001 import (
    Batch,
    FileTooLarge,
    Limits,
    NotXml,
    PaymentFileError,
    UnknownVersion,
    UnsafeXml,
    WrongMessage,
    parse_iban,
    read_batch,
)
from examples.payments.sample import make_sample, sample_xml, write_sample
from tests.unit.examples.payment_xml import DATA, GOOD, line_of, spoiled

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
LAUGHS = "\n".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "ha">' for n in range(10)
)
DTDS = {
    "billion laughs": (f"<!DOCTYPE Document [\n{LAUGHS}\n]>", "&l9;"),
    "quadratic blow-up": (f'<!DOCTYPE Document [<!ENTITY q "{"q" * 50_000}">]>', "&q;" * 50_000),
    "external entity": ('<!DOCTYPE Document [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;"),
    "external DTD": ('<!DOCTYPE Document SYSTEM "http://127.0.0.1:9/payments.dtd">', "MSG-1"),
    "public DTD": (
        '<!DOCTYPE Document PUBLIC "-//X//Y" "http://127.0.0.1:9/payments.dtd">',
        "MSG-1",
    ),
    "parameter entity": (
        '<!DOCTYPE Document [<!ENTITY % p SYSTEM "http://127.0.0.1:9/payments.dtd">\n%p;]>',
        "MSG-1",
    ),
    "internal parameter entity": (
        "<!DOCTYPE Document [<!ENTITY % p '<!ENTITY l \"x\">'>%p;]>",
        "&l;",
    ),
    "default attribute": ('<!DOCTYPE Document [<!ATTLIST InstdAmt Ccy CDATA "XAU">]>', "MSG-1"),
    "empty DTD": ("<!DOCTYPE Document>", "MSG-1"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("attack", DTDS)
def test_a_document_type_is_refused_where_it_begins(attack: str, encoding: str) -> None:
    dtd, message_id = DTDS[attack]
    head = DECLARATION.replace("UTF-8", encoding) + dtd
    xml = GOOD.replace(DECLARATION, head).replace("MSG-1", message_id)

    with pytest.raises(UnsafeXml) as caught:
        read_batch(xml.encode(encoding))

    assert caught.value.line == 2
    assert "document type declaration" in str(caught.value)


def test_an_entity_without_a_declaration_is_not_xml() -> None:
    with pytest.raises(NotXml, match="line 5: not well-formed XML: undefined entity"):
        read_batch(spoiled("MSG-1", "&boom;"))


def test_the_five_entities_and_character_references_of_xml_itself_are_read() -> None:
    batch = read_batch(spoiled("Account 002", "A &amp; B &lt;&#67;&#x44;&gt;<![CDATA[<&]]>"))

    assert batch.payments[0].payee.name == "A & B <CD><&"


def test_a_comment_does_not_split_a_value() -> None:
    assert read_batch(spoiled(">1.00<", ">1<!-- 000 -->.00<")).payments[0].amount.cents == 100


def test_an_xinclude_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "name.txt").write_text("stolen")
    include = (
        '<x:include xmlns:x="http://www.w3.org/2001/XInclude" parse="text" '
        f'href="{(tmp_path / "name.txt").as_uri()}"/>'
    )

    batch = read_batch(spoiled("Account 002", include))

    assert "the payee's name holds elements" in batch.rejected[0].reason


NOT_XML = [
    (b"", 1),
    (b"\n\n", 3),
    (b"MSG;2025-01-15;100.00\n", 1),
    (b'{"payments": []}', 1),
    (b"%PDF-1.7\n\xe2\xe3", 1),
    (b"PK\x03\x04" + bytes(100), 1),
    (b"\x00" * 100, 1),
    (GOOD[: GOOD.index("</CdtTrfTxInf>")].encode(), 50),
    (GOOD.replace("</Amt>", "</Amount>", 1).encode(), 38),
    (GOOD.encode() + b"<Document/>", 70),
    (GOOD.replace("UTF-8", "no-such").encode(), 1),
    (GOOD.replace("UTF-8", "UTF-7").encode(), 1),
    (GOOD.replace("UTF-8", "rot13").encode(), 1),
    (GOOD.replace("UTF-8", "idna").encode(), 1),
    (GOOD.replace("UTF-8", "unicode_escape").encode(), 1),
    (GOOD.replace("Account 002", "\ufffe").encode(), 40),
    (GOOD.encode().replace(b"Account 002", b"caf\xe9"), 40),
    (spoiled("MSG-1", "a<b"), 5),
]


@pytest.mark.parametrize(("content", "line"), NOT_XML)
def test_what_is_not_xml(content: bytes, line: int) -> None:
    with pytest.raises(NotXml) as caught:
        read_batch(content)

    assert caught.value.line == line
    assert str(caught.value).startswith(f"line {line}: ")


def test_broken_xml_is_named_with_its_column() -> None:
    with pytest.raises(NotXml) as caught:
        read_batch(spoiled("MSG-1", "a & b"))

    assert str(caught.value) == (
        "line 5: not well-formed XML: not well-formed (invalid token), column 17"
    )


def with_namespace(namespace: str) -> bytes:
    return spoiled("urn:iso:std:iso:20022:tech:xsd:pain.001.001.09", namespace)


ISO = "urn:iso:std:iso:20022:tech:xsd:"
OTHERS = [
    (with_namespace(f"{ISO}pain.008.001.02"), "pain.008.001.02, a direct debit initiation", 2),
    (with_namespace(f"{ISO}camt.053.001.08"), "camt.053.001.08, an account statement", 2),
    (with_namespace(f"{ISO}seev.031.001.13"), "seev.031.001.13, another message", 2),
    (with_namespace("urn:other"), "XML with the root 'Document' in the namespace 'urn:other'", 2),
    (with_namespace(""), "XML with the root 'Document' without a namespace", 2),
    (GOOD.replace("Document", "Doc").encode(), "pain.001 with the root 'Doc'", 2),
    (b"\n<html><body/></html>", "XML with the root 'html' without a namespace", 2),
]


@pytest.mark.parametrize(("xml", "found", "line"), OTHERS)
def test_another_message_is_named(xml: bytes, found: str, line: int) -> None:
    with pytest.raises(WrongMessage) as caught:
        read_batch(xml)

    assert found in caught.value.found
    assert found in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "message",
    [
        "pain.001.001.02",
        "pain.001.001.13",
        "pain.001.001.9",
        "pain.001.003.03",
        "pain.001.001.09.x",
    ],
)
def test_another_version_is_named(message: str) -> None:
    with pytest.raises(UnknownVersion) as caught:
        read_batch(with_namespace(f"{ISO}{message}"))

    assert caught.value.found == f"'{message}'"
    assert caught.value.line == 2


def test_another_message_is_refused_before_the_rest_is_read() -> None:
    with pytest.raises(WrongMessage):
        read_batch(b"<html><p>never closed")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_batch(tmp_path / "none.xml")


@pytest.mark.parametrize("as_path", [True, False])
def test_a_file_beyond_the_limit_is_refused(tmp_path: Path, as_path: bool) -> None:
    content = GOOD.encode()
    (tmp_path / "batch.xml").write_bytes(content)
    source = tmp_path / "batch.xml" if as_path else content

    assert read_batch(source, limits=Limits(file_bytes_max=len(content))).payments
    with pytest.raises(FileTooLarge) as caught:
        read_batch(source, limits=Limits(file_bytes_max=len(content) - 1))
    assert caught.value.limit_bytes == len(content) - 1
    assert f"{len(content) - 1:,} bytes" in str(caught.value)


def test_an_endless_file_is_refused_without_reading_it_all() -> None:
    with pytest.raises((FileTooLarge, NotXml)):
        read_batch("/dev/zero", limits=Limits(file_bytes_max=10_000_000))


def padded(xml: str, depth: int) -> bytes:
    padding = "<x>" * depth + "</x>" * depth
    return xml.replace("  <CstmrCdtTrfInitn>", f"{padding}\n<CstmrCdtTrfInitn>").encode()


def test_nesting_is_bounded() -> None:
    assert len(read_batch(padded(GOOD, 63)).payments) == 2
    with pytest.raises(UnsafeXml, match="line 3: the file has elements nested over 64 deep"):
        read_batch(padded(GOOD, 64))


def test_a_tag_that_never_ends_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "batch.xml"
    path.write_bytes(GOOD.removesuffix("</Document>\n").encode() + b'<x y="' + b"z" * 3_000_000)

    with pytest.raises(UnsafeXml, match="a tag of over 1,048,576 bytes"):
        read_batch(path)
    # Text may be as long as the file: it is passed over piece by piece.
    path.write_bytes(spoiled("<GrpHdr>", f"<x>{'z' * 3_000_000}</x><GrpHdr>"))
    assert len(read_batch(path).payments) == 2


def test_the_values_of_one_element_are_bounded() -> None:
    one = "<Ustrd>Invoice 1</Ustrd>"
    most = Limits().fields_per_record_max - 5  # two ids, the amount, the payee's name and IBAN

    assert read_batch(spoiled(one, one * most)).payments[0].remittance.count("Invoice") == most
    with pytest.raises(UnsafeXml, match="over 1,000 values in one element") as caught:
        read_batch(spoiled(one, one * (most + 1)))
    assert caught.value.line == line_of(GOOD, one)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "batch.xml"
    write_sample(path, payments=2000, accounts=20)
    noise = "        <SplmtryData>" + "<Envlp><x>noise</x></Envlp>" * 300 + "</SplmtryData>\n"
    end = "      </CdtTrfTxInf>\n"
    path.write_text(path.read_text().replace(end, noise + end))
    assert path.stat().st_size > 15_000_000
    gc.collect()

    tracemalloc.start()
    try:
        batch = read_batch(path)
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(batch.payments) == 2000
    assert peak_bytes - kept_bytes < 1_000_000


def outcome(content: bytes) -> Batch | None:
    """The batch, or `None` for a declared error; anything else escapes and fails the test."""
    try:
        batch = read_batch(content)
    except PaymentFileError:
        return None
    ids = [payment.key for payment in batch.payments]
    assert len(set(ids)) == len(ids)
    for payment in batch.payments:
        assert payment.amount.cents > 0
        assert not payment.payer.same_account(payment.payee)
        for party in (payment.payer, payment.payee):
            assert party.iban is None or parse_iban(party.iban) == party.iban
    lines_count = content.count(b"\n") + content.count(b"\r") + 1
    lines = {payment.line for payment in batch.payments}
    lines |= {rejection.line for rejection in batch.rejected}
    lines |= {finding.line for finding in batch.findings}
    assert all(1 <= line <= lines_count for line in lines)
    assert all(rejection.reason for rejection in batch.rejected)
    return batch


SOURCES = [(DATA / f"batch.{version}.xml").read_bytes() for version in ("03", "09", "12")]
EDITS = st.lists(
    st.tuples(
        st.integers(0, 6000),
        st.integers(0, 20),
        st.binary(max_size=6)
        | st.sampled_from([b"<", b">", b"&", b"</", b"]]>", b"<!--", b"\xff"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SOURCES), EDITS)
def test_corrupt_bytes_raise_only_declared_errors(
    content: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for at, removed, inserted in edits:
        content = content[:at] + inserted + content[at + removed :]
    outcome(content)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_raise_only_declared_errors(content: bytes) -> None:
    assert outcome(content) is None


TEXT = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=50)
    | st.decimals().map(str)
    | st.integers(-(10**20), 10**20).map(str)
    | st.dates().map(str)
    | st.datetimes().map(lambda moment: moment.isoformat())
    | st.sampled_from(["NOTPROVIDED", "E-1", "1e5", "Infinity", "٣", "1_0", "DE00", "+1", "-0"])
).filter(lambda text: "\ufffe" not in text and "\uffff" not in text)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_text_in_any_element_is_taken_or_rejected(data: st.DataObject) -> None:
    parts = data.draw(st.sampled_from(SOURCES)).decode().split("<")
    leaves = [
        number
        for number, (part, following) in enumerate(itertools.pairwise(parts))
        if following.startswith(f"/{part.partition('>')[0].partition(' ')[0]}>")
    ]
    for leaf in data.draw(st.lists(st.sampled_from(leaves), min_size=1, max_size=4)):
        tag, _, _ = parts[leaf].partition(">")
        parts[leaf] = f"{tag}>{escape(data.draw(TEXT))}"
    content = "<".join(parts).encode()

    batch = outcome(content)

    if batch is not None:
        assert len(batch.payments) + len(batch.rejected) == content.count(b"CdtTrfTxInf>") // 2


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2000))
def test_a_file_that_breaks_off_is_never_half_read(length: int) -> None:
    content = sample_xml(make_sample(payments=1, accounts=2))
    last = content.rindex(b"</Document>") + len(b"</Document>") - 1

    with pytest.raises(NotXml):
        read_batch(content[: min(length, last)])


def test_the_line_of_every_payment_is_the_line_of_its_element() -> None:
    content = sample_xml(make_sample(payments=50, accounts=5))
    lines = content.decode().split("\n")

    for payment in read_batch(content).payments:
        assert lines[payment.line - 1].strip() == "<CdtTrfTxInf>"
        assert payment.line < line_of(content, payment.end_to_end_id) < payment.line + 5

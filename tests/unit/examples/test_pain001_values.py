"""Account numbers and amounts: what is one, what is not, and why."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from examples.payments.pain001 import (
    IBAN_LENGTHS,
    MINOR_DIGITS,
    InvalidAmount,
    InvalidIban,
    Money,
    check_digits,
    parse_iban,
)
from examples.payments.pain001.money import CENTS_MAX
from examples.payments.sample import make_sample

#: One published example for each country of the SEPA schemes.
SEPA = [
    "AD1200012030200359100100",
    "AL47212110090000000235698741",
    "AT611904300234573201",
    "BE68539007547034",
    "BG80BNBG96611020345678",
    "CH9300762011623852957",
    "CY17002001280000001200527600",
    "CZ6508000000192000145399",
    "DE89370400440532013000",
    "DK5000400440116243",
    "EE382200221020145685",
    "ES9121000418450200051332",
    "FI2112345600000785",
    "FR1420041010050500013M02606",
    "GB29NWBK60161331926819",
    "GI75NWBK000000007099453",
    "GR1601101250000000012300695",
    "HR1210010051863000160",
    "HU42117730161111101800000000",
    "IE29AIBK93115212345678",
    "IS140159260076545510730339",
    "IT60X0542811101000000123456",
    "LI21088100002324013AA",
    "LT121000011101001000",
    "LU280019400644750000",
    "LV80BANK0000435195001",
    "MC5811222000010123456789030",
    "MD24AG000225100013104168",
    "ME25505000012345678951",
    "MK07250120000058984",
    "MT84MALT011000012345MTLCAST001S",
    "NL91ABNA0417164300",
    "NO9386011117947",
    "PL61109010140000071219812874",
    "PT50000201231234567890154",
    "RO49AAAA1B31007593840000",
    "RS35260005601001611379",
    "SE4550000000058398257466",
    "SI56263300012039086",
    "SK3112000000198742637541",
    "SM86U0322509800000000270100",
    "VA59001123000012345678",
    "XK051212012345678906",
    "SA0380000000608010167519",
    "NI45BAPR00000013000003558124",
]


@pytest.mark.parametrize("iban", SEPA)
def test_published_examples_are_accepted(iban: str) -> None:
    assert parse_iban(iban) == iban
    assert IBAN_LENGTHS[iban[:2]] == len(iban)
    assert check_digits(iban[:2], iban[4:]) == iban[2:4]


def test_small_letters_after_the_country_are_the_same_account() -> None:
    assert parse_iban("FR1420041010050500013m02606") == "FR1420041010050500013M02606"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with a country"),
        ("de89370400440532013000", "does not begin with a country"),
        ("US89370400440532013000", "does not begin with a country"),
        ("DE8937040044053201300", "has 21 characters, where DE has 22"),
        ("DE893704004405320130000", "has 23 characters, where DE has 22"),
        ("DE89 3704 0044 0532 0130 00", "is written with spaces"),
        ("DE89370400440532O13000", "does not have the form of DE (n18)"),
        ("DE8937040044053201300²", "does not have the form of DE"),
        ("DE89-7040044053201300Z", "does not have the form of DE"),
        ("DE88370400440532013000", "has wrong check digits"),
        ("DE³9370400440532013000", "has wrong check digits"),
        ("NL91AB1A0417164300", "does not have the form of NL (a4n10)"),
        ("D" * 500, "(500 characters)"),
    ],
)
def test_what_is_no_iban(text: str, reason: str) -> None:
    with pytest.raises(InvalidIban) as caught:
        parse_iban(text)

    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


def test_check_digits_have_one_value_although_three_would_fit_the_remainder() -> None:
    # 98 - r is between 2 and 98, so that 00, 01 and 99 are never right, even where mod 97 fits.
    rng = random.Random(0)
    low = next(
        bban
        for bban in iter(lambda: f"{rng.randrange(10**18):018}", "")
        if check_digits("DE", bban) == "02"
    )

    assert parse_iban(f"DE02{low}")
    with pytest.raises(InvalidIban):
        parse_iban(f"DE99{low}")


@given(st.data())
def test_one_mistyped_or_two_swapped_figures_are_noticed(data: st.DataObject) -> None:
    accounts = make_sample(payments=1, accounts=20).accounts
    iban = data.draw(st.sampled_from(accounts)).iban
    figures = [n for n, letter in enumerate(iban) if letter.isdigit()]
    at = data.draw(st.sampled_from(figures))
    other = data.draw(st.sampled_from([f for f in "0123456789" if f != iban[at]]))

    with pytest.raises(InvalidIban):
        parse_iban(f"{iban[:at]}{other}{iban[at + 1 :]}")
    swapped = f"{iban[:-2]}{iban[-1]}{iban[-2]}"
    if swapped != iban:
        with pytest.raises(InvalidIban):
            parse_iban(swapped)


@pytest.mark.parametrize(
    ("text", "currency", "cents"),
    [
        ("1", "EUR", 100),
        ("1.5", "EUR", 150),
        ("01.50000", "EUR", 150),
        (".01", "EUR", 1),
        ("7.", "EUR", 700),
        ("+2.00", "EUR", 200),
        ("-2.00", "EUR", -200),
        ("0", "EUR", 0),
        ("-0.00", "EUR", 0),
        ("1".zfill(40), "EUR", 100),
        ("100.00", "JPY", 100),
        ("1.234", "KWD", 1234),
        ("1.2345", "CLF", 12345),
        ("9999999999999999.99", "EUR", CENTS_MAX),
        ("999999999999999999", "JPY", CENTS_MAX),
    ],
)
def test_an_amount_is_read_in_minor_units(text: str, currency: str, cents: int) -> None:
    assert Money.parse(text, currency) == Money(cents=cents, currency=currency)


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("", "EUR", "'' is not a decimal number"),
        ("1,5", "EUR", "'1,5' is not a decimal number"),
        ("1_000", "EUR", "'1_000' is not a decimal number"),
        ("1e2", "EUR", "'1e2' is not a decimal number"),
        ("٣", "EUR", "'٣' is not a decimal number"),
        ("Infinity", "EUR", "'Infinity' is not a decimal number"),
        ("sNaN", "EUR", "'sNaN' is not a decimal number"),
        ("0" * 41, "EUR", "is not a decimal number"),
        (" 1", "EUR", "is not a decimal number"),
        ("0.001", "EUR", "0.001 has more decimals than EUR has (2)"),
        ("0.1", "JPY", "0.1 has more decimals than JPY has (0)"),
        ("1.2345", "KWD", "1.2345 has more decimals than KWD has (3)"),
        ("10000000000000000.00", "EUR", "has more than 18 digits"),
        ("1000000000000000000", "JPY", "has more than 18 digits"),
        ("1", "EUX", "is in 'EUX', which is no currency"),
        ("1", "eur", "is in 'eur', which is no currency"),
        ("1", "XXX", "is in 'XXX', which is no currency"),
    ],
)
def test_what_is_no_amount(text: str, currency: str, reason: str) -> None:
    with pytest.raises(InvalidAmount) as caught:
        Money.parse(text, currency)

    assert reason in str(caught.value)


@given(st.integers(-CENTS_MAX, CENTS_MAX), st.sampled_from(sorted(MINOR_DIGITS)))
def test_an_amount_written_and_read_is_the_same(cents: int, currency: str) -> None:
    money = Money(cents=cents, currency=currency)

    number, code = str(money).split()

    assert Money.parse(number, code) == money
    assert Money.parse(f"{number}000" if "." in number else f"{number}.000", code) == money
    assert len(number.partition(".")[2]) == MINOR_DIGITS[currency]


@pytest.mark.parametrize(
    "fields",
    [
        {"cents": 1.0, "currency": "EUR"},
        {"cents": "1", "currency": "EUR"},
        {"cents": CENTS_MAX + 1, "currency": "EUR"},
        {"cents": 1, "currency": "euro"},
        {"cents": 1, "currency": "EUR", "digits": 2},
    ],
)
def test_money_takes_whole_cents_of_a_currency_and_nothing_else(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate(fields)


def test_money_does_not_change() -> None:
    money = Money(cents=1, currency="EUR")

    with pytest.raises(ValidationError):
        money.cents = 2  # type: ignore[misc]

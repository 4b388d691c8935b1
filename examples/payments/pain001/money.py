"""Amounts of money as whole minor units (cents), so that sums are exact."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from examples.payments.pain001.values import parse_decimal, shown

# The codes of ISO 4217 by the number of digits of their minor unit, and the lately withdrawn ones
# that files still carry. Metals, bond units and test codes have no minor unit: they are left out,
# and so are refused.
_CODES_BY_DIGITS: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN "
    "BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP "
    "GBP GEL GHS GIP GMD GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT "
    "LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO "
    "NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS "
    "SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD "
    "XCD XCG YER ZAR ZMW ZWG ZWL",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
MINOR_DIGITS: Final[Mapping[str, int]] = {
    code: digits for digits, codes in _CODES_BY_DIGITS.items() for code in codes.split()
}
# ISO 20022 allows an amount 18 digits. They are counted here in minor units, which keeps every
# amount below 2^63, the largest whole number of many databases.
CENTS_MAX: Final = 10**18 - 1


class InvalidAmount(ValueError):
    """The text is not an amount of that currency. The message goes on from "the amount"."""


class Money(BaseModel):
    """An amount in whole minor units of its currency: cents for EUR, yen for JPY, fils for KWD."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cents: Annotated[int, Field(strict=True, ge=-CENTS_MAX, le=CENTS_MAX)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]

    @classmethod
    def parse(cls, text: str, currency: str) -> Self:
        """Read `text`, an `xs:decimal`, as an amount of `currency` without ever rounding.

        Zeros beyond the currency's digits say nothing and are allowed ("100.00" JPY).

        Raises `InvalidAmount`: not a number, an unknown currency, more decimals than the currency
        has, or more than 18 digits.
        """
        value = parse_decimal(text)
        if value is None:
            raise InvalidAmount(f"{shown(text)} is not a decimal number")
        digits = MINOR_DIGITS.get(currency)
        if digits is None:
            raise InvalidAmount(f"is in {shown(currency)}, which is no currency of ISO 4217")
        # as_tuple, because arithmetic would round to the precision of whatever context is set
        sign, figures, exponent = value.as_tuple()
        assert isinstance(exponent, int), "parse_decimal lets neither NaN nor infinity through"
        shift = exponent + digits
        kept = figures if shift >= 0 else figures[:shift]
        if shift < 0 and any(figures[shift:]):
            raise InvalidAmount(f"{text} has more decimals than {currency} has ({digits})")
        cents = int("".join(map(str, kept)) or "0") * 10 ** max(shift, 0)
        if cents > CENTS_MAX:
            raise InvalidAmount(f"{text} has more than 18 digits, counted in minor units")
        return cls(cents=-cents if sign else cents, currency=currency)

    def to_decimal(self) -> Decimal:
        """The amount in the major unit (euros, not cents), with all digits of its currency."""
        return Decimal(f"{self.cents}E-{MINOR_DIGITS.get(self.currency, 2)}")

    def __str__(self) -> str:
        return f"{self.to_decimal():f} {self.currency}"

"""The lexical forms of XML Schema that payment files use: decimals, dates, times.

Python's own parsers are more generous than XML Schema (underscores, exponents, week dates, digits
of other scripts), and what a bank would refuse must not be paid here; so each form is checked first.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:Z|[+-][0-9]{2}:[0-9]{2})?")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})?"
)
# Room for 18 digits on either side of the point, a sign and padding; it bounds the work of a sum.
DECIMAL_CHARS_MAX = 40


def parse_decimal(text: str) -> Decimal | None:
    """The value of an `xs:decimal`, exactly, or `None` where `text` is not one of sane length."""
    if len(text) > DECIMAL_CHARS_MAX or _DECIMAL.fullmatch(text) is None:
        return None
    return Decimal(text)


def parse_date(text: str) -> date | None:
    """The day of an `xs:date`, or `None`. A time zone is allowed there, and says nothing here."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        return date.fromisoformat(match[1])
    except ValueError:  # the form is right and the day does not exist, such as 30 February
        return None


def parse_datetime(text: str) -> datetime | None:
    """The time of an `xs:dateTime`, aware only if the text has a zone, or `None`."""
    if _DATE_TIME.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def shown(text: str) -> str:
    """`text` quoted for a message, cut short so that a hostile file cannot flood a report."""
    return repr(text) if len(text) <= 40 else f"{text[:37]!r}… ({len(text):,} characters)"

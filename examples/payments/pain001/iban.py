"""International bank account numbers (ISO 13616): their form by country and their check digits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from examples.payments.pain001.values import shown

# What follows the country and the two check digits, as the IBAN registry of ISO 13616 writes it:
# n digits, a capital letters, c either. Territories that use a neighbour's form stand beside it.
_REGISTRY: Final = """
    AD:n8c12 AE:n19 AL:n8c16 AT:n16 AZ:a4c20 BA:n16 BE:n12 BG:a4n6c8 BH:a4c14 BI:n23 BR:n23a1c1
    BY:c4n4c16 CH,LI:n5c12 CR:n18 CY:n8c16 CZ,SK:n20 DE:n18 DJ:n23 DK,FO,GL:n14 DO:c4n20 EE:n16
    EG:n25 ES:n20 FI,AX:n14 FK:a2n12
    FR,BL,GF,GP,MC,MF,MQ,NC,PF,PM,RE,TF,WF,YT:n10c11n2
    GB,GG,IE,IM,JE:a4n14 GE:a2n16 GI:a4c15 GR:n7c16 GT:c24 HN:a4n20 HR:n17 HU:n24 IL:n19 IQ:a4n15
    IS:n22 IT,SM:a1n10c12 JO:a4n4c18 KW:a4c22 KZ:n3c13 LB:n4c20 LC:a4c24 LT:n16 LU:n3c13 LV:a4c13
    LY:n21 MD:c20 ME:n18 MK:n3c10n2 MN:n16 MR:n23 MT:a4n5c18 MU:a4n19a3 NI:a4n20 NL:a4n10 NO:n11
    OM:n3c16 PK:a4c16 PL:n24 PS:a4c21 PT:n21 QA:a4c21 RO:a4c16 RS:n18 RU:n14c15 SA:n2c18
    SC:a4n20a3 SD:n14 SE:n20 SI:n15 SO:n19 ST:n21 SV:a4n20 TL:n19 TN:n20 TR:n6c16 UA:n6c19 VA:n18
    VG:a4n16 XK:n16 YE:a4n4c18
"""
_CLASSES: Final = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Z0-9]"}
_LETTER_VALUES: Final = {ord("A") + i: str(10 + i) for i in range(26)}


class InvalidIban(ValueError):
    """The text is not an IBAN. The message goes on from "the IBAN"."""


def _structures() -> Mapping[str, tuple[str, re.Pattern[str], int]]:
    table = {}
    for entry in _REGISTRY.split():
        countries, structure = entry.split(":")
        parts = [(kind, int(count)) for kind, count in re.findall(r"([nac])(\d+)", structure)]
        pattern = re.compile("".join(f"{_CLASSES[kind]}{{{count}}}" for kind, count in parts))
        length = 4 + sum(count for _, count in parts)
        table.update(dict.fromkeys(countries.split(","), (structure, pattern, length)))
    return table


_STRUCTURES: Final = _structures()
IBAN_LENGTHS: Final[Mapping[str, int]] = {c: length for c, (_, _, length) in _STRUCTURES.items()}


def check_digits(country: str, bban: str) -> str:
    """The two check digits of an account, `country` and `bban` in capitals (ISO 7064, MOD 97-10).

    Letters count 10 to 35; the country and "00" go to the end; 98 minus the remainder by 97.
    """
    return f"{98 - int(f'{bban}{country}00'.translate(_LETTER_VALUES)) % 97:02}"


def parse_iban(text: str) -> str:
    """The IBAN in the form it is compared in: no spaces, all capitals.

    Raises `InvalidIban` if the country is not in the registry, or length, kinds of characters or
    check digits are not those of the country.
    """
    country = text[:2]
    if country not in _STRUCTURES:
        raise InvalidIban(f"{shown(text)} does not begin with a country that has IBANs")
    structure, pattern, length = _STRUCTURES[country]
    if " " in text:
        raise InvalidIban(f"{shown(text)} is written with spaces, which a file leaves out")
    if len(text) != length:
        raise InvalidIban(f"{shown(text)} has {len(text)} characters, where {country} has {length}")
    digits, bban = text[2:4], text[4:].upper()
    if pattern.fullmatch(bban) is None:
        raise InvalidIban(f"{text!r} does not have the form of {country} ({structure})")
    if digits != check_digits(country, bban):
        raise InvalidIban(f"{text!r} has wrong check digits: a figure is mistyped")
    return f"{country}{digits}{bban}"

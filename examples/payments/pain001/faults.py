"""Reading one value of a record, and collecting what is wrong on the way, each with its line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from examples.payments.pain001.models import Rejection
from examples.payments.pain001.xml_reader import Record


@dataclass(frozen=True, slots=True)
class Value:
    """Text of the file, trimmed, and the line of its element."""

    line: int
    text: str


class Faults:
    """What is wrong with one payment or block, each fault with its line."""

    def __init__(self, found: Iterable[tuple[int, str]] = ()) -> None:
        self.found = list(found)

    def add(self, line: int, reason: str) -> None:
        """Note one fault, on `line` of the file."""
        self.found.append((line, reason))

    def rejection(self, record: Record, end_to_end_id: str | None) -> Rejection:
        """All faults as one rejection, on the line of the first fault inside the payment itself.

        A fault that lies elsewhere, such as in the block's payer, says its own line.
        """
        line = min((at for at, _ in self.found if at >= record.line), default=record.line)
        ordered = sorted(self.found, key=lambda fault: (fault[0] < record.line, fault[0]))
        reasons = [why if at == line else f"{why} (line {at})" for at, why in ordered]
        return Rejection(line, end_to_end_id, "; ".join(reasons))


def read_one(
    record: Record, path: str, what: str, faults: Faults, *, chars_max: int, required: bool = True
) -> Value | None:
    """The text of the one element at `path`, or `None` with a fault unless it is just optional.

    A value that is there twice is a fault: two readers would not agree which one counts.
    """
    found = record.fields.get(path, [])
    if not found:
        if required:
            faults.add(record.line, f"{what} is missing ({path})")
        return None
    first, text = found[0], found[0].text.strip()
    if len(found) > 1:
        faults.add(found[1].line, f"{what} is there {len(found)} times ({path})")
    elif first.nested:
        faults.add(first.line, f"{what} holds elements where only text belongs ({path})")
    elif first.cut or len(text) > chars_max:
        faults.add(first.line, f"{what} is longer than {chars_max} characters ({path})")
    elif not text:
        faults.add(first.line, f"{what} is empty ({path})")
    else:
        return Value(first.line, text)
    return None

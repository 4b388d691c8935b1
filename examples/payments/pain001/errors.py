"""What can be wrong with a payment file as a whole.

    PaymentFileError        the file cannot be read; nothing of it was taken
    ├── FileTooLarge        longer than the limit
    ├── NotXml              not well-formed XML, or an encoding that is not read
    ├── UnsafeXml           XML that attacks its reader: a DTD, entities, endless nesting
    ├── WrongMessage        sound XML, but not a credit transfer initiation
    ├── UnknownVersion      a credit transfer initiation of a version that is not read
    └── BadHeader           the group header does not name the message or its time

A fault of one payment is none of these: it becomes a `Rejection`, and the rest of the file goes on.
"""

from __future__ import annotations


class PaymentFileError(Exception):
    """The file cannot be read as a whole, and nothing of it was taken.

    `line` is the line of the file, from 1, or `None` where no line is to blame.
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class FileTooLarge(PaymentFileError):
    """The file is longer than `limit_bytes`. Reading stopped there, so memory stayed bounded."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the payment file is longer than {limit_bytes:,} bytes. Split it, or raise "
            "Limits.file_bytes_max if you trust whoever sent it."
        )
        self.limit_bytes = limit_bytes


class NotXml(PaymentFileError):
    """The file is not well-formed XML, or is written in an encoding that is not read."""


class UnsafeXml(PaymentFileError):
    """The file is XML that no payment file needs and attacks are made of; it was not expanded."""


class WrongMessage(PaymentFileError):
    """The file is XML, but another message. `found` says which one, or what its root is."""

    def __init__(self, found: str, *, line: int) -> None:
        super().__init__(
            f"this is {found}; a payment file is a customer credit transfer initiation (pain.001)",
            line=line,
        )
        self.found = found


class UnknownVersion(PaymentFileError):
    """The file is pain.001, but of a version whose differences are not known here."""

    def __init__(self, found: str, *, line: int) -> None:
        super().__init__(
            f"this is {found}; the versions read are pain.001.001.03 to pain.001.001.12", line=line
        )
        self.found = found


class BadHeader(PaymentFileError):
    """The group header is missing, is there twice, or does not hold a usable id and time."""

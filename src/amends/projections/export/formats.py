"""What files may hold."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """What a file holds; also the end of its name."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"

"""Parquet, by pyarrow: an extra of the package."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Boolean, Date, Float, Integer, LargeBinary, Numeric, Table

from amends.errors import UsageError
from amends.projections.export.reading import Batch
from amends.projections.export.text import Sink
from amends.projections.moment import Moment

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as error:
    raise UsageError(
        f"Parquet files need pyarrow, and it cannot be imported: {error}. Nothing was written. "
        "Install it with: pip install 'amends[parquet]'; or choose --format csv or jsonl"
    ) from None

#: The largest precision of Arrow's decimals.
DIGITS_MAX: Final = 76


class ParquetWriter:
    """One row group for each batch. Moments are timestamps in UTC, to the microsecond."""

    def __init__(self, sink: Sink, table: Table) -> None:
        fields = [
            pyarrow.field(column.name, _type(column.type), nullable=bool(column.nullable))
            for column in table.columns
        ]
        self._schema = pyarrow.schema(fields)
        self._writer = parquet.ParquetWriter(sink, self._schema, compression="zstd")

    def write(self, batch: Batch) -> None:
        """Write rows."""
        columns = [
            pyarrow.array(
                map(_text, values) if field.type == pyarrow.string() else values, field.type
            )
            for values, field in zip(zip(*batch, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        """Write the footer, without which there is no Parquet file."""
        self._writer.close()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _type(type: Any) -> Any:
    """Arrow's type for a column; what has none of its own is text."""
    if isinstance(type, Boolean):
        return pyarrow.bool_()
    if isinstance(type, Integer):
        return pyarrow.int64()
    if isinstance(type, Moment):
        return pyarrow.timestamp("us", tz="UTC")
    if isinstance(type, LargeBinary):
        return pyarrow.binary()
    if isinstance(type, Date):
        return pyarrow.date32()
    if isinstance(type, Float):
        return pyarrow.float64()
    if isinstance(type, Numeric):
        return _number(type)
    return pyarrow.string()


def _number(type: Numeric[Any]) -> Any:
    if not type.asdecimal:
        return pyarrow.float64()
    if type.precision is None or type.precision > DIGITS_MAX:
        return pyarrow.string()
    kind = pyarrow.decimal128 if type.precision <= 38 else pyarrow.decimal256
    return kind(type.precision, type.scale or 0)

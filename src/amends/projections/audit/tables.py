"""The tables of the audit trail."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

from amends.projections.moment import Moment

_metadata: Final = MetaData()

#: One for each event of the log, numbered from 1: what it was, and the two hashes.
records: Final = Table(
    "audit_records",
    _metadata,
    Column("n", BigInteger, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("stream", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("at", Moment, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("audit_records_by_position", "position", unique=True),
)
#: The last record, in the one row of id 1: what the next one follows.
head: Final = Table(
    "audit_head",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("at", Moment, nullable=False),
)
checkpoints: Final = Table(
    "audit_checkpoints",
    _metadata,
    Column("n", BigInteger, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("at", Moment, nullable=False),
    Column("key", String, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
#: Streams of which a removal is on record, with the position of that record and its version in the
#: stream of these. `version` is that of the stream's last event.
removals: Final = Table(
    "audit_removals",
    _metadata,
    Column("stream", String, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("decision", BigInteger, nullable=False),
)

"""Exports hold what the tables hold: exactly, all of it, and of one moment."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from sqlalchemy import BigInteger, Boolean, Column, Float, LargeBinary, MetaData, String, Table

from amends.domain.events import SagaStarted
from amends.errors import NotRegistered, UsageError
from amends.projections import Event, Moment, Projection, Rows, on
from amends.projections.build import build
from amends.projections.database import Database
from amends.projections.export.files import export_to_folder, export_to_sink
from amends.projections.export.formats import Format
from amends.stores.memory import MemoryStore
from amends.testing.clock import ManualClock

things = Table(
    "things",
    MetaData(),
    Column("n", BigInteger, primary_key=True),
    Column("text", String),
    Column("amount", String),
    Column("cents", BigInteger),
    Column("yes", Boolean),
    Column("at", Moment),
    Column("share", Float),
    Column("raw", LargeBinary),
)
more = Table("more_things", MetaData(), Column("n", BigInteger, primary_key=True))


class Things(Projection):
    name = "things"
    tables = (things, more)
    skips_unknown = True

    @on(SagaStarted)
    def nothing(self, event: Event[SagaStarted], rows: Rows) -> None: ...


Row = dict[str, Any]
AT = datetime(2026, 5, 1, 12, 0, 0, 1, UTC)
ROW = {
    "n": 1, "text": 'a "quoted", one\r\nand a line', "amount": "12345678901234567890.10",
    "cents": 2**62 + 1, "yes": True, "at": AT, "share": 0.1,
    "raw": b"\x00\xff",
}  # fmt: skip
EMPTY = {**dict.fromkeys(ROW), "n": 2}
ODD = {**EMPTY, "n": 3, "text": "", "yes": False}


@pytest.fixture
async def filled(database: Database) -> Database:
    await build(Things(), MemoryStore(ManualClock()), database)
    await fill(database, [ROW, EMPTY, ODD])
    return database


async def fill(database: Database, rows: list[Row]) -> None:
    def write(connection: Any) -> None:
        connection.execute(things.delete())
        connection.execute(things.insert(), rows)

    await database.run(write)


async def exported(database: Database, format: Format, only: str = "things") -> bytes:
    sink = io.BytesIO()
    told = await database.look(lambda c: export_to_sink(c, "things", format, sink, only=only))
    assert told.table == only
    return sink.getvalue()


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("*.csv*")]


async def test_csv(filled: Database) -> None:
    text = (await exported(filled, Format.CSV)).decode()
    assert text == (
        "n,text,amount,cents,yes,at,share,raw\r\n"
        '1,"a ""quoted"", one\r\nand a line",12345678901234567890.10,4611686018427387905,true,'
        "2026-05-01T12:00:00.000001Z,0.1,AP8=\r\n"
        "2,,,,,,,\r\n"
        '3,"",,,false,,,\r\n'
    )
    assert next(csv.DictReader(io.StringIO(text, newline="")))["text"] == ROW["text"]


async def test_json_lines(filled: Database) -> None:
    lines = (await exported(filled, Format.JSONL)).splitlines()
    told = {**ROW, "at": "2026-05-01T12:00:00.000001Z", "raw": "AP8="}
    assert [json.loads(line) for line in lines] == [told, EMPTY, ODD]


async def test_parquet(filled: Database, tmp_path: Path) -> None:
    written = await filled.look(
        lambda c: export_to_folder(c, "things", Format.PARQUET, tmp_path / "out")
    )
    assert [(one.table, one.rows) for one in written] == [("things", 3), ("more_things", 0)]
    table = parquet.read_table(tmp_path / "out" / "things.parquet")
    assert table.to_pylist() == [ROW, EMPTY, ODD]
    assert table.schema.field("at").type == pyarrow.timestamp("us", tz="UTC")
    assert table.schema.field("cents").type == pyarrow.int64()
    assert parquet.read_table(tmp_path / "out" / "more_things.parquet").num_rows == 0


NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1)
YEARS = st.integers(-(10**15), 10**16).map(lambda us: AT + timedelta(microseconds=us))
MOMENTS = st.none() | YEARS
TEXTS = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXTS, cents=NUMBERS, at=MOMENTS, raw=st.none() | st.binary())
async def test_nothing_is_changed_on_the_way(
    filled: Database, text: str | None, cents: int | None, at: datetime | None, raw: bytes | None
) -> None:
    row = {**EMPTY, "text": text, "cents": cents, "at": at, "raw": raw}
    await fill(filled, [row])
    line = json.loads(await exported(filled, Format.JSONL))
    assert (line["text"], line["cents"]) == (text, cents)
    assert at == (None if line["at"] is None else datetime.fromisoformat(line["at"]))
    sink = io.BytesIO()
    await filled.look(lambda c: export_to_sink(c, "things", Format.PARQUET, sink, only="things"))
    assert parquet.read_table(pyarrow.BufferReader(sink.getvalue())).to_pylist() == [row]
    (read,) = csv.DictReader(io.StringIO((await exported(filled, Format.CSV)).decode(), newline=""))
    assert read["text"] == (text or "")


async def test_many_rows_are_never_in_memory_at_once(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amends.projections.export.reading.BATCH", 10)
    await fill(filled, [{**EMPTY, "n": n, "at": AT + timedelta(n)} for n in range(95)])
    chunks: list[bytes] = []

    class Chunks:
        def write(self, data: bytes) -> None:
            chunks.append(bytes(data))

    await filled.look(lambda c: export_to_sink(c, "things", Format.JSONL, Chunks(), only="things"))
    assert [chunk.count(b"\n") for chunk in chunks] == [10] * 9 + [5]
    assert [json.loads(line)["n"] for line in b"".join(chunks).splitlines()] == [*range(95)]


async def test_what_cannot_be_is_refused_and_nothing_is_written(
    filled: Database, tmp_path: Path
) -> None:
    sink = io.BytesIO()
    with pytest.raises(
        NotRegistered, match="no projection 'thing' in this database; it has things"
    ):
        await filled.look(lambda c: export_to_sink(c, "thing", Format.CSV, sink))
    with pytest.raises(NotRegistered, match="no table 'other'; it has things, more_things"):
        await filled.look(lambda c: export_to_sink(c, "things", Format.CSV, sink, only="other"))
    with pytest.raises(UsageError, match="several tables: things, more_things"):
        await filled.look(lambda c: export_to_sink(c, "things", Format.CSV, sink))
    (tmp_path / "more_things.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"more_things\.csv exists"):
        await filled.look(lambda c: export_to_folder(c, "things", Format.CSV, tmp_path))
    assert names_in(tmp_path) == ["more_things.csv"]
    assert (tmp_path / "more_things.csv").read_text() == "mine"
    assert sink.getvalue() == b""


async def test_a_file_that_could_not_be_finished_is_not_there(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("amends.projections.export.text.CsvWriter.close", full)
    with pytest.raises(OSError, match="no space left"):
        await filled.look(lambda c: export_to_folder(c, "things", Format.CSV, tmp_path / "out"))
    assert names_in(tmp_path / "out") == []

"""A batch leaves behind what its events would have left behind one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Float, Integer, MetaData, String, Table, create_engine
from sqlalchemy.exc import IntegrityError

from amends.projections.rows import Rows
from amends.projections.writing import Statements

exact = Table(
    "exact", MetaData(), Column("k", Integer, primary_key=True), Column("a", Integer),
    Column("b", String, nullable=False), Column("u", Integer),
)  # fmt: skip
ruled = Table(
    "ruled", MetaData(), Column("k", Integer, primary_key=True), Column("a", Integer),
    Column("b", String, nullable=False), Column("u", Integer, unique=True),
)  # fmt: skip
inexact = Table(
    "inexact", MetaData(), Column("k", Integer, primary_key=True),
    Column("l", String, primary_key=True), Column("a", Integer), Column("b", Float),
)  # fmt: skip

CONNECTION = create_engine("sqlite://").connect()
with CONNECTION.begin():
    for table in (exact, inexact, ruled):
        table.create(CONNECTION)

keys = st.integers(0, 3)
small = st.integers(0, 5)
values = st.fixed_dictionaries(
    {}, optional={"a": small, "b": st.sampled_from("xyz"), "u": st.none() | small}
)
operations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "update", "upsert", "delete", "add", "get", "find"]),
        st.sampled_from([exact, inexact, ruled]), keys, values,
    ),
    max_size=25,
)  # fmt: skip


def do(rows: Rows, operation: Any) -> Any:
    name, table, key, given = operation
    on_exact = table is not inexact
    where: dict[str, Any] = {"k": key} if on_exact else {"k": key, "l": str(key % 2)}
    given = {n: v for n, v in given.items() if on_exact or n != "u"}
    if not on_exact and "b" in given:
        given["b"] = float(ord(given["b"]))
    if name == "insert" and on_exact:
        given.setdefault("b", "new")
    if name in ("delete", "get"):
        given = {}
    elif name == "add":
        given = {"a": given.get("a", 1)}
    elif name == "find":
        where = {}
        given.pop("u", None)
    return getattr(rows, name)(table, **where, **given)


def outcome(connection: Connection, made: list[Any], batches: list[list[Any]]) -> Any:
    """What the reads said, and what is in the tables; or that a rule was broken."""
    statements = Statements(connection.dialect)
    real = {table: table for table in (exact, inexact, ruled)}
    said = []
    try:
        for batch in batches:
            rows = Rows(connection, real, statements)
            said += [do(rows, operation) for operation in batch]
            rows.flush()
    except IntegrityError:
        return "broken"
    tables = [connection.execute(table.select().order_by("k")).all() for table in real]
    return said, tables


@settings(deadline=None, max_examples=200)
@example(made=[("upsert", exact, 3, {}), ("delete", exact, 3, {})], cuts=[])
@example(
    made=[
        ("insert", ruled, 1, {"u": 1}),
        ("insert", ruled, 2, {"u": 1}),
        ("update", ruled, 1, {"u": 2}),
    ],
    cuts=[1],
)
@example(
    made=[
        ("insert", ruled, 1, {"u": 1}),
        ("upsert", ruled, 2, {"b": "x", "u": 1}),
        ("upsert", ruled, 1, {"b": "x", "u": 2}),
    ],
    cuts=[1],
)
@given(made=operations, cuts=st.lists(st.integers(0, 25), max_size=3))
def test_batches_make_no_difference(made: list[Any], cuts: list[int]) -> None:
    def run(batches: list[list[Any]]) -> Any:
        with CONNECTION.begin() as transaction:
            result = outcome(CONNECTION, made, batches)
            transaction.rollback()
        return result

    edges = [0, *sorted(cuts), len(made)]
    batches = [made[a:b] for a, b in pairwise(edges)]
    alone = run([[operation] for operation in made])
    together = run(batches)
    # A batch that breaks a rule is taken apart by the engine: one by one is what counts.
    assert together in (alone, "broken")

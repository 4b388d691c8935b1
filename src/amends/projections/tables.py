"""The tables of a projection: what they may be, and what they are called in the database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateTable

from amends.errors import DefinitionError

#: PostgreSQL cuts names at 63 bytes, and ours get a suffix while they are built.
NAME_CHARS_MAX: Final = 40
_NAME: Final = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{NAME_CHARS_MAX - 1}}}")
#: Tables of the engine's own.
RESERVED: Final = frozenset({"amends_projections", "amends_projection_history"})

#: From a projection's table to the one in the database.
Physical = Mapping[Table, Table]


def check_tables(where: str, tables: Any) -> tuple[Table, ...]:
    """The tables of a definition. Raises DefinitionError for what no projection can have."""
    if isinstance(tables, Table):
        raise DefinitionError(f"{where}.tables is one table; write tables = ({tables.name},)")
    found = tuple(tables)
    given: tuple[object, ...] = found
    if not found or not all(isinstance(table, Table) for table in given):
        raise DefinitionError(f"{where}.tables must be SQLAlchemy tables, at least one")
    names = [table.name.lower() for table in found]
    if len(set(names)) < len(names):
        raise DefinitionError(f"{where} has two tables of one name: {', '.join(sorted(names))}")
    for table in found:
        if fault := _fault(table):
            raise DefinitionError(f"{where}: table {table.name!r} {fault}")
    return found


def _fault(table: Table) -> str | None:
    if not _NAME.fullmatch(table.name) or table.name.lower() in RESERVED:
        return (
            "cannot have that name: use letters, digits and '_', at most "
            f"{NAME_CHARS_MAX}, and none of {', '.join(sorted(RESERVED))}"
        )
    if table.schema is not None:
        return "has a schema: leave it out; the database's address says where tables are"
    if not table.primary_key.columns:
        return "has no primary key: rows are told apart by it, and compared after a rebuild"
    if table.foreign_keys:
        return "has a foreign key: tables are filled in bulk, in no order among them"
    if any(not index.name for index in table.indexes):
        return "has an index without a name"
    return next((fault for column in table.columns if (fault := _column_fault(column))), None)


def _column_fault(column: Column[Any]) -> str | None:
    if any((column.default, column.server_default, column.onupdate, column.server_onupdate)):
        return f"has a default for {column.name!r}: every value comes from an event"
    if isinstance(column.type, DateTime):
        return (
            f"has a DateTime {column.name!r}: SQLite drops its zone. Use amends.projections.Moment"
        )
    if isinstance(column.type, Numeric) and column.type.asdecimal:
        return (
            f"has a Numeric {column.name!r}, which SQLite rounds: keep whole numbers of the "
            "smallest unit in a BigInteger, or text"
        )
    return None


def has_rules(table: Table) -> bool:
    """Whether rows can break a rule that is not about one column."""
    kinds = (UniqueConstraint, CheckConstraint)
    return any(isinstance(constraint, kinds) for constraint in table.constraints) or any(
        index.unique for index in table.indexes
    )


def physical(tables: Iterable[Table], build: int, *, shadow: bool) -> dict[Table, Table]:
    """The tables in the database: under their own names, or beside them while they are built.

    Names of indexes and constraints are unique in all of PostgreSQL's schema, and stay when a table
    is renamed: those of each build have its number.
    """
    metadata = MetaData()
    return {
        table: _copy(table, metadata, shadow_name(table, build) if shadow else table.name, build)
        for table in tables
    }


def shadow_name(table: Table, build: int) -> str:
    """What a table is called while it is built beside the live one."""
    return f"{table.name}__{build}"


def _copy(table: Table, metadata: MetaData, name: str, build: int) -> Table:
    columns = [
        Column(column.name, _type(column), nullable=column.nullable, autoincrement=False)
        for column in table.columns
    ]
    key = PrimaryKeyConstraint(
        *(column.name for column in table.primary_key.columns), name=f"{table.name}__{build}_pkey"
    )
    copy = Table(name, metadata, *columns, key)
    for constraint in table.constraints:
        # By their names: the columns of a copy are others.
        if isinstance(constraint, UniqueConstraint):
            names = [column.name for column in constraint.columns]
            copy.append_constraint(
                UniqueConstraint(*names, name=f"{table.name}__{build}_{'_'.join(names)}_key"[-60:])
            )
        elif isinstance(constraint, CheckConstraint):
            copy.append_constraint(CheckConstraint(constraint.sqltext))
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        names = [column.name for column in index.columns]
        Index(f"{index.name}__{build}", *(copy.c[name] for name in names), unique=index.unique)
    return copy


def _type(column: Column[Any]) -> Any:
    # SQLite keeps a table by its key itself if that is one INTEGER, which there has 64 bits, and by
    # an index beside it otherwise.
    is_key = column.primary_key and len(column.table.primary_key.columns) == 1
    if is_key and isinstance(column.type, BigInteger):
        return column.type.with_variant(Integer(), "sqlite")
    return column.type


def shape(tables: Sequence[Table], dialect: Dialect) -> str:
    """What the tables are, as text: another one means that rows of one do not fit the other."""
    copies = physical(tables, 0, shadow=False).values()
    parts = [str(CreateTable(copy).compile(dialect=dialect)) for copy in copies]
    parts += sorted(
        f"{'unique ' if index.unique else ''}index {index.name} {[c.name for c in index.columns]}"
        for copy in copies
        for index in copy.indexes
    )
    return "\n".join(" ".join(part.split()) for part in parts)

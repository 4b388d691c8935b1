"""Databases for projections: SQLite files, and a PostgreSQL database of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from amends.projections.database import Database

Open = Callable[[], Database]


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path / 'projections.db'}"


@pytest.fixture
async def open_database(address: str) -> AsyncIterator[Open]:
    """Opens the database, as often as there are processes; all are closed at the end."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(Database.at(address))
        return opened[-1]

    yield open_one
    for database in opened:
        await database.close()


@pytest.fixture
async def database(open_database: Open) -> Database:
    return open_database()

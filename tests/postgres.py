"""PostgreSQL for tests: a private server, started once, or the one that AMENDS_TEST_POSTGRES_URL names.

Where there is neither, tests that need it are skipped; with CI=true they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from amends.testing.postgres import PostgresMissing, PrivatePostgres

URL_VARIABLE = "AMENDS_TEST_POSTGRES_URL"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server."""
    if named := os.environ.get(URL_VARIABLE):
        yield named
        return
    try:
        server = PrivatePostgres()
    except PostgresMissing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with server:
        yield server.url


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[str]:
    """The URL of an empty database, which is dropped after the test."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield make_url(postgres).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

"""The event store for tests: the protocol double, or the server that AMENDS_TEST_ESDB_URI names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.esdb.double import ProtocolDouble
from tests.esdb.process import DoubleProcess

URI_VARIABLE = "AMENDS_TEST_ESDB_URI"


@pytest.fixture
async def esdb_double() -> AsyncIterator[ProtocolDouble]:
    """The double, in the test's loop, with a log of its own: for tests that make it misbehave."""
    async with ProtocolDouble.running() as double:
        yield double


@pytest.fixture(scope="session")
def esdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of a server that nobody harms: a real one, if one is named. All tests
    share it, and the double is a process of its own.
    """
    if named := os.environ.get(URI_VARIABLE):
        yield named
        return
    double = DoubleProcess(tmp_path_factory.mktemp("esdb"), keeps=False)
    asyncio.run(double.start())
    try:
        yield double.uri
    finally:
        double.kill()

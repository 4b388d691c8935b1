"""The event store for tests: the protocol double, or the server that AMENDS_TEST_ESDB_URI names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.esdb.double import ProtocolDouble

URI_VARIABLE = "AMENDS_TEST_ESDB_URI"


@pytest.fixture
async def esdb_double() -> AsyncIterator[ProtocolDouble]:
    """The double, in the test's loop, with a log of its own: for tests that make it misbehave."""
    async with ProtocolDouble.running() as double:
        yield double


@pytest.fixture
async def esdb() -> AsyncIterator[str]:
    """The connection string of a server that nobody harms: a real one, if one is named."""
    if named := os.environ.get(URI_VARIABLE):
        yield named
        return
    async with ProtocolDouble.running() as double:
        yield double.uri

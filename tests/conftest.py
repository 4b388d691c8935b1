"""Virtual time for the tests that are marked so, and assertions that explain themselves."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import structlog

from amends.testing.clock import VirtualClock, VirtualTimeLoop, virtual_clock
from tests.esdb.fixtures import esdb, esdb_double
from tests.postgres import postgres, postgres_database
from tests.rabbitmq import (
    private_rabbitmq,
    rabbit_prefix,
    rabbit_tls,
    rabbitmq,
    rabbitmq_process,
)

# Fixtures for all tests, besides those below.
__all__ = [
    "esdb",
    "esdb_double",
    "postgres",
    "postgres_database",
    "private_rabbitmq",
    "rabbit_prefix",
    "rabbit_tls",
    "rabbitmq",
    "rabbitmq_process",
]


def pytest_configure(config: pytest.Config) -> None:
    # Before they are imported: failed assertions of the contract suites then explain themselves.
    pytest.register_assert_rewrite("amends.testing.contracts")
    # The default renderer draws tracebacks so beautifully that a crash costs a tenth of a second.
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    config.addinivalue_line("markers", "virtual_time: run the test and its fixtures in no time")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
async def clock() -> VirtualClock:
    """The clock of a test that is marked `virtual_time`."""
    return virtual_clock()

"""Brokers on the session's server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Plain, Site


@pytest.fixture
async def site(rabbitmq: str, rabbit_prefix: str) -> AsyncIterator[Site]:
    """Brokers under a prefix of the test's own."""
    site = Site(rabbitmq, rabbit_prefix)
    yield site
    await site.close()


@pytest.fixture
async def plain(site: Site) -> AsyncIterator[Plain]:
    """A client that knows nothing of Amends."""
    plain = await Plain.connect(site)
    yield plain
    await plain.close()


@pytest.fixture
async def harsh(private_rabbitmq: PrivateRabbitMQ, rabbit_prefix: str) -> AsyncIterator[Site]:
    """Brokers on a server that may be treated badly: `private_rabbitmq`."""
    site = Site(private_rabbitmq.url, rabbit_prefix)
    yield site
    await site.close()

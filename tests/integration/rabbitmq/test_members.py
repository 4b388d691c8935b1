"""What processes tell each other through the server."""

from __future__ import annotations

import asyncio

from amends.broker.rabbitmq.members import HELLO
from tests.integration.rabbitmq.site import Site


async def test_what_nobody_hears_is_no_reason_to_declare_anything_again(site: Site) -> None:
    broker = await site.open("commands.ledger")
    async with asyncio.timeout(1):  # declaring again would take longer by itself
        await broker._membership._send(HELLO)
    assert broker._declarations.has_base

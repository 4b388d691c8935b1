"""A queue that RabbitMQ was declaring when it died may be there afterwards and have no leader, for
ever: whoever publishes to it waits for more than a minute, and all that goes over the same channel
waits with it. Nothing in AMQP tells it from a queue that is well. A person deletes it.
"""

from __future__ import annotations

import asyncio

from amends.testing.contracts.data import new_messages
from amends.testing.rabbitmq import PrivateRabbitMQ
from tests.integration.rabbitmq.site import Site, take

HALF_MADE, WELL = "commands.half_made", "commands.well"


async def test_once_it_is_deleted_all_goes_on(
    private_rabbitmq: PrivateRabbitMQ, harsh: Site
) -> None:
    broker = await harsh.open(HALF_MADE, WELL, publish_timeout_s=60)
    name = f"{harsh.prefix}.{HALF_MADE}"
    # As if it had died before the queue's own files were written.
    private_rabbitmq.eval(
        "[ra:force_delete_server(quorum_queues, amqqueue:get_pid(Q)) || Q <- rabbit_amqqueue:list(),"
        f' element(4, amqqueue:get_name(Q)) =:= <<"{name}">>]'
    )
    await asyncio.to_thread(private_rabbitmq.restart)
    publishing = [
        asyncio.ensure_future(broker.publish(new_messages(queue, 3))) for queue in (HALF_MADE, WELL)
    ]
    done, _ = await asyncio.wait(publishing, timeout=2)
    assert not done
    await asyncio.to_thread(private_rabbitmq.ctl, "delete_queue", name)
    async with asyncio.timeout(30):
        await asyncio.gather(*publishing)
    for queue in (HALF_MADE, WELL):
        assert len(await take(broker, queue, 3)) == 3

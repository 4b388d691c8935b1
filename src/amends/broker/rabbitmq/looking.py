"""How full the queues are, from what the server and the members say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from aiormq.channel import Channel as Wire
from aiormq.exceptions import ChannelNotFoundEntity

from amends.broker.port import QueueDepth
from amends.broker.rabbitmq.connection import LOST, REQUEST_TIMEOUT_S, Connection, describe
from amends.broker.rabbitmq.delays import LEVELS
from amends.broker.rabbitmq.members import Report
from amends.broker.rabbitmq.names import Names
from amends.errors import BrokerUnavailable

#: Rows of what belongs to all queues together, and is not told apart without reading it.
DEAD_LETTERS: Final = "(dead letters)"
DELAYED: Final = "(delayed)"


class _Count(NamedTuple):
    messages: int
    consumers: int


async def depths(
    connection: Connection, names: Names, queues: Sequence[str], reports: Sequence[Report]
) -> list[QueueDepth]:
    """A row for each of these queues that is there, and for what all have in common.

    The server counts what nobody has in hand, the members say what they have. What is on its way
    from one to the other is in neither. Raises BrokerUnavailable.
    """
    lowest, *levels = [names.delay(level) for level in range(LEVELS)]
    counts = await _counts(connection, [*map(names.queue, queues), names.dead, lowest])
    if lowest in counts:
        counts |= await _counts(connection, levels)
    rows = [
        _row(queue, counts[names.queue(queue)], reports)
        for queue in queues
        if names.queue(queue) in counts
    ]
    dead = counts.get(names.dead, _Count(0, 0)).messages
    delayed = sum(counts[level].messages for level in (lowest, *levels) if level in counts)
    if dead:
        rows.append(QueueDepth(DEAD_LETTERS, 0, 0, dead, None))
    if delayed:
        rows.append(QueueDepth(DELAYED, 0, delayed, 0, None))
    return rows


def _row(queue: str, count: _Count, reports: Sequence[Report]) -> QueueDepth:
    held = sum(report.held.get(queue, 0) for report in reports)
    owners = [report.name for report in reports if queue in report.owns]
    return QueueDepth(
        queue,
        ready=count.messages + held,
        delayed=0,
        dead=0,
        oldest=_earliest(report.oldest.get(queue) for report in reports),
        consumers=count.consumers,
        owner=owners[0] if owners else None,
    )


def _earliest(moments: Iterable[datetime | None]) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)


async def _counts(connection: Connection, queues: Sequence[str]) -> dict[str, _Count]:
    """By name, without those that are not there: asking for one of these costs the channel."""
    counts: dict[str, _Count] = {}
    left = list(queues)

    async def count(wire: Wire) -> None:
        while left:
            queue = left.pop(0)
            told = await wire.queue_declare(queue, passive=True, timeout=REQUEST_TIMEOUT_S)
            counts[queue] = _Count(told.message_count or 0, told.consumer_count or 0)

    while left:
        try:
            await connection.requesting(count)
        except ChannelNotFoundEntity:
            continue
        except LOST as error:
            raise BrokerUnavailable(f"queues cannot be counted: {describe(error)}") from error
    return counts

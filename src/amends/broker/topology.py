"""Names of queues, and which inbox an instance belongs to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from zlib import crc32

from amends.domain.ids import InstanceId

INBOX_PREFIX: Final = "inbox."
COMMANDS_PREFIX: Final = "commands."


def inbox_queue(partition: int) -> str:
    """The inbox of a partition."""
    return f"{INBOX_PREFIX}{partition}"


def command_queue(queue: str) -> str:
    """The queue that carries the commands of an activity queue."""
    return f"{COMMANDS_PREFIX}{queue}"


def all_queues(activity_queues: Iterable[str], partitions: int) -> list[str]:
    """The queues that an application needs: its inboxes, and those of its commands."""
    return [*map(inbox_queue, range(partitions)), *map(command_queue, activity_queues)]


def partition_of(instance: InstanceId, partitions: int) -> int:
    """The partition that an instance's inputs meet in: CRC-32 of its name, never Python's hash,
    which differs between processes.
    """
    if partitions == 1:
        return 0
    return crc32(str(instance).encode()) % partitions


def inbox_of(instance: InstanceId, partitions: int) -> str:
    """The inbox that an instance's inputs arrive through."""
    return inbox_queue(partition_of(instance, partitions))

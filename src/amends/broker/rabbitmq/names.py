"""What queues and exchanges are called in the broker. Pure.

Everything of a deployment stands under its prefix, so that several share a broker. A queue has the
prefix and its logical name (`amends.inbox.0`); so have the exchanges that bring messages there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from amends.broker.rabbitmq.delays import KEY_BYTES, LEVELS
from amends.errors import InvalidSettings, UsageError

PREFIX_CHARS_MAX: Final = 64
#: Of a name or a routing key: AMQP's short strings.
NAME_BYTES_MAX: Final = 255

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
#: No "*" and "#", which are patterns in a binding.
_QUEUE: Final = re.compile(r"(inbox|commands)\.[A-Za-z0-9_.]+|[A-Za-z0-9_]+")
_DEAD: Final = "dead"
_MEMBERS: Final = "members"
_DELAY: Final = "delay"
_DELIVERY: Final = "delivery"
_PARTITIONS: Final = "partitions"
#: First words of what is declared besides the queues.
_OURS: Final = frozenset({_DEAD, _MEMBERS, _DELAY, _DELIVERY, _PARTITIONS})
#: A prefix that went on with one of these could name what belongs to a shorter prefix.
_NOT_IN_PREFIX: Final = _OURS | {"inbox", "commands"}


@dataclass(frozen=True)
class Names:
    """The names under one prefix. No two prefixes give the same name to a queue or an exchange.

    Raises InvalidSettings for a prefix that cannot be.
    """

    prefix: str

    def __post_init__(self) -> None:
        if why := _fault(self.prefix):
            raise InvalidSettings(
                f"AMENDS_BROKER_PREFIX={self.prefix[: PREFIX_CHARS_MAX + 1]!r}: {why}. "
                "Nothing was declared"
            )

    @property
    def exchange(self) -> str:
        """The direct exchange that takes messages to queues, by logical name."""
        return self.prefix

    @property
    def delivery(self) -> str:
        """The topic exchange that takes messages to queues when their delay is over."""
        return f"{self.prefix}.{_DELIVERY}"

    @property
    def dead(self) -> str:
        """The queue of dead letters, and the fanout exchange that leads there."""
        return f"{self.prefix}.{_DEAD}"

    @property
    def members(self) -> str:
        """The fanout exchange through which processes hear of each other."""
        return f"{self.prefix}.{_MEMBERS}"

    @property
    def partitions(self) -> str:
        """The exchange that says how many inboxes there are."""
        return f"{self.prefix}.{_PARTITIONS}"

    def delay(self, level: int) -> str:
        """The topic exchange of a level of delay, and its queue."""
        return f"{self.prefix}.{_DELAY}.{level:02}"

    def is_delay(self, physical: str) -> bool:
        """Whether a queue is that of a level of delay."""
        return any(physical == self.delay(level) for level in range(LEVELS))

    def below(self, level: int) -> str:
        """The exchange that follows that of a level: the next level's, or that of deliveries."""
        return self.delay(level - 1) if level else self.delivery

    def queue(self, logical: str) -> str:
        """The queue with a logical name.

        Raises UsageError when the broker cannot have it, or when a message could not be delayed
        on its way there: the delay stands before the name in a routing key.
        """
        if not _is_queue(logical):
            raise UsageError(
                f"{logical[:NAME_BYTES_MAX]!r} cannot be a queue on RabbitMQ: use 'inbox.…' or "
                "'commands.…' with letters, digits, '_' and '.', or one word, but none of "
                f"{', '.join(sorted(_OURS))}. Nothing was declared"
            )
        bytes_max = NAME_BYTES_MAX - max(len(self.prefix) + 1, KEY_BYTES)
        if len(logical) > bytes_max:
            raise UsageError(
                f"the queue {logical[:NAME_BYTES_MAX]!r} has {len(logical)} characters, and "
                f"RabbitMQ's names leave {bytes_max} for it under the prefix {self.prefix!r}. "
                "Nothing was declared. Use a shorter name"
            )
        return f"{self.prefix}.{logical}"

    def logical(self, physical: str) -> str | None:
        """The logical name of a queue; None when it is not one of this prefix's queues."""
        logical = physical.removeprefix(f"{self.prefix}.")
        return logical if logical != physical and _is_queue(logical) else None


def _is_queue(logical: str) -> bool:
    return _QUEUE.fullmatch(logical) is not None and logical not in _OURS


def _fault(prefix: str) -> str | None:
    """What is wrong with a prefix; None when nothing is."""
    words = prefix.split(".")
    if len(prefix) > PREFIX_CHARS_MAX or not _PREFIX.fullmatch(prefix):
        return (
            "use words of letters, digits, '-' and '_' with a '.' between them, at most "
            f"{PREFIX_CHARS_MAX} characters"
        )
    if words[0] == "amq":
        return "RabbitMQ keeps names that begin with 'amq.' for itself"
    if taken := _NOT_IN_PREFIX.intersection(words[1:]):
        return (
            f"under it, names could be the same as under a shorter prefix, because of {min(taken)!r}; "
            "use another word after the first '.'"
        )
    return None

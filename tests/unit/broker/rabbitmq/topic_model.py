"""A model of the part of a broker that delays need: topic exchanges, queues that expire messages.

Matching is written from the specification of AMQP 0-9-1 (section 3.1.3.3): words are divided by
dots, "*" matches a word, "#" any number of them. As in RabbitMQ, a queue gets one copy of a message
however many ways lead there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amends.broker.rabbitmq.delays import delivery_pattern, levels
from amends.broker.rabbitmq.names import Names


def matches(pattern: str, key: str) -> bool:
    return _match(pattern.split("."), key.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    first, *rest = pattern
    if first == "#":
        return any(_match(rest, words[n:]) for n in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and _match(rest, words[1:])


@dataclass
class Parked:
    """What became of a message: how long it was held, through which queues, and where it is."""

    held_ms: int = 0
    visited: list[str] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)


class TopicModel:
    """What `levels` and `delivery_pattern` declare, and messages that pass through it."""

    def __init__(self, names: Names, queues: list[str]) -> None:
        self._to_queue: dict[str, list[tuple[str, str]]] = {names.delivery: []}
        self._to_exchange: dict[str, list[tuple[str, str]]] = {names.delivery: []}
        self._expires: dict[str, tuple[int, str]] = {}
        for level in levels():
            name, below = names.delay(level.number), names.below(level.number)
            assert below in self._to_queue, "it is bound before it is declared"
            self._to_queue[name] = [(level.waiting, name)]
            self._to_exchange[name] = [(level.passing, below)]
            self._expires[name] = (level.ttl_ms, below)
        for queue in queues:
            self._to_queue[names.delivery].append((delivery_pattern(queue), names.queue(queue)))

    def publish(self, exchange: str, key: str) -> Parked:
        parked = Parked()
        reached = self._reached(exchange, key)
        while waiting := reached & self._expires.keys():
            assert len(reached) == 1, reached
            queue = waiting.pop()
            ttl_ms, exchange = self._expires[queue]
            parked.held_ms += ttl_ms
            parked.visited.append(queue)
            reached = self._reached(exchange, key)
        parked.arrived = sorted(reached)
        return parked

    def _reached(self, exchange: str, key: str) -> set[str]:
        queues = {queue for pattern, queue in self._to_queue[exchange] if matches(pattern, key)}
        for pattern, other in self._to_exchange[exchange]:
            if matches(pattern, key):
                queues |= self._reached(other, key)
        return queues

"""Delays of any length from queues of fixed delay. Pure.

A message that is not due yet is held by up to 31 *levels*. Level n is a topic exchange and a queue
in which every message stays for 2^n units of 1/8 s, so none waits behind one with a longer delay.
The routing key spells the delay in units: its bits, highest first, a word each, then the name of
the queue that the message is for. The exchange of level n looks at its bit: a 1 goes to the queue
of the level, a 0 straight to the exchange below, and so does what has waited, because that exchange
is the queue's dead-letter exchange. Below level 0 is the exchange of *deliveries*, which looks at
the name behind the bits.

    0.…0.1.0.1.inbox.0    5/8 s: enters at level 2, waits 4/8 s, passes level 1, waits 1/8 s

A message enters at the level of its highest 1. It visits each queue once at most, so RabbitMQ does
not take it for one that goes round in circles, and drops it; whoever parks a message again must
therefore publish it anew, without the `x-death` header of its last journey.

The technique, with 28 levels of seconds, is that of NServiceBus' RabbitMQ transport, version 2 of
its delays: https://docs.particular.net/transports/rabbitmq/delayed-delivery
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

LEVELS: Final = 31
UNIT: Final = timedelta(seconds=1) / 8
#: The longest delay there is, 8.5 years; what is due later than that is parked again.
DELAY_MAX: Final = UNIT * (2**LEVELS - 1)
#: What is early by no more is due: clocks of processes and of the broker differ, and parking a
#: message for less than this would cost more than it is worth. Timers of sagas may be this early.
EARLY_MAX: Final = timedelta(seconds=1)
#: What the bits take of a routing key.
KEY_BYTES: Final = 2 * LEVELS


class Level(NamedTuple):
    """One level: how its queue and its two bindings are declared.

    `waiting` is the pattern from the level's exchange to its queue, whose messages expire after
    `ttl_ms` milliseconds into the exchange below; `passing` is that from its exchange to the one
    below.
    """

    number: int
    ttl_ms: int
    waiting: str
    passing: str


class Route(NamedTuple):
    """Where a delayed message is published: to the exchange of `level`, under `routing_key`."""

    level: int
    routing_key: str


def levels() -> list[Level]:
    """All levels, lowest first, so that the exchange below is there when it is bound."""
    unit_ms = UNIT // timedelta(milliseconds=1)
    return [
        Level(
            number,
            ttl_ms=unit_ms * 2**number,
            waiting=_any_words(LEVELS - 1 - number) + "1.#",
            passing=_any_words(LEVELS - 1 - number) + "0.#",
        )
        for number in range(LEVELS)
    ]


def delivery_pattern(queue: str) -> str:
    """The pattern that binds a queue to the exchange of deliveries.

    It says how many words come before the name. A "#" would take any number of them, and hand what
    is for `commands.inbox.0` to `inbox.0` too.
    """
    return _any_words(LEVELS) + queue


def route(due: datetime, now: datetime, queue: str) -> Route | None:
    """The way of a message that is for the queue with this (logical) name when it is due; None
    when it is due now, and to be published straight to its queue.

    It is never held for less than the time that is left, unless that is more than DELAY_MAX; and
    for less than a unit more.
    """
    left = min(due - now, DELAY_MAX)
    if left <= timedelta():
        return None
    units = -(-left // UNIT)  # rounded up
    bits = ".".join(f"{units:0{LEVELS}b}")
    return Route(units.bit_length() - 1, f"{bits}.{queue}")


def target_of(routing_key: str) -> str:
    """The queue that the routing key of a delayed message names."""
    return routing_key[KEY_BYTES:]


def is_early(due: datetime | None, now: datetime) -> bool:
    """Whether a message that arrived is not due by far, and has to be parked for the rest.

    So is one that was due later than the levels reach, and one that was held by a clock that is
    wrong.
    """
    return due is not None and due - now > EARLY_MAX


def _any_words(count: int) -> str:
    return "*." * count

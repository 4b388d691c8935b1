"""What is declared in RabbitMQ: exchanges, queues with their arguments, and bindings.

| queue | holds | arguments that matter |
|---|---|---|
| `inbox.N` | inputs of the instances of a partition | single active consumer: one owner at a time |
| `commands.Q` | commands of an activity queue | a delivery limit, beyond which a command is put aside |
| `dead` | what was put aside, of all queues | no limits: it is read again and again |
| `delay.NN` | what is not due, for 2^NN units | a fixed time to live, then to the exchange below |

All are durable quorum queues. What one of them hands to an exchange by itself (a delay that is over,
a command that came too often) it hands over *at least once*, which RabbitMQ does only with
`overflow=reject-publish`, and otherwise would do at most once without saying so.

The number of partitions stands in the arguments of an exchange to which nothing is ever published,
so that a process with another number finds out before it puts messages where nobody looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from aiormq.channel import Channel as Wire
from aiormq.exceptions import ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed

from amends.broker.rabbitmq.connection import LOST, REQUEST_TIMEOUT_S, Connection, describe
from amends.broker.rabbitmq.delays import delivery_pattern, levels
from amends.broker.rabbitmq.names import Names
from amends.broker.topology import COMMANDS_PREFIX, INBOX_PREFIX
from amends.errors import BrokerRefused, BrokerUnavailable

#: A command that its consumers did not live to answer. The engine itself gives up long before; this
#: is for what it cannot even begin with.
COMMAND_DELIVERIES_MAX: Final = 100
#: No limit; RabbitMQ 4 has one by default, and 3 refuses to be told that there is none.
UNLIMITED: Final = 2**31 - 1
#: How long a consumer may take to acknowledge a command; RabbitMQ's default is half an hour, and an
#: activity may take longer. Ignored before 3.12: see docs/rabbitmq.md.
CONSUMER_TIMEOUT_MS: Final = 366 * 86_400_000


@dataclass(frozen=True)
class Exchange:
    """An exchange. Durable."""

    name: str
    type: Literal["direct", "fanout", "topic"]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Queue:
    """A quorum queue. Durable."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Binding:
    """From an exchange to a queue, or to another exchange."""

    source: str
    target: str
    key: str
    to_exchange: bool = False


Part = Exchange | Queue | Binding


def base(names: Names, partitions: int) -> list[Part]:
    """What every deployment has, whatever its queues are."""
    return [
        _partitions_mark(names, partitions),
        Exchange(names.exchange, "direct"),
        Exchange(names.members, "fanout"),
        # What was delayed and whose queue is gone is put aside. Otherwise it stayed in its level,
        # and 32 of them would hold up all others there.
        Exchange(names.delivery, "topic", {"alternate-exchange": names.dead}),
        Exchange(names.dead, "fanout"),
        Queue(names.dead, _quorum({"x-delivery-limit": UNLIMITED})),
        Binding(names.dead, names.dead, ""),
    ]


def delays(names: Names) -> list[Part]:
    """The levels of delay, lowest first: sixty exchanges and queues, made when they are needed."""
    parts: list[Part] = []
    for level in levels():
        name, below = names.delay(level.number), names.below(level.number)
        parts += [
            Exchange(name, "topic"),
            Queue(name, _quorum({"x-message-ttl": level.ttl_ms, **_to(below)})),
            Binding(name, name, level.waiting),
            Binding(name, below, level.passing, to_exchange=True),
        ]
    return parts


def _partitions_mark(names: Names, partitions: int) -> Exchange:
    """The exchange that says how many partitions there are, in the name of another one.

    There is no other one. But whoever declares this must be allowed to write to it: so it has a
    name under the prefix, too.
    """
    told = f"{names.partitions}.{partitions}"
    return Exchange(names.partitions, "fanout", {"alternate-exchange": told})


def queue_of(names: Names, logical: str) -> Queue:
    """The queue with a logical name."""
    arguments: dict[str, Any] = {"x-delivery-limit": UNLIMITED}
    if logical.startswith(INBOX_PREFIX):
        arguments["x-single-active-consumer"] = True
    elif logical.startswith(COMMANDS_PREFIX):
        arguments["x-delivery-limit"] = COMMAND_DELIVERIES_MAX
        arguments["x-consumer-timeout"] = CONSUMER_TIMEOUT_MS
    return Queue(names.queue(logical), _quorum({**arguments, **_to(names.dead)}))


def ways_to(names: Names, logical: str) -> list[Part]:
    """What leads to the queue with a logical name."""
    name = names.queue(logical)
    return [
        Binding(names.exchange, name, logical),
        Binding(names.delivery, name, delivery_pattern(logical)),
    ]


def parts_of(names: Names, logical: str) -> list[Part]:
    """A queue with a logical name, and what leads there."""
    return [queue_of(names, logical), *ways_to(names, logical)]


def _quorum(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"x-queue-type": "quorum", **arguments}


def _to(exchange: str) -> dict[str, Any]:
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


# --- declaring


async def declare(connection: Connection, parts: Iterable[Part]) -> None:
    """Make sure that they exist, as they should be. Idempotent.

    Raises BrokerRefused when one exists otherwise or may not be declared, BrokerUnavailable.
    """

    async def declare_all(wire: Wire) -> None:
        for part in parts:
            try:
                await _declare(wire, part)
            except LOST as error:
                raise _failure(part, error) from error

    await connection.requesting(declare_all)


class Finding(NamedTuple):
    """What setting up found of an exchange or a queue. `differs` says how it is otherwise than it
    should be; then it was left alone.
    """

    name: str
    kind: Literal["exchange", "queue"]
    made: bool
    differs: str | None = None


async def set_up(connection: Connection, parts: Iterable[Part]) -> list[Finding]:
    """Declare what is missing, and go on when something differs. Idempotent.

    Raises BrokerUnavailable, BrokerRefused (no permission).
    """
    findings: list[Finding] = []
    for part in parts:
        if isinstance(part, Binding):
            if not any(found.differs for found in findings if found.name == part.target):
                await declare(connection, [part])
            continue
        kind: Literal["exchange", "queue"] = "queue" if isinstance(part, Queue) else "exchange"
        there = await exists(connection, part)
        try:
            await declare(connection, [part])
        except BrokerRefused as error:
            if not isinstance(error.__cause__, ChannelPreconditionFailed):
                raise
            findings.append(Finding(part.name, kind, made=False, differs=str(error.__cause__)))
        else:
            findings.append(Finding(part.name, kind, made=not there))
    return findings


async def _declare(wire: Wire, part: Part, *, passive: bool = False) -> None:
    if isinstance(part, Exchange):
        await wire.exchange_declare(
            part.name,
            exchange_type=part.type,
            durable=True,
            passive=passive,
            arguments=part.arguments,
            timeout=REQUEST_TIMEOUT_S,
        )
    elif isinstance(part, Queue):
        await wire.queue_declare(
            part.name,
            durable=True,
            passive=passive,
            arguments=part.arguments,
            timeout=REQUEST_TIMEOUT_S,
        )
    elif part.to_exchange:
        await wire.exchange_bind(
            part.target, part.source, routing_key=part.key, timeout=REQUEST_TIMEOUT_S
        )
    else:
        await wire.queue_bind(
            part.target, part.source, routing_key=part.key, timeout=REQUEST_TIMEOUT_S
        )


async def exists(connection: Connection, part: Exchange | Queue, *, alike: bool = False) -> bool:
    """Whether something of that name is there, whatever it is like; if it has to be `alike`, it
    raises BrokerRefused when it is there and otherwise than it should be. Raises BrokerRefused (no
    permission), BrokerUnavailable.
    """

    async def look(wire: Wire) -> None:
        await _declare(wire, part, passive=True)
        if alike:
            # Right behind, so that who looks makes nothing.
            await _declare(wire, part)

    try:
        await connection.requesting(look)
    except ChannelNotFoundEntity:
        return False
    except LOST as error:
        raise _failure(part, error) from error
    return True


def _name(part: Part) -> str:
    if isinstance(part, Binding):
        return f"the binding from {part.source} to {part.target}"
    return f"{type(part).__name__.lower()} {part.name}"


def _failure(part: Part, error: BaseException) -> BrokerUnavailable:
    """What a request about a part came to."""
    if isinstance(error, ChannelPreconditionFailed):
        return BrokerRefused(_conflict(part, error))
    # What was declared before it may be deleted by somebody at this moment.
    if isinstance(error, ChannelClosed) and not isinstance(error, ChannelNotFoundEntity):
        return BrokerRefused(
            f"RabbitMQ refuses to declare {_name(part)}: {error}. Nothing was published. Look at the "
            "user's permissions; docs/rabbitmq.md has those that it needs"
        )
    return BrokerUnavailable(
        f"{_name(part)} cannot be declared now: {describe(error)}. Nothing was published; declaring "
        "it again is safe"
    )


def _conflict(part: Part, error: ChannelPreconditionFailed) -> str:
    if isinstance(part, Exchange) and part.name.endswith(".partitions"):
        wanted = part.arguments["alternate-exchange"].rpartition(".")[2]
        return (
            f"AMENDS_PARTITIONS={wanted}, but this deployment was made with another number: {error}. "
            "Nothing was published. Use the number that it has; to change it, see docs/rabbitmq.md"
        )
    return (
        f"{_name(part)} exists already, and is not as Amends needs it: {error}. Nothing was "
        "published. Look at what it holds, delete it, and run `amends broker setup` and then "
        "`amends reconcile`; or use another AMENDS_BROKER_PREFIX"
    )

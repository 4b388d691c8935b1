"""Hearing and telling which processes are there.

Each process that consumes says once a second, through a fanout exchange, that it lives, what it
consumes and how it fares. Whoever comes says hello and is answered at once, so that it knows the
others within milliseconds; whoever goes says goodbye; whoever dies is missed after four seconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from secrets import token_hex
from typing import Any, Final

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire
from aiormq.exceptions import ChannelNotFoundEntity
from pydantic import BaseModel, ValidationError

from amends.broker.port import Process
from amends.broker.rabbitmq.connection import (
    LOST,
    REQUEST_TIMEOUT_S,
    Connection,
    describe,
    library_words,
    on_close,
    while_open,
    wire_of,
)
from amends.broker.rabbitmq.names import Names
from amends.broker.rabbitmq.ownership import Members, Presence, carriers
from amends.broker.rabbitmq.publisher import Publisher
from amends.broker.rabbitmq.wire import Post, Properties
from amends.domain.backoff import back_off
from amends.domain.bell import Bell
from amends.domain.clock import Clock
from amends.errors import BrokerClosed, BrokerError, BrokerUnavailable
from amends.telemetry import Log

log = Log("amends.broker")

BEAT_S: Final = 1.0
#: How long answers to a hello are waited for.
ANSWERS_S: Final = 0.25

HELLO: Final = "hello"
HERE: Final = "here"
BYE: Final = "bye"
#: Queues that were deleted are there again: see `Report.made`.
MADE: Final = "made"


class Report(BaseModel):
    """What a process says of itself. `inboxes` are those it would own; `held` and `oldest` are by
    queue: messages in its hands, and when the oldest of them was published. `made` are queues that
    it has made anew, which whoever consumes them must subscribe to again.
    """

    kind: str
    member: str
    name: str
    inboxes: frozenset[str] = frozenset()
    queues: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    held: dict[str, int] = {}
    oldest: dict[str, datetime] = {}
    blocked_since: datetime | None = None
    published: int = 0
    delivered: int = 0
    reconnects: int = 0
    made: tuple[str, ...] = ()

    def process(self) -> Process:
        """The same in the words of the port."""
        return Process(
            self.name, self.queues, self.owns, sum(self.held.values()), self.blocked_since,
            self.published, self.delivered, self.reconnects,
        )  # fmt: skip


def process_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Membership:
    """This process among the others. `report` describes it; `served` are the inboxes that it
    serves now. `on_made` hears of queues that another one has made anew.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        names: Names,
        clock: Clock,
        report: Callable[[str], Report],
        served: Callable[[], Collection[str]],
        *,
        on_made: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self.me = f"{process_name()}:{token_hex(4)}"
        self.changed = Bell()
        self.blocked_since: datetime | None = None
        self._connection = connection
        self._publisher = publisher
        self._names = names
        self._clock = clock
        self._report = report
        self._served = served
        self._on_made = on_made
        self._members = Members(self.me)
        self._carriers: Mapping[str, str] = {}
        self._reports: dict[str, Report] = {}
        self._running: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._joined = asyncio.Event()
        self._closing = False

    @property
    def is_running(self) -> bool:
        """Whether this process takes part."""
        return self._running is not None

    def start(self) -> None:
        """Take part, from now on. Idempotent."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def is_joined(self) -> bool:
        """Whether the others had the time to answer; it waits for that, if it need not be long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._joined.wait(), 4 * ANSWERS_S)
        return self._joined.is_set()

    async def joined(self) -> None:
        """Wait until the others had the time to answer."""
        await self._joined.wait()

    def share(self, queues: frozenset[str]) -> frozenset[str]:
        """Which of these inboxes are this process's, for all it has heard."""
        return self._members.share(queues, _monotonic())

    def carrier(self, inbox: str) -> str:
        """Where a message to an inbox goes: into one of the same owner's, the same for all that he
        serves, for all that was heard; into the inbox itself, when nothing was.
        """
        return self._carriers.get(inbox, inbox)

    def note_change(self) -> None:
        """Who owns what may have changed."""
        shares = [self._reports[m].owns for m in self._living() if m in self._reports]
        self._carriers = carriers([*shares, self._served()])
        self.changed.ring()

    def reports(self) -> list[Report]:
        """What the living said last, this process included, by name."""
        others = [self._reports[m] for m in self._living() if m in self._reports]
        return sorted([*others, self._report(HERE)], key=lambda report: report.name)

    def _living(self) -> list[str]:
        return [presence.member for presence in self._members.living(_monotonic())]

    async def close(self) -> None:
        """Say goodbye, and hear no more."""
        if self._running is not None:
            self._closing = True
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._joined.is_set():
            self._tell(BYE)
        if self._telling:
            await asyncio.wait(self._telling, timeout=2)
        for task in self._telling:
            task.cancel()

    def say_hello(self) -> None:
        """Tell the others that what this process wants has changed."""
        if self._joined.is_set():
            self._tell(HELLO)

    def say_made(self, queues: Sequence[str]) -> None:
        """Tell the others that these queues were made anew. Also if it is not one of them."""
        self._tell(MADE, made=tuple(queues))

    def say_here(self) -> None:
        """Tell the others how things are now, without waiting for the next beat."""
        if self._joined.is_set():
            self._tell(HERE)

    # --- hearing

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                gone = await self._join()
                failures = 0
                await self._beat(gone)
            except BrokerClosed:
                return
            except (BrokerError, *LOST) as error:
                if not self._closing:
                    log.warning("members_unheard", error=describe(error))
            except Exception as error:
                # A mistake of ours. Without this task, no inbox would ever change hands again.
                log.error("members_unheard", exc_info=error)
            if self._closing:
                return  # the client library may make an error of its own out of a cancellation
            failures += 1
            await back_off(self._clock, failures)

    async def _join(self) -> asyncio.Event:
        gone = asyncio.Event()
        channel = await self._connection.channel()
        on_close(channel, lambda _: gone.set())
        wire = await wire_of(channel)
        wire.on_consumer_cancel_callbacks.add(lambda _: gone.set())
        with library_words():
            await while_open(wire, listen(wire, self._names, self._hear))
        self._tell(HELLO)
        await asyncio.sleep(ANSWERS_S)
        self._joined.set()
        self.note_change()
        return gone

    async def _beat(self, gone: asyncio.Event) -> None:
        """Until the channel is lost."""
        while not gone.is_set() and not self._closing:
            await self._look_for_alarms()
            if self.blocked_since is None:
                self._tell(HERE)
            self.note_change()
            with suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), BEAT_S)

    async def _look_for_alarms(self) -> None:
        blocked = await self._publisher.is_blocked()
        if blocked and self.blocked_since is None:
            self.blocked_since = self._clock.now()
            log.warning(
                "broker_blocks", why="a memory or disk alarm: nothing is published until it ends"
            )
        elif not blocked and self.blocked_since is not None:
            lasted_s = (self._clock.now() - self.blocked_since).total_seconds()
            self.blocked_since = None
            log.info("broker_blocks_no_more", lasted_s=lasted_s)

    async def _hear(self, delivered: DeliveredMessage) -> None:
        report = decode(delivered)
        if report is None or report.member == self.me:
            return
        if report.kind == MADE:
            self._on_made(report.made)
            return
        if report.kind == BYE or not (report.queues or report.inboxes):
            # Or it is here still, and wants nothing any more.
            self._members.left(report.member)
            self._reports.pop(report.member, None)
        else:
            now = _monotonic()
            self._members.heard(Presence(report.member, report.inboxes), now)
            self._reports[report.member] = report
            living = {presence.member for presence in self._members.living(now)}
            self._reports = {m: told for m, told in self._reports.items() if m in living}
        if report.kind == HELLO:
            self._tell(HERE)
        self.note_change()

    # --- telling

    def _tell(self, kind: str, **more: Any) -> None:
        task = asyncio.create_task(self._send(kind, **more))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _send(self, kind: str, **more: Any) -> None:
        with suppress(BrokerUnavailable, BrokerClosed):
            mail = encode(self._report(kind).model_copy(update=more))
            # Nobody may hear it, also not this process, whose connections come back one by one.
            await self._publisher.send(self._names.members, "", mail, mandatory=False)


async def listen(
    wire: Wire, names: Names, hear: Callable[[DeliveredMessage], Coroutine[Any, Any, None]]
) -> None:
    """Hear everything that members say, over a queue that goes with the channel's connection."""
    declared = await wire.queue_declare(
        "", exclusive=True, auto_delete=True, timeout=REQUEST_TIMEOUT_S
    )
    queue = str(declared.queue)
    await wire.queue_bind(queue, names.members, timeout=REQUEST_TIMEOUT_S)
    await wire.basic_consume(queue, hear, no_ack=True, timeout=REQUEST_TIMEOUT_S)


async def census(
    connection: Connection, publisher: Publisher, names: Names, clock: Clock
) -> list[Report]:
    """Ask who is there, without being one of them. Nobody is where nothing is set up.

    While the server takes nothing, because of an alarm, nobody is heard: then this process is all
    there is, and says that it is blocked.
    """
    heard: dict[str, Report] = {}

    async def hear(delivered: DeliveredMessage) -> None:
        report = decode(delivered)
        if report is not None and report.kind == HERE:
            heard[report.member] = report

    async def ask(wire: Wire) -> list[Report]:
        await listen(wire, names, hear)
        me = Report(kind=HELLO, member=f"census:{token_hex(8)}", name=process_name())
        asking = asyncio.ensure_future(
            publisher.send(names.members, "", encode(me), mandatory=False)
        )
        await asyncio.sleep(ANSWERS_S)
        if not asking.done() and await publisher.is_blocked():
            # Nobody can answer either. What can be said is that this process is blocked, too.
            asking.cancel()
            return [me.model_copy(update={"kind": HERE, "blocked_since": clock.now()})]
        await asking
        return sorted(heard.values(), key=lambda report: report.name)

    try:
        return await connection.requesting(ask)
    except ChannelNotFoundEntity:
        return []
    except LOST as error:
        raise BrokerUnavailable(f"the members cannot be asked: {describe(error)}") from error


def encode(report: Report) -> Post:
    """What a member says, as a message that nobody keeps."""
    properties = Properties(message_type="Presence", delivery_mode=1, expiration="10000")
    return Post(report.model_dump_json().encode(), properties)


def decode(delivered: DeliveredMessage) -> Report | None:
    """What a member said; None if that is not understood."""
    try:
        return Report.model_validate_json(delivered.body)
    except ValidationError as error:
        log.warning("member_not_understood", error=str(error))
        return None


def _monotonic() -> float:
    return asyncio.get_running_loop().time()

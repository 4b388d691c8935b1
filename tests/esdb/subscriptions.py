"""Catch-up subscriptions of the protocol double.

Where the rules come from (EventStore/EventStore, src/EventStore.Core/Services/Transport/Enumerators):

- Enumerator.AllSubscriptionFiltered.cs: confirmation first; what lies after the position asked for;
  a checkpoint after each so many events that were looked at, and one at the end of the log; "caught
  up"; then what is appended. A live reader that is more than a buffer behind "fell behind", gets a
  checkpoint, catches up and goes live again. A subscription from the end is live at once.
- Enumerator.AllSubscription.cs: the same without checkpoints.
- Enumerator.StreamSubscription.cs: by number; waits for a stream that does not exist; ends with an
  error when the stream is tombstoned.
- The live buffer has 32 places: Enumerator.cs, `MaxLiveEventBufferCount`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any
from uuid import uuid4

from tests.esdb import replies
from tests.esdb.faults import Call, Fault
from tests.esdb.filters import matcher
from tests.esdb.log import DELETED, Record
from tests.esdb.node import Node

LIVE_BUFFER = 32


class EndedError(Exception):
    """The subscription ends as if it were finished."""


class Subscription(ABC):
    """One call of Read that does not end by itself."""

    def __init__(self, node: Node, options: Any, context: Any) -> None:
        self.node = node
        self.log = node.log
        self.context = context
        self.string_ids = options.uuid_option.WhichOneof("content") == "string"
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Send until something ends it."""
        self.log.listeners.add(self.changed.set)
        try:
            await self.context.write(replies.confirmation(str(uuid4())))
            await self.follow()
        except EndedError:
            return
        finally:
            self.log.listeners.discard(self.changed.set)

    @abstractmethod
    async def follow(self) -> None:
        """Send what there is and what comes."""

    async def send(self, record: Record) -> None:
        fault = self.node.faults.draw(Call.EVENT)
        if fault is Fault.END:
            raise EndedError
        await self.node.suffer_before(fault)
        await self.context.write(replies.recorded(record, string_id=self.string_ids))

    async def more(self) -> None:
        await self.changed.wait()
        if self.node.faults.unavailable:
            raise replies.connection_lost()


class AllSubscription(Subscription):
    """A subscription to `$all`, filtered or not."""

    def __init__(self, node: Node, options: Any, context: Any) -> None:
        super().__init__(node, options, context)
        self.matches = matcher(options)
        self.has_checkpoints = options.WhichOneof("filter_option") == "filter"
        window = options.filter.max or LIVE_BUFFER
        self.interval = max(1, window * options.filter.checkpointIntervalMultiplier)
        self.considered = 0
        #: The position up to which everything was sent, or was not asked for.
        self.sent = -1
        self.is_live = False
        match options.all.WhichOneof("all_option"):
            case "position":
                self.sent = options.all.position.commit_position
                if not self.log.is_position(self.sent):
                    raise replies.invalid_position(filtered=self.has_checkpoints)
            case "end":
                self.sent, self.is_live = self.last_position, True

    @property
    def last_position(self) -> int:
        return self.log.records[self.log.readable - 1].position if self.log.readable else -1

    async def follow(self) -> None:
        if self.is_live or self.sent >= self.last_position:
            await self.context.write(replies.caught_up())
            await self.live()
        while True:
            await self.catch_up()
            await self.context.write(replies.caught_up())
            await self.live()

    async def catch_up(self) -> None:
        while await self.next():
            pass
        await self.checkpoint(
            self.log.end if self.node.checkpoints_beyond_the_end else self.last_position
        )

    async def live(self) -> None:
        """Until the reader is too far behind."""
        while True:
            self.changed.clear()
            if self.log.readable - self.log.index_of(self.sent + 1) > LIVE_BUFFER:
                await self.context.write(replies.fell_behind())
                await self.checkpoint(self.sent)
                return
            while await self.next():
                pass
            if not self.changed.is_set():
                await self.more()

    async def next(self) -> bool:
        """Look at one more event; whether there was one."""
        index = self.log.index_of(self.sent + 1)
        if index >= self.log.readable:
            return False
        record = self.log.records[index]
        self.sent = record.position
        if self.matches(record):
            await self.send(record)
        self.considered += 1
        if self.considered >= self.interval:
            await self.checkpoint(record.position)
        return True

    async def checkpoint(self, position: int) -> None:
        self.considered = 0
        if self.has_checkpoints and position >= 0:
            await self.context.write(replies.checkpoint(position))


class StreamSubscription(Subscription):
    """A subscription to one stream."""

    def __init__(self, node: Node, options: Any, context: Any) -> None:
        super().__init__(node, options, context)
        self.stream: str = options.stream.stream_identifier.stream_name.decode()
        self.next_number = 0
        match options.stream.WhichOneof("revision_option"):
            case "revision":
                self.next_number = options.stream.revision + 1
            case "end":
                self.next_number = self.log.last_number(self.stream) + 1

    async def follow(self) -> None:
        is_live = False
        while True:
            self.changed.clear()
            while (record := self.next_record()) is not None:
                self.next_number = record.number + 1
                if self.log.is_visible(record):
                    await self.send(record)
            if not is_live:
                is_live = True
                await self.context.write(replies.caught_up())
            if not self.changed.is_set():
                await self.more()

    def next_record(self) -> Record | None:
        if self.log.last_number(self.stream) == DELETED:
            raise replies.stream_deleted(self.stream)
        numbers = self.log.readable_numbers(self.stream)
        for number in range(max(self.next_number, numbers.start), numbers.stop):
            record = self.log.prepared(self.stream, number)
            if record is not None:
                return record if self.log.is_committed(record) else None
        return None

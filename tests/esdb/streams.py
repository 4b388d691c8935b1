"""The service Streams of the protocol double: appends, deletes and reads.

Where the rules come from (EventStore/EventStore, src/EventStore.Core/Services/Transport):

- Grpc/Streams.Append.cs, Grpc/Streams.BatchAppend.cs, Grpc/Streams.Delete.cs, Grpc/Streams.Read.cs.
- A BatchAppend answers each request as soon as it can, in any order; it fails as a whole only where
  the leader is another node.
- Enumerators/Enumerator.ReadStreamForwards.cs and its siblings: "not found" is a reply, and only for
  a stream without events or a soft-deleted one; a tombstoned stream is an error; a stream whose
  events are all truncated is empty.
- Storage/ReaderIndex/AllReader.cs: reading on begins *at* a position, reading back *before* it; a
  position where no event begins is refused. `$all` has system events, metadata and what is truncated
  or deleted but not yet scavenged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

from tests.esdb import protos, replies
from tests.esdb.faults import Call
from tests.esdb.filters import Filter, matcher
from tests.esdb.log import DELETED, NO_STREAM, Proposed, Record
from tests.esdb.node import Node, answering
from tests.esdb.rules import ANY, STREAM_EXISTS, Decision, Outcome, append, delete
from tests.esdb.subscriptions import AllSubscription, StreamSubscription

EXPECTED = {"any": ANY, "stream_exists": STREAM_EXISTS, "no_stream": NO_STREAM}


class Streams(protos.streams_grpc.StreamsServicer):  # type: ignore[misc]
    """Methods are named and called by gRPC."""

    def __init__(self, node: Node) -> None:
        self.node = node

    # Appends

    @answering
    async def Append(self, requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802
        options = (await anext(aiter(requests))).options
        stream, expected = stream_of(options), expected_of(options, "expected_stream_revision")
        self.node.admit(context, stream)
        events: list[Proposed] = []
        async for request in requests:
            events.append(proposed(request.proposed_message))
            if sum(event.size for event in events) > self.node.max_append_bytes:
                raise replies.append_too_large(self.node.max_append_bytes)
        outcome = await self._append(stream, expected, events, self.node.write_timeout_s)
        return replies.appended(stream, expected, outcome)

    @answering
    async def BatchAppend(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802
        begun: dict[str, tuple[Any, list[Proposed]]] = {}
        writing = asyncio.Lock()

        async def reply_to(ready: Any) -> None:
            reply = await self._end_batch(*ready) if isinstance(ready, tuple) else ready
            async with writing:
                await context.write(reply)

        try:
            async with asyncio.TaskGroup() as answering:
                async for request in requests:
                    ready = self._batch(begun, request, context)
                    if ready is not None:
                        answering.create_task(reply_to(ready))
        except ExceptionGroup as errors:
            refusals, others = errors.split(replies.RpcError)
            if refusals is None or others is not None:
                raise
            raise refusals.exceptions[0] from None

    def _batch(
        self, begun: dict[str, tuple[Any, list[Proposed]]], request: Any, context: Any
    ) -> Any:
        """The reply to one request; or, if it ends an append, that append; or None."""
        id = str(replies.decode_uuid(request.correlation_id))
        if request.HasField("options"):
            stream = stream_of(request.options)
            try:
                self.node.admit(context, stream)
            except replies.AccessDeniedError:
                return replies.batch_access_denied(request)
            if timeout_of(request.options) <= 0:
                return replies.batch_timeout(request)
            begun.setdefault(id, (request, []))
        if id not in begun:
            return None
        first, events = begun[id]
        try:
            events += [proposed(message) for message in request.proposed_messages]
        except replies.RpcError as error:
            return replies.batch_bad_request(first, error.details)
        if sum(event.size for event in events) > self.node.max_append_bytes:
            del begun[id]
            return replies.batch_too_large(first, self.node.max_append_bytes)
        if not request.is_final:
            return None
        return begun.pop(id)

    async def _end_batch(self, request: Any, events: list[Proposed]) -> Any:
        options = request.options
        stream, expected = stream_of(options), expected_of(options, "expected_stream_position")
        timeout_s = min(timeout_of(options), self.node.write_timeout_s)
        try:
            outcome = await self._append(stream, expected, events, timeout_s)
        except replies.NotReadyError:
            return replies.batch_not_ready(request)
        except replies.TimedOutError:
            return replies.batch_timeout(request)
        return replies.batch_appended(request, stream, expected, outcome)

    async def _append(
        self, stream: str, expected: int, events: list[Proposed], timeout_s: float
    ) -> Outcome:
        log = self.node.log
        outcome = await self.node.write(Call.APPEND, lambda: append(log, stream, expected, events))
        if outcome.decision is Decision.IDEMPOTENT_NOT_READY:
            await asyncio.sleep(timeout_s)  # no answer, not even when it has become ready
            raise replies.timed_out("Commit phase timeout")
        if outcome.decision is Decision.OK:
            await self.node.committed(timeout_s)
        return outcome

    # Deletes

    @answering
    async def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        outcome = await self._delete(request.options, context, tombstone=False)
        return protos.streams.DeleteResp(
            position=protos.streams.DeleteResp.Position(
                commit_position=outcome.position, prepare_position=outcome.position
            )
        )

    @answering
    async def Tombstone(self, request: Any, context: Any) -> Any:  # noqa: N802
        outcome = await self._delete(request.options, context, tombstone=True)
        return protos.streams.TombstoneResp(
            position=protos.streams.TombstoneResp.Position(
                commit_position=outcome.position, prepare_position=outcome.position
            )
        )

    async def _delete(self, options: Any, context: Any, *, tombstone: bool) -> Outcome:
        stream, expected = stream_of(options), expected_of(options, "expected_stream_revision")
        self.node.admit(context, stream)
        log = self.node.log
        outcome = await self.node.write(
            Call.DELETE, lambda: delete(log, stream, expected, tombstone=tombstone)
        )
        if outcome.decision is Decision.DELETED:
            raise replies.stream_deleted(stream)
        if outcome.decision is not Decision.OK:
            raise replies.wrong_version_of_delete(stream, expected, outcome.current)
        await self.node.committed(self.node.write_timeout_s)
        return outcome

    # Reads

    @answering
    async def Read(self, request: Any, context: Any) -> None:  # noqa: N802
        options = request.options
        of_stream = options.WhichOneof("stream_option") == "stream"
        self.node.admit(context, stream_of(options.stream) if of_stream else "$all")
        subscribing = options.WhichOneof("count_option") == "subscription"
        await self.node.suffer(Call.SUBSCRIBE if subscribing else Call.READ)
        if subscribing:
            kind = StreamSubscription if of_stream else AllSubscription
            await kind(self.node, options, context).run()
            return
        string_ids = options.uuid_option.WhichOneof("content") == "string"
        found = self._of_stream(options) if of_stream else self._of_all(options)
        if found is None:
            await context.write(replies.stream_not_found(stream_of(options.stream)))
            return
        for record in islice(found, options.count):
            await context.write(self._shown(record, options.resolve_links, string_ids))

    def _shown(self, record: Record, resolve_links: bool, string_ids: bool) -> Any:
        if resolve_links and record.event.type == "$>":
            number, _, stream = record.event.data.decode().partition("@")
            target = self.node.log.prepared(stream, int(number))
            if target is not None:
                return replies.resolved(target, record)
        return replies.recorded(record, string_id=string_ids)

    def _of_stream(self, options: Any) -> Iterator[Record] | None:
        """The events of a stream that a read shows; None where there is no stream."""
        log, stream = self.node.log, stream_of(options.stream)
        last = log.last_number(stream)
        if last == DELETED:
            raise replies.stream_deleted(stream)
        if last < 0 or log.is_soft_deleted(stream):
            return None
        numbers = log.readable_numbers(stream)
        start = options.stream.WhichOneof("revision_option")
        if is_backwards(options):
            newest = last if start == "end" else options.stream.revision
            wanted = range(min(newest, last), numbers.start - 1, -1)
        else:
            oldest = options.stream.revision if start == "revision" else numbers.start
            wanted = range(max(oldest, numbers.start), numbers.stop)
        found = (log.prepared(stream, number) for number in wanted)
        return (record for record in found if record and log.is_visible(record))

    def _of_all(self, options: Any) -> Iterator[Record]:
        log, matches = self.node.log, matcher(options)
        start = options.all.WhichOneof("all_option")
        position = {"start": 0, "end": log.end}.get(start, options.all.position.commit_position)
        if not log.is_position(position):
            raise replies.invalid_position(filtered=options.WhichOneof("filter_option") == "filter")
        index = min(log.index_of(position), log.readable)
        if is_backwards(options):
            return filtered(log.records, range(index - 1, -1, -1), matches)
        return filtered(log.records, range(index, log.readable), matches)


def filtered(records: list[Record], indices: range, matches: Filter) -> Iterator[Record]:
    return (records[index] for index in indices if matches(records[index]))


# What requests say


def is_backwards(options: Any) -> bool:
    return bool(options.read_direction == protos.streams.ReadReq.Options.Backwards)


def stream_of(options: Any) -> str:
    name: bytes = options.stream_identifier.stream_name
    return name.decode()


def expected_of(options: Any, group: str) -> int:
    chosen = options.WhichOneof(group)
    return EXPECTED[chosen] if chosen in EXPECTED else int(getattr(options, chosen))


def timeout_of(options: Any) -> float:
    """The deadline that a BatchAppend asks for, in seconds."""
    if options.WhichOneof("deadline_option") != "deadline":
        return float("inf")
    return float(options.deadline.seconds + options.deadline.nanos / 1e9)


def proposed(message: Any) -> Proposed:
    for name in ("type", "content-type"):
        if name not in message.metadata:
            raise replies.property_missing(name)
    return Proposed(
        replies.decode_uuid(message.id),
        message.metadata["type"],
        message.data,
        message.custom_metadata,
        message.metadata["content-type"] == replies.JSON,
    )

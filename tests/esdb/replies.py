"""How the protocol double says things: errors, results of appends, and events.

Where the encodings come from (EventStore/EventStore, src/EventStore.Core/Services/Transport/Grpc):

- `RpcError`s with their codes, words and trailers: RpcExceptions.cs, Constants.cs.
- What a BatchAppend answers instead of such an error: Status.cs, Streams.BatchAppend.cs. "Server is
  not ready" comes as a status without a code and without details.
- What an Append answers: Streams.Append.cs. A wrong expected version is a result, not an error.
- The three system-metadata fields of an event, and its positions: Streams.Read.cs.
- Code names: google/rpc/code.proto.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import grpc
from google.protobuf import any_pb2, empty_pb2

from tests.esdb import protos
from tests.esdb.log import Record
from tests.esdb.rules import ANY, STREAM_EXISTS, Decision, Outcome

JSON, BYTES = "application/json", "application/octet-stream"

CODE_UNKNOWN, CODE_INVALID_ARGUMENT, CODE_DEADLINE_EXCEEDED = 2, 3, 4
CODE_NOT_FOUND, CODE_ALREADY_EXISTS, CODE_PERMISSION_DENIED = 5, 6, 7


class RpcError(Exception):
    """An error of a whole call."""

    def __init__(self, code: grpc.StatusCode, details: str, **trailers: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailers = tuple((name.replace("_", "-"), value) for name, value in trailers.items())


class NotReadyError(RpcError):
    """The node cannot serve yet, or not now. A BatchAppend says it in its own way."""


class TimedOutError(RpcError):
    """The node gave up waiting for the cluster. A BatchAppend says it in its own way."""


class AccessDeniedError(RpcError):
    """The user must not. A BatchAppend says it in its own way."""


# Errors of calls


def not_ready() -> RpcError:
    return NotReadyError(grpc.StatusCode.UNAVAILABLE, "Server Is Not Ready")


def connection_lost() -> RpcError:
    # What gRPC itself says, whose connection broke, not the server.
    return RpcError(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def not_leader(host: str, port: int) -> RpcError:
    return RpcError(
        grpc.StatusCode.NOT_FOUND,
        "Leader info available",
        exception="not-leader",
        leader_endpoint_host=host,
        leader_endpoint_port=str(port),
    )


def access_denied() -> RpcError:
    return AccessDeniedError(
        grpc.StatusCode.PERMISSION_DENIED, "Access Denied", exception="access-denied"
    )


def unauthenticated() -> RpcError:
    # The server answers with HTTP 401, which gRPC's clients show as this.
    return RpcError(grpc.StatusCode.UNAUTHENTICATED, "Received http2 header with status: 401")


def timed_out(details: str = "") -> RpcError:
    return TimedOutError(grpc.StatusCode.ABORTED, f"Operation timed out: {details}")


def consumer_too_slow() -> RpcError:
    return timed_out(
        "Consumer too slow to handle event while live. Client resubscription required."
    )


def stream_deleted(stream: str) -> RpcError:
    return RpcError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Event stream '{stream}' is deleted.",
        exception="stream-deleted",
        stream_name=stream,
    )


def append_too_large(limit: int) -> RpcError:
    return RpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"Maximum Append Size of {limit} Exceeded.",
        exception="maximum-append-size-exceeded",
        maximum_append_size=str(limit),
    )


def property_missing(name: str) -> RpcError:
    return RpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"Required Metadata Property '{name}' is missing",
        exception="missing-required-metadata-property",
        required_metadata_properties="type,content-type",
    )


def invalid_position(*, filtered: bool) -> RpcError:
    kind = "FilteredReadAllResult" if filtered else "ReadAllResult"
    return RpcError(grpc.StatusCode.UNKNOWN, f"Unexpected {kind}: InvalidPosition")


def wrong_version_of_delete(stream: str, expected: int, current: int) -> RpcError:
    return RpcError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Delete failed due to WrongExpectedVersion. Stream: {stream}, "
        f"Expected version: {expected}, Actual version: {current}",
        exception="wrong-expected-version",
        stream_name=stream,
        expected_version=str(expected),
        actual_version=str(current),
    )


# Results of appends and deletes


def appended(stream: str, expected: int, outcome: Outcome) -> Any:
    """The reply to an Append; raises what is not one."""
    if outcome.decision is Decision.DELETED:
        raise stream_deleted(stream)
    if outcome.decision in (Decision.OK, Decision.IDEMPOTENT):
        success = protos.streams.AppendResp.Success()
        if outcome.current < 0:
            success.no_stream.SetInParent()
        else:
            success.current_revision = outcome.current
        _set_position(success, outcome.position)
        return protos.streams.AppendResp(success=success)
    wrong = protos.streams.AppendResp.WrongExpectedVersion()
    if outcome.current < 0:
        wrong.current_no_stream.SetInParent()
    else:
        wrong.current_revision = outcome.current
    if expected == ANY:
        wrong.expected_any.SetInParent()
    elif expected == STREAM_EXISTS:
        wrong.expected_stream_exists.SetInParent()
    elif expected < 0:
        wrong.expected_no_stream.SetInParent()
    else:
        wrong.expected_revision = expected
    return protos.streams.AppendResp(wrong_expected_version=wrong)


def batch_appended(request: Any, stream: str, expected: int, outcome: Outcome) -> Any:
    """The reply to one request of a BatchAppend."""
    if outcome.decision is Decision.DELETED:
        identifier = protos.shared.StreamIdentifier(stream_name=stream.encode())
        detail = protos.shared.StreamDeleted(stream_identifier=identifier)
        return batch_error(request, CODE_NOT_FOUND, "StreamDeleted", detail)
    if outcome.decision in (Decision.OK, Decision.IDEMPOTENT):
        success = protos.streams.BatchAppendResp.Success()
        if outcome.current < 0:
            success.no_stream.SetInParent()
        else:
            success.current_revision = outcome.current
        _set_position(success, outcome.position)
        return _batch_reply(request, success=success)
    wrong = protos.shared.WrongExpectedVersion()
    if outcome.current < 0:
        wrong.current_no_stream.SetInParent()
    else:
        wrong.current_stream_revision = outcome.current
    if expected == ANY:
        wrong.expected_any.SetInParent()
    elif expected == STREAM_EXISTS:
        wrong.expected_stream_exists.SetInParent()
    elif expected < 0:
        wrong.expected_no_stream.SetInParent()
    else:
        wrong.expected_stream_position = expected
    return batch_error(request, CODE_ALREADY_EXISTS, "WrongExpectedVersion", wrong)


def batch_error(request: Any, code: int, message: str, detail: Any) -> Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    error = protos.status.Status(code=code, message=message, details=packed)
    return _batch_reply(request, error=error)


def batch_not_ready(request: Any) -> Any:
    return batch_error(request, 0, "Server Is Not Ready", empty_pb2.Empty())


def batch_access_denied(request: Any) -> Any:
    detail = protos.shared.AccessDenied()
    return batch_error(request, CODE_PERMISSION_DENIED, "AccessDenied", detail)


def batch_timeout(request: Any) -> Any:
    return batch_error(request, CODE_DEADLINE_EXCEEDED, "Timeout", protos.shared.Timeout())


def batch_too_large(request: Any, limit: int) -> Any:
    detail = protos.shared.MaximumAppendSizeExceeded(maxAppendSize=limit)
    return batch_error(request, CODE_INVALID_ARGUMENT, "MaximumAppendSizeExceeded", detail)


def batch_bad_request(request: Any, message: str) -> Any:
    detail = protos.shared.BadRequest(message=message)
    return batch_error(request, CODE_INVALID_ARGUMENT, "BadRequest", detail)


def _batch_reply(request: Any, **result: Any) -> Any:
    return protos.streams.BatchAppendResp(
        correlation_id=request.correlation_id,
        stream_identifier=request.options.stream_identifier,
        **result,
    )


def _set_position(success: Any, position: int) -> None:
    if position < 0:
        success.no_position.SetInParent()
    else:
        success.position.commit_position = position
        success.position.prepare_position = position


# What reads answer


def recorded(record: Record, *, string_id: bool = True) -> Any:
    """The reply that shows an event. It is made once: replies are not changed after that."""
    if not string_id:
        return _recorded(record, string_id=False)
    if record.message is None:
        record.message = _recorded(record, string_id=True)
    return record.message


def resolved(target: Record, link: Record) -> Any:
    """The reply that shows what a link leads to; its position is the link's."""
    reply = protos.streams.ReadResp()
    reply.event.CopyFrom(recorded(target).event)
    reply.event.link.CopyFrom(recorded(link).event.event)
    reply.event.commit_position = link.position
    for shown in (reply.event.event, reply.event.link):
        shown.commit_position = shown.prepare_position = link.position
    return reply


def _recorded(record: Record, *, string_id: bool) -> Any:
    event = record.event
    return protos.streams.ReadResp(
        event=protos.streams.ReadResp.ReadEvent(
            event=protos.streams.ReadResp.ReadEvent.RecordedEvent(
                id=encode_uuid(event.id, string=string_id),
                stream_identifier=protos.shared.StreamIdentifier(
                    stream_name=record.stream.encode()
                ),
                stream_revision=record.number,
                prepare_position=record.position,
                commit_position=record.position,
                metadata={
                    "type": event.type,
                    "created": str(record.created),
                    "content-type": JSON if event.is_json else BYTES,
                },
                custom_metadata=event.metadata,
                data=event.data,
            ),
            commit_position=record.position,
        )
    )


def confirmation(id: str) -> Any:
    return protos.streams.ReadResp(
        confirmation=protos.streams.ReadResp.SubscriptionConfirmation(subscription_id=id)
    )


def checkpoint(position: int) -> Any:
    return protos.streams.ReadResp(
        checkpoint=protos.streams.ReadResp.Checkpoint(
            commit_position=position, prepare_position=position
        )
    )


def caught_up() -> Any:
    return protos.streams.ReadResp(caught_up=protos.streams.ReadResp.CaughtUp())


def fell_behind() -> Any:
    return protos.streams.ReadResp(fell_behind=protos.streams.ReadResp.FellBehind())


def stream_not_found(stream: str) -> Any:
    identifier = protos.shared.StreamIdentifier(stream_name=stream.encode())
    return protos.streams.ReadResp(
        stream_not_found=protos.streams.ReadResp.StreamNotFound(stream_identifier=identifier)
    )


# Ids are strings, or two signed halves


def encode_uuid(id: UUID, *, string: bool = True) -> Any:
    if string:
        return protos.shared.UUID(string=str(id))
    high, low = (
        half - 2**64 if half >= 2**63 else half for half in (id.int >> 64, id.int & (2**64 - 1))
    )
    structured = protos.shared.UUID.Structured(
        most_significant_bits=high, least_significant_bits=low
    )
    return protos.shared.UUID(structured=structured)


def decode_uuid(message: Any) -> UUID:
    if message.WhichOneof("value") == "structured":
        high = message.structured.most_significant_bits % 2**64
        return UUID(int=high << 64 | message.structured.least_significant_bits % 2**64)
    return UUID(message.string)

"""What the server and gRPC say when something went wrong, in the port's words.

What matters of a failed append is whether it may have been written. It was not when it never left
this process, or when the server's own answer to it says so. Everything else is doubt: a connection
that broke, a deadline, a server that gave up waiting for its cluster.
"""

from __future__ import annotations

from typing import Any, Final

import grpc

from amends.errors import (
    AmendsError,
    AppendOutcomeUnknown,
    PayloadTooLarge,
    StoreError,
    StoreReadOnly,
    StoreUnavailable,
    UsageError,
)
from amends.stores.eventstoredb.client import shared

_CODE: Final = grpc.StatusCode
#: What will be the same however often it is asked.
_FINAL: Final = (
    _CODE.UNAUTHENTICATED,
    _CODE.PERMISSION_DENIED,
    _CODE.FAILED_PRECONDITION,
    _CODE.INVALID_ARGUMENT,
    _CODE.UNIMPLEMENTED,
    _CODE.OUT_OF_RANGE,
)
#: google.rpc.Code, as an answer to an append has it.
_OK: Final = 0
_INVALID_ARGUMENT: Final = 3
#: What a server says that has another idea of who leads.
_NOT_LEADER: Final = "Leader info available"
_TLS: Final = ("SSL_ERROR", "handshake", "empty address list", "security handshaker")


#: After these, another connection is worth a try, perhaps to another node.
_LOST: Final = (_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED, _CODE.CANCELLED, _CODE.INTERNAL)


class Refused(StoreUnavailable):
    """The server refuses what it is asked for, and will until a person has seen to it."""


class NotWritten(StoreUnavailable):
    """An append that is worth another try: nothing of this one was written."""


class Doubt(AppendOutcomeUnknown):
    """An append that may have been written."""


class Conflict(Exception):
    """The server refused an append: the stream does not end where it should."""


def of_call(error: grpc.aio.AioRpcError, target: str) -> StoreError:
    """What a call that only reads, or never began, raises because of gRPC's error."""
    code, details = error.code(), error.details() or "no details"
    if code == _CODE.UNAUTHENTICATED:
        return Refused(
            f"{target} refuses the user or the password. Nothing was written. Look at "
            "AMENDS_STORE_USER and AMENDS_STORE_PASSWORD."
        )
    if code == _CODE.PERMISSION_DENIED:
        return Refused(
            f"{target} does not let this user do that ({details}). Nothing was written. Grant the "
            "user what it needs: to read $all and to read and write the streams of its own."
        )
    if any(word in details for word in _TLS):
        return StoreUnavailable(
            f"no TLS connection to {target}: {details}. Nothing was written. Does the server speak "
            "TLS, and is its certificate from an authority that AMENDS_STORE_CA_FILE names?"
        )
    if code == _CODE.DEADLINE_EXCEEDED:
        return StoreUnavailable(
            f"{target} did not answer in time. Nothing was written by this call; try again."
        )
    if "InvalidPosition" in details or "invalid position" in details:
        return StoreUnavailable(
            f"the log of {target} has no event at the position to go on from. Nothing was written. Is "
            "it another server, or was it restored from a backup? What remembers positions (a "
            "projection) must then be rebuilt."
        )
    return StoreUnavailable(
        f"{target} cannot be used: {code.name} ({details}). Nothing was written by this call; try "
        "again."
    )


def is_passing(error: grpc.aio.AioRpcError) -> bool:
    """Whether another try, perhaps at another node, may succeed."""
    return error.code() not in _FINAL


def is_link_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether another connection should be made before that."""
    knows_no_leader = "No leader info" in (error.details() or "")
    return error.code() in _LOST or is_not_leader(error) or knows_no_leader


def is_stream_deleted(error: grpc.aio.AioRpcError) -> bool:
    """Whether somebody ended a stream for good, with a tombstone."""
    return error.code() == _CODE.FAILED_PRECONDITION and "is deleted" in (error.details() or "")


def is_not_leader(error: grpc.aio.AioRpcError) -> bool:
    """Whether the node refused what only the leader does."""
    return bool(error.code() == _CODE.NOT_FOUND and error.details() == _NOT_LEADER)


def leader_of(error: grpc.aio.AioRpcError) -> str | None:
    """The node that leads, as one that does not lead has it."""
    trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
    host, port = trailers.get("leader-endpoint-host"), trailers.get("leader-endpoint-port")
    if not is_not_leader(error) or not host or not port:
        return None
    return f"{_text(host)}:{_text(port)}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def of_append(stream: str, status: Any) -> AmendsError | Conflict:
    """What an append raises because of the server's own answer to it."""
    details = status.details
    if details.Is(shared.WrongExpectedVersion.DESCRIPTOR):
        return Conflict()
    if details.Is(shared.MaximumAppendSizeExceeded.DESCRIPTOR):
        return PayloadTooLarge(
            f"the server takes less in one append than those events for {stream!r} have "
            f"({status.message}); nothing was written. Append less at once, or raise the server's "
            "MaxAppendSize."
        )
    if details.Is(shared.AccessDenied.DESCRIPTOR):
        return StoreReadOnly(
            f"the server does not let this user write {stream!r}; nothing was written. Grant the "
            "user '$w', and '$mr' and '$mw' where journals are removed."
        )
    if details.Is(shared.StreamDeleted.DESCRIPTOR):
        return StoreReadOnly(
            f"stream {stream!r} was ended for good with a tombstone, by other means than Amends; "
            "nothing was written, and never will be. Use another id."
        )
    if details.Is(shared.BadRequest.DESCRIPTOR) or details.Is(shared.InvalidTransaction.DESCRIPTOR):
        return UsageError(
            f"the server does not understand an append to {stream!r} ({status.message}); nothing "
            "was written"
        )
    if status.code == _OK:
        # "Server Is Not Ready", "Server Is Busy", "No leader info available" have no code of their own.
        return NotWritten(
            f"the server did not take an append to {stream!r}: {status.message}. Nothing was "
            "written; try again."
        )
    if status.code == _INVALID_ARGUMENT:
        # Newer servers also have a limit for a single event, which not every client knows of.
        return PayloadTooLarge(
            f"the server refuses an append to {stream!r}: {status.message}; nothing was written. "
            "Write smaller events, or raise the server's MaxAppendEventSize."
        )
    # Timeout, Unknown, and what is in no version that was looked at: the server may have begun.
    return doubt(stream, f"the server says: {status.message}")


def doubt(stream: str, why: str) -> Doubt:
    """An append of which nobody knows what became."""
    return Doubt(
        f"an append to {stream!r} was sent, and what became of it is unknown ({why}). Read the "
        "stream's tail, or append the same events again: they are told by their ids."
    )

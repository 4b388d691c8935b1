"""What the server and gRPC say, in the port's words."""

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.empty_pb2 import Empty

from amends.errors import AmendsError, PayloadTooLarge
from amends.stores.eventstoredb.client import shared
from amends.stores.eventstoredb.errors import Doubt, NotWritten, is_link_lost, of_append, of_call
from tests.esdb import protos

#: A message that newer servers have, and this client's protocol may not.
EVENT_TOO_LARGE = Packed(type_url="type.googleapis.com/event_store.client.MaximumAppendEventSize")


def packed(message: Any) -> Packed:
    found = Packed()
    found.Pack(message)
    return found


@pytest.mark.parametrize(
    ("code", "message", "details", "raised"),
    [
        (0, "Server Is Busy", packed(Empty()), NotWritten),
        (3, "MaximumAppendEventSizeExceeded", EVENT_TOO_LARGE, PayloadTooLarge),
        (4, "Timeout", packed(shared.Timeout()), Doubt),
        (2, "Unknown", packed(shared.Unknown()), Doubt),
        (13, "Envelope callback expected something else", packed(Empty()), Doubt),
        (10, "SomethingNew", Packed(), Doubt),
    ],
)
def test_an_append_that_is_not_clearly_refused_is_in_doubt(
    code: int, message: str, details: Packed, raised: type[AmendsError]
) -> None:
    error = of_append("s-1", protos.status.Status(code=code, message=message, details=details))
    assert type(error) is raised
    assert message in str(error)
    told = "what became of it is unknown" if raised is Doubt else "othing was written"
    assert told in str(error)


def said(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNKNOWN, "Unexpected FilteredReadAllResult: InvalidPosition"),
        (grpc.StatusCode.INVALID_ARGUMENT, "Trying to read from an invalid position."),
    ],
)
def test_a_position_that_is_none_of_the_logs_is_told_by_old_servers_and_new(
    code: grpc.StatusCode, details: str
) -> None:
    assert "restored from a backup" in str(of_call(said(code, details), "node:2113"))


def test_a_node_that_knows_no_leader_is_left() -> None:
    unknown = grpc.StatusCode.UNKNOWN
    assert is_link_lost(said(unknown, "No leader info available in response"))
    assert not is_link_lost(said(unknown, "Unexpected ReadAllResult: Error"))

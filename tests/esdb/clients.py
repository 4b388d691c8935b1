"""The official client for tests of the protocol double, whichever is installed, by neutral names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import grpc

from tests.esdb import protos

IS_OLDER = protos.PACKAGE.startswith("esdbclient")  # than kurrentdbclient, which renamed everything

package: Any = import_module("esdbclient" if IS_OLDER else "kurrentdbclient")
exceptions: Any = import_module(f"{package.__name__}.exceptions")

Client: Any = package.AsyncEventStoreDBClient if IS_OLDER else package.AsyncKurrentDBClient
NewEvent: Any = package.NewEvent
StreamState: Any = package.StreamState


def _error(name: str) -> type[Exception]:
    found: type[Exception] = getattr(exceptions, name, None) or getattr(exceptions, f"{name}Error")
    return found


ClientError: type[Exception] = (
    exceptions.EventStoreDBClientException if IS_OLDER else exceptions.KurrentDBClientError
)
AbortedByServer = _error("AbortedByServer")
AccessDenied = _error("AccessDeniedError")
ConsumerTooSlow = _error("ConsumerTooSlow")
DeadlineExceeded = _error("DeadlineExceeded")
MaximumAppendSizeExceeded = _error("MaximumAppendSizeExceededError")
NodeIsNotLeader = _error("NodeIsNotLeader")
NotFound = _error("NotFound")
ServiceUnavailable = _error("ServiceUnavailable")
StreamIsDeleted = _error("StreamIsDeleted")
WrongCurrentVersion = _error("WrongCurrentVersion")


@asynccontextmanager
async def connected(uri: str, **options: Any) -> AsyncIterator[Any]:
    client = Client(uri, **options)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


def streams(client: Any) -> Any:
    """The calls of a client without its retries."""
    connection = client._connection if IS_OLDER else client.connection
    return connection.streams


def kind(message: Any) -> str:
    """What a subscription yielded."""
    if message.is_checkpoint:
        return "checkpoint"
    return "caught up" if message.is_caught_up else "event"


def leader_of(error: Any) -> str:
    """Where a NodeIsNotLeader says that the leader is."""
    return str(error.leader_grpc_target) if IS_OLDER else f"{error.host}:{error.port}"


@asynccontextmanager
async def raw_subscription(uri: str) -> AsyncIterator[AsyncIterator[str]]:
    """What a subscription to all of `$all` from its end is told, by the names of the protocol."""
    options = protos.streams.ReadReq.Options()
    options.all.end.SetInParent()
    options.subscription.SetInParent()
    options.no_filter.SetInParent()
    options.uuid_option.string.SetInParent()
    target = uri.removeprefix("esdb://").partition("?")[0]
    async with grpc.aio.insecure_channel(target) as channel:
        call = protos.streams_grpc.StreamsStub(channel).Read(
            protos.streams.ReadReq(options=options)
        )
        yield (message.WhichOneof("content") async for message in call)
        call.cancel()

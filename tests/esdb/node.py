"""One node of the protocol double: who leads, who may do what, and what goes wrong.

Where the rules come from (EventStore/EventStore, src/EventStore.Core): a node that does not lead
refuses what requires a leader and names the one it knows (Services/RequestForwardingService.cs,
Services/Transport/Grpc/RpcExceptions.cs); writes wait for the cluster's commit, two seconds unless
set otherwise (ClusterVNodeOptions.cs, `CommitTimeoutMs`); without anonymous access a call needs a
user, and system streams and `$all` an administrator (documentation, "Security: access control").
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from tests.esdb import replies
from tests.esdb.faults import Call, Fault, Faults
from tests.esdb.log import Log
from tests.esdb.replies import RpcError

T = TypeVar("T")

ADMINISTRATORS = ("admin", "ops")
MAX_APPEND_BYTES = 1024 * 1024
WRITE_TIMEOUT_S = 2.0


class Cluster:
    """Nodes with one log: what one wrote, all have."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.nodes: list[Node] = []
        self.leader: Node | None = None

    def join(self, node: Node) -> None:
        self.nodes.append(node)
        self.leader = self.leader or node

    def elect(self, node: Node) -> None:
        self.leader = node

    def elect_another(self) -> None:
        """Let the node after the leader lead; with one node, nothing changes."""
        assert self.leader is not None
        self.elect(self.nodes[(self.nodes.index(self.leader) + 1) % len(self.nodes)])


class Node:
    """What the services of one node share."""

    def __init__(self, cluster: Cluster, *, users: dict[str, str] | None = None) -> None:
        self.cluster = cluster
        self.faults = Faults()
        self.host, self.port = "127.0.0.1", 0
        self.users = users
        self.max_append_bytes = MAX_APPEND_BYTES
        self.write_timeout_s = WRITE_TIMEOUT_S
        #: As servers before 23.10: the checkpoint at the end of the log is where the next event
        #: will be, so that who resumes *after* it misses that event.
        self.checkpoints_beyond_the_end = False
        #: Breaks every connection; set by who runs the server.
        self.cut: Callable[[], None] = lambda: None

    @property
    def log(self) -> Log:
        return self.cluster.log

    # Who may call

    def admit(self, context: Any, stream: str | None = None) -> None:
        """Refuse a call that this node, or this user, must not make."""
        if self.faults.unavailable:
            raise replies.connection_lost()
        headers = dict(context.invocation_metadata() or ())
        self.check_user(headers.get("authorization"), stream)
        if headers.get("requires-leader") == "true":
            self.check_leader()

    def check_leader(self) -> None:
        leader = self.cluster.leader
        if leader is None:
            raise replies.not_ready()
        if leader is not self:
            raise replies.not_leader(leader.host, leader.port)

    def check_user(self, authorization: str | bytes | None, stream: str | None) -> None:
        if self.users is None:
            return
        if authorization is None:
            raise replies.access_denied()
        if isinstance(authorization, bytes):
            authorization = authorization.decode()
        name, _, password = b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if self.users.get(name) != password:
            raise replies.unauthenticated()
        original = (stream or "").removeprefix("$$")
        if original.startswith("$") and name not in ADMINISTRATORS:
            raise replies.access_denied()

    # What goes wrong

    async def suffer(self, call: Call) -> None:
        """What strikes a call that has no effect."""
        await self.suffer_before(self.faults.draw(call))

    async def write(self, call: Call, effect: Callable[[], T]) -> T:
        """Have an effect, unless something else happens."""
        fault = self.faults.draw(call)
        if fault is Fault.LATE:
            asyncio.get_running_loop().call_later(self.faults.late_after_s, effect)
            await forever()
        await self.suffer_before(fault)
        result = effect()
        if fault is Fault.DROP_AFTER:
            raise replies.connection_lost()
        if fault is Fault.STALL_AFTER:
            await forever()
        if fault is Fault.TIMEOUT_AFTER:
            raise replies.timed_out("Prepare phase timeout")
        return result

    async def suffer_before(self, fault: Fault | None) -> None:
        match fault:
            case Fault.DROP_BEFORE:
                raise replies.connection_lost()
            case Fault.STALL_BEFORE:
                await forever()
            case Fault.NOT_READY:
                raise replies.not_ready()
            case Fault.NEW_LEADER:
                self.cluster.elect_another()
                self.check_leader()
            case Fault.CUT:
                self.cut()
                await forever()
            case Fault.ABORT:
                raise replies.timed_out()
            case Fault.TOO_SLOW:
                raise replies.consumer_too_slow()
            case _:
                pass

    async def committed(self, timeout_s: float) -> None:
        """Wait until the cluster has committed what is in the log."""
        changed = asyncio.Event()
        self.log.listeners.add(changed.set)
        try:
            async with asyncio.timeout(timeout_s):
                while self.log.readable < len(self.log.records):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            raise replies.timed_out("Commit phase timeout") from None
        finally:
            self.log.listeners.discard(changed.set)


async def forever() -> None:
    """Until the call is cancelled: its deadline has passed, or its connection is gone."""
    await asyncio.get_running_loop().create_future()


def answering(
    handle: Callable[[Any, Any, Any], Awaitable[Any]],
) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """Turn an RpcError that a method of a service raises into the answer to its call."""

    @wraps(handle)
    async def answer(service: Any, request: Any, context: Any) -> Any:
        try:
            return await handle(service, request, context)
        except RpcError as error:
            await context.abort(error.code, error.details, error.trailers)

    return answer

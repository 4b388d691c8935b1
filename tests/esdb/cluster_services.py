"""The other services of the protocol double: who leads, and which persistent subscriptions exist.

Rules from EventStore/EventStore, src/EventStore.Core/Services/Transport/Grpc: Gossip.Read.cs;
PersistentSubscriptions.Info.cs (there are none here: those of a stream are not found, and those of
all streams are an empty list). The clients do not ask for a server's features.
"""

from __future__ import annotations

from typing import Any

import grpc

from tests.esdb import protos, replies
from tests.esdb.faults import Call
from tests.esdb.node import Node, answering


class Gossip(protos.gossip_grpc.GossipServicer):  # type: ignore[misc]
    """Methods are named and called by gRPC."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @answering
    async def Read(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.node.faults.unavailable:
            raise replies.connection_lost()
        await self.node.suffer(Call.GOSSIP)
        states = protos.gossip.MemberInfo.VNodeState
        cluster = self.node.cluster
        return protos.gossip.ClusterInfo(
            members=[
                protos.gossip.MemberInfo(
                    state=states.Leader if node is cluster.leader else states.Follower,
                    is_alive=not node.faults.unavailable,
                    http_end_point=protos.gossip.EndPoint(address=node.host, port=node.port),
                )
                for node in cluster.nodes
            ]
        )


class PersistentSubscriptions(protos.persistent_grpc.PersistentSubscriptionsServicer):  # type: ignore[misc]
    """Methods are named and called by gRPC."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @answering
    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.node.admit(context)
        if request.options.WhichOneof("list_option") == "list_for_stream":
            raise replies.RpcError(
                grpc.StatusCode.NOT_FOUND,
                "No subscription groups on the stream exist.",
                exception="persistent-subscription-does-not-exist",
            )
        return protos.persistent.ListResp()

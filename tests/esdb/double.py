"""The protocol double: a server in memory that speaks what the clients of the event store speak.

It is a stand-in for tests where no real server can be had, and never a measure of one. Its rules are
those of the server's source and documentation; each module says which. It has no projections, no
persistent subscriptions, no chunks, and one log for all nodes of a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import grpc

from tests.esdb import protos
from tests.esdb.cluster_services import Gossip, PersistentSubscriptions
from tests.esdb.faults import Faults
from tests.esdb.log import Log, Proposed
from tests.esdb.node import Cluster, Node
from tests.esdb.streams import Streams

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Unlike the server's, the gRPC library here takes a client's keepalive for an attack.
    ("grpc.http2.max_ping_strikes", 0),
]


class Tls(NamedTuple):
    """Files of a server's certificate."""

    certificate: Path
    key: Path
    #: Whose certificates clients must have; None asks for none.
    client_ca: Path | None = None


#: Certificates for 127.0.0.1, and of a client, by the authority in the file `ca.pem`.
TLS_FILES = Path(__file__).resolve().parents[1] / "data" / "tls"
TLS = Tls(TLS_FILES / "server.pem", TLS_FILES / "server.key")


class ProtocolDouble:
    """One node that listens. Tests start it with `running`."""

    def __init__(self, node: Node, tls: Tls | None = None) -> None:
        self.node = node
        self._tls = tls
        self._server: Any = None
        self._restarting: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        *,
        log: Log | None = None,
        beside: ProtocolDouble | None = None,
        port: int = 0,
        users: dict[str, str] | None = None,
        tls: Tls | None = None,
    ) -> AsyncIterator[ProtocolDouble]:
        """A node that listens while the block runs, in this loop.

        Args:
            log: What is in it at first; default: a new one, with a few system events.
            beside: Another node, which leads, and whose log and cluster this one shares.
            port: Where to listen; default: a free port.
            users: Name to password. Clients then need one, over TLS; `admin` may read `$all`.
            tls: Certificate to serve with; default: no TLS.
        """
        cluster = beside.node.cluster if beside else Cluster(log or new_log())
        double = cls(Node(cluster, users=users), tls)
        double.node.port = port
        await double.start()
        cluster.join(double.node)
        try:
            yield double
        finally:
            await double.stop()
            cluster.nodes.remove(double.node)

    @property
    def uri(self) -> str:
        """A connection string for this node alone."""
        return self._uri([self.node])

    @property
    def cluster_uri(self) -> str:
        """A connection string for all nodes of the cluster."""
        return self._uri(self.node.cluster.nodes)

    @property
    def faults(self) -> Faults:
        return self.node.faults

    @property
    def log(self) -> Log:
        return self.node.log

    async def start(self) -> None:
        """Listen, at the same port as before if there was one."""
        server = grpc.aio.server(options=OPTIONS)
        protos.streams_grpc.add_StreamsServicer_to_server(Streams(self.node), server)
        protos.gossip_grpc.add_GossipServicer_to_server(Gossip(self.node), server)
        protos.persistent_grpc.add_PersistentSubscriptionsServicer_to_server(
            PersistentSubscriptions(self.node), server
        )
        address = f"127.0.0.1:{self.node.port}"
        if self._tls is None:
            self.node.port = server.add_insecure_port(address)
        else:
            self.node.port = server.add_secure_port(address, credentials(self._tls))
        self.node.cut = self._cut
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Break every connection and stop listening; the log stays."""
        if self._restarting is not None:
            await self._restarting
        await self._server.stop(None)

    def _cut(self) -> None:
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.ensure_future(self.restart())

    async def restart(self) -> None:
        """Break every connection and listen again."""
        await self._server.stop(None)
        await self.start()

    def _uri(self, nodes: list[Node]) -> str:
        tls = "true" if self._tls else "false"
        return f"esdb://{','.join(f'{node.host}:{node.port}' for node in nodes)}?Tls={tls}"


def credentials(tls: Tls) -> Any:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=tls.client_ca.read_bytes() if tls.client_ca else None,
        require_client_auth=tls.client_ca is not None,
    )


def new_log() -> Log:
    """A log as a fresh server has it: with events of its own, which readers must pass over."""
    log = Log()
    log.skip(170)  # the first epoch
    for stream, type, data in (
        ("$epoch-information", "$epoch-information", b'{"epochNumber":0}'),
        ("$user-admin", "$UserCreated", b'{"loginName":"admin"}'),
        ("$users", "$User", b'{"admin":"$admins"}'),
        ("$$$stats-127.0.0.1:2113", "$metadata", b'{"$maxAge":86400}'),
        ("$stats-127.0.0.1:2113", "$statsCollected", b'{"proc-cpu":1.0}'),
    ):
        log.write(stream, 0, [Proposed(uuid4(), type, data)])
    return log

"""The connection to the node that is to be used, made again at another one when that is lost.

Which node that is, the cluster's gossip tells; a node that does not lead tells who does. gRPC has
means of its own to connect again. They are not used: they wait for up to two minutes, and know
nothing of leaders.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Final

import grpc

from amends.errors import InvalidSettings, StoreClosed, StoreError, StoreUnavailable
from amends.stores.eventstoredb.address import StoreAddress
from amends.stores.eventstoredb.client import GossipStub, gossip, shared
from amends.stores.eventstoredb.errors import is_passing, of_call
from amends.stores.eventstoredb.link import Headers, Link
from amends.telemetry import Log

log = Log("amends.stores")

CLOSED: Final = "the store is closed; nothing was written. Open it again to use it."
#: Reads under way at once; more wait for their turn. Servers take some 100 calls in one connection.
READS_MAX: Final = 64
#: Waiting between two tries starts shorter than elsewhere: an election takes a second or two.
_PAUSE_S: Final = 0.02
_PAUSE_MAX_S: Final = 1.0


class Connection:
    """One link at a time, made when it is needed. `follows` is which node it looks for: `leader`,
    `follower`, `readonlyreplica` or `random`.
    """

    def __init__(self, address: StoreAddress, follows: str, timeout_s: float) -> None:
        self._address = address
        self._follows = follows
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._making: asyncio.Task[Link] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._leader: str | None = None
        self.reading = asyncio.Semaphore(READS_MAX)
        """To be held by who reads, but for subscriptions."""
        self._is_closed = False

    async def link(self, within_s: float) -> Link:
        """The link there is, or a new one. All who wait share one attempt to make it, and none
        waits for longer than it may. Raises StoreUnavailable, StoreClosed.
        """
        if self._link is not None:
            return self._link
        self._check_open()
        if self._making is None:
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(self._made)
        making = self._making
        if not (await asyncio.wait([making], timeout=within_s))[0]:
            raise StoreUnavailable(
                f"{self._address.redacted()} did not answer in time. Nothing was written; try again."
            )
        self._check_open()
        return making.result()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosed(CLOSED)

    def _made(self, making: asyncio.Task[Link]) -> None:
        self._making = None
        if not making.cancelled() and making.exception() is None:
            self._link = making.result()

    def drop(self, link: Link, leader: str | None = None) -> None:
        """Take a link for lost; `leader` is who leads, if its node said so."""
        if link is not self._link:
            return
        self._leader = leader or link.leader
        self._link = None
        log.info("store connection dropped", node=link.target, leader=self._leader)
        self._retire(link, self._timeout_s)

    def _retire(self, link: Link, within_s: float) -> None:
        retiring = asyncio.create_task(link.retire(within_s))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Release everything. Idempotent."""
        self._is_closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        for retiring in list(self._retiring):
            retiring.cancel()
        if self._link is not None:
            link, self._link = self._link, None
            self._retire(link, 0)
        await asyncio.gather(*self._retiring, return_exceptions=True)

    # --- which node

    async def _make(self) -> Link:
        """A link to the node that is wanted, which has answered."""
        leader, self._leader = self._leader, None
        known = [leader] if leader is not None else []
        error: StoreError = StoreUnavailable("the address names no node")
        for target in [*known, *self._address.targets]:
            try:
                return await self._reach(target, is_final=target == leader)
            except StoreUnavailable as caught:
                error = caught
        raise error

    async def _reach(self, target: str, *, is_final: bool) -> Link:
        channel = self._channel(target)
        try:
            members = await self._gossip(channel, target)
            wanted = self._wanted(members) if self._address.discovers and not is_final else target
            if wanted != target:
                await channel.close(None)
                channel, target = self._channel(wanted), wanted
                await self._gossip(channel, target)
        except BaseException:
            await channel.close(None)
            raise
        log.info("store connected", node=target)
        return Link(channel, target, self._headers(leads=self._follows == "leader"))

    async def _gossip(self, channel: Any, target: str) -> Sequence[Any]:
        """Who is in the cluster, as one of its nodes has it."""
        try:
            answer = await GossipStub(channel).Read(
                shared.Empty(),
                timeout=min(self._timeout_s, self._address.gossip_timeout_s),
                metadata=self._headers(leads=False),
            )
        except grpc.aio.AioRpcError as error:
            if not is_passing(error) and error.code() != grpc.StatusCode.UNAUTHENTICATED:
                return ()  # it answers, and has its reasons
            raise of_call(error, target) from error
        return tuple(member for member in answer.members if member.is_alive)

    def _wanted(self, members: Sequence[Any]) -> str:
        """The node to use. Raises StoreUnavailable when there is none such."""
        states = gossip.MemberInfo.VNodeState
        kinds = {
            "leader": (states.Leader,),
            "follower": (states.Follower,),
            "readonlyreplica": (states.ReadOnlyReplica,),
            "random": (states.Leader, states.Follower, states.ReadOnlyReplica),
        }
        fit = [member for member in members if member.state in kinds[self._follows]]
        if not fit:
            raise StoreUnavailable(
                f"the cluster has no {self._follows} now, of {len(members)} nodes that are alive. "
                "Nothing was written. It may be electing one; try again."
            )
        place = random.choice(fit).http_end_point
        return f"{place.address}:{place.port}"

    # --- how

    def _headers(self, *, leads: bool) -> Headers:
        address = self._address
        headers: Headers = (
            ("connection-name", address.connection_name),
            ("requires-leader", "true" if leads else "false"),
        )
        if address.user is None or not address.tls:
            return headers  # nobody's password travels in the clear
        named = b64encode(f"{address.user}:{address.password}".encode()).decode()
        return (*headers, ("authorization", f"Basic {named}"))

    def _channel(self, target: str) -> Any:
        address = self._address
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Or a connection would be shared with the one that has just failed.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", int(address.keep_alive_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(address.keep_alive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if not address.tls:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials(address), options)


def credentials(address: StoreAddress) -> Any:
    """What TLS needs. Reads the files anew, so that a renewed certificate is taken up."""
    contents: dict[str, bytes | None] = {}
    for name in ("ca_file", "cert_file", "key_file"):
        file = getattr(address, name)
        try:
            with open(file or "/dev/null", "rb") as opened:
                contents[name] = opened.read() if file else None
        except OSError as error:
            raise InvalidSettings(
                f"AMENDS_STORE cannot be used: {file!r} cannot be read: {error.strerror}. Nothing "
                "was opened"
            ) from error
    return grpc.ssl_channel_credentials(
        contents["ca_file"], contents["key_file"], contents["cert_file"]
    )


async def pause(failures: int, until: float) -> bool:
    """Wait before the next try, with jitter, and not beyond a moment of the loop's time. Says
    whether there is time for another.
    """
    loop = asyncio.get_running_loop()
    most_s = min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** min(failures, 20))
    wait_s = most_s * random.uniform(0.5, 1.0)
    if loop.time() + wait_s >= until:
        return False
    await asyncio.sleep(wait_s)
    return True

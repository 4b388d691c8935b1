"""The protocol double behind TLS and with users, as the official client meets it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.esdb import clients
from tests.esdb.clients import NewEvent, StreamState
from tests.esdb.double import TLS, TLS_FILES, ProtocolDouble

USERS = {"admin": "changeit", "teller": "till"}
CA = {"root_certificates": (TLS_FILES / "ca.pem").read_bytes()}
CLIENT_FILES = f"UserCertFile={TLS_FILES / 'client.pem'}&UserKeyFile={TLS_FILES / 'client.key'}"


@pytest.fixture
async def secured() -> AsyncIterator[ProtocolDouble]:
    async with ProtocolDouble.running(users=USERS, tls=TLS) as double:
        yield double


def uri_of(double: ProtocolDouble, user: str) -> str:
    return double.uri.replace("esdb://", f"esdb://{user}@")


async def append(client: Any, stream: str = "a-1") -> None:
    await client.append_to_stream(
        stream, current_version=StreamState.ANY, events=[NewEvent(type="Paid", data=b"{}")]
    )


async def test_a_user_reads_and_writes_streams(secured: ProtocolDouble) -> None:
    async with clients.connected(uri_of(secured, "teller:till"), **CA) as client:
        await append(client)
        assert len(await client.get_stream("a-1")) == 1
        for denied in (append(client, "$secret"), client.get_stream("$users"), first(client)):
            with pytest.raises(clients.ClientError, match=r"(?i)^$|access.?denied"):
                await denied


async def first(client: Any) -> Any:
    return await anext(await client.read_all())


async def test_an_administrator_reads_the_log(secured: ProtocolDouble) -> None:
    async with clients.connected(uri_of(secured, "admin:changeit"), **CA) as client:
        await append(client)
        assert (await first(client)).type == "Paid"


@pytest.mark.parametrize("user", ["teller:wrong", "nobody:till"])
async def test_a_wrong_password_is_no_user(secured: ProtocolDouble, user: str) -> None:
    async with clients.connected(uri_of(secured, user), **CA) as client:
        with pytest.raises(clients.ClientError, match="401"):
            await client.get_stream("a-1")


async def test_nobody_knows_the_authority(secured: ProtocolDouble) -> None:
    async with clients.connected(uri_of(secured, "teller:till")) as client:
        with pytest.raises(clients.ServiceUnavailable):
            await client.get_stream("a-1")
    assert secured.log.last_number("a-1") == -1


async def test_clients_have_certificates() -> None:
    tls = TLS._replace(client_ca=TLS_FILES / "ca.pem")
    async with ProtocolDouble.running(tls=tls) as double:
        uri = uri_of(double, "teller:till")
        async with clients.connected(f"{uri}&{CLIENT_FILES}", **CA) as client:
            await append(client)
        async with clients.connected(uri, **CA) as client:
            with pytest.raises(clients.ServiceUnavailable):
                await append(client)
    assert double.log.last_number("a-1") == 0

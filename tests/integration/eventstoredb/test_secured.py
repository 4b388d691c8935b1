"""Over TLS, with users and certificates: who is let in, and what who is not is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from amends.errors import StoreReadOnly, StoreUnavailable
from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from amends.stores.port import Removal
from amends.testing.contracts.data import as_new, soon
from tests.esdb.double import TLS, TLS_FILES, ProtocolDouble
from tests.integration.eventstoredb.support import a_stream, an_append

PASSWORD, WRONG = "changeit", "hunter2"
USERS = {"admin": PASSWORD, "teller": PASSWORD}
CA = str(TLS_FILES / "ca.pem")


@pytest.fixture
async def secured() -> AsyncIterator[ProtocolDouble]:
    async with ProtocolDouble.running(users=USERS, tls=TLS) as double:
        yield double


async def told(double: ProtocolDouble, timeout_s: float = 60.0, **given: Any) -> str:
    """What a store that is not let in says, at once if its patience is long."""
    store = EventStoreDb(StoreAddress.parse(double.uri, **given), timeout_s=timeout_s)
    with pytest.raises(StoreUnavailable) as refused:
        await soon(store.end())
    await store.close()
    assert WRONG not in str(refused.value)
    return str(refused.value)


async def test_an_administrator_does_everything(secured: ProtocolDouble) -> None:
    given = {"user": "admin", "password": PASSWORD, "ca_file": CA}
    store = EventStoreDb(StoreAddress.parse(secured.uri, **given))
    append = an_append(a_stream())
    await store.append(append)
    assert as_new(await store.read_all()) == append.events
    assert await store.remove([Removal(append.stream, 1)]) == [append.stream]
    await store.close()


async def test_who_may_not_read_the_log_is_told_so(secured: ProtocolDouble) -> None:
    assert "to read $all" in await told(secured, user="teller", password=PASSWORD, ca_file=CA)
    given = {"user": "teller", "password": PASSWORD, "ca_file": CA}
    store = EventStoreDb(StoreAddress.parse(secured.uri, **given))
    append = an_append(a_stream())
    await store.append(append)
    assert as_new(await store.read(append.stream)) == append.events
    with pytest.raises(StoreReadOnly, match="Grant the user"):
        await store.append(append._replace(stream=type(append.stream)("$secret-1")))
    await store.close()


@pytest.mark.parametrize(("user", "password"), [("admin", WRONG), ("nobody", PASSWORD)])
async def test_a_wrong_password_is_told_at_once(
    secured: ProtocolDouble, user: str, password: str
) -> None:
    said = await told(secured, user=user, password=password, ca_file=CA)
    assert "AMENDS_STORE_USER and AMENDS_STORE_PASSWORD" in said


async def test_no_user_at_all(secured: ProtocolDouble) -> None:
    assert "does not let this user" in await told(secured, ca_file=CA)


async def test_an_authority_that_nobody_knows(secured: ProtocolDouble) -> None:
    said = await told(secured, 0.5, user="admin", password=PASSWORD)
    assert "AMENDS_STORE_CA_FILE" in said


async def test_a_server_without_tls_gets_no_password() -> None:
    async with ProtocolDouble.running(users=USERS) as double:
        assert "does not let this user" in await told(double, user="admin", password=PASSWORD)
        over_tls = double.uri.replace("Tls=false", "Tls=true")
        store = EventStoreDb(StoreAddress.parse(over_tls), timeout_s=0.5)
        with pytest.raises(StoreUnavailable, match="Does the server speak TLS"):
            await soon(store.end())
        await store.close()


async def test_clients_have_certificates() -> None:
    tls = TLS._replace(client_ca=TLS_FILES / "ca.pem")
    cert, key = (str(TLS_FILES / name) for name in ("client.pem", "client.key"))
    async with ProtocolDouble.running(tls=tls) as double:
        address = StoreAddress.parse(double.uri, ca_file=CA, cert_file=cert, key_file=key)
        store = EventStoreDb(address)
        assert (await store.append(an_append(a_stream()))).version == 1
        await store.close()
        await told(double, 0.5, ca_file=CA)
    await asyncio.sleep(0)

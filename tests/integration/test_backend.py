"""The composition root: what it opens, and what it refuses to open."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from amends import App, Settings, UsageError
from amends.backend import open_backend
from amends.broker.commit import SequentialCommitter
from amends.errors import (
    BrokerClosed,
    BrokerUnavailable,
    NotAnAmendsStore,
    StoreClosed,
    StoreUnavailable,
)
from tests.integration.apart import ADDRESS, BrokerApart, apart

__all__ = ["apart"]


def put(path: Path, text: str) -> None:
    path.write_text(text)


def is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())


@pytest.mark.parametrize("how", [App.run, App.client])
def test_an_embedded_file_has_one_inbox(tmp_path: Path, how: Any) -> None:
    """An engine that is told of fewer later on would leave the others' messages where they are."""
    settings = Settings(store=f"sqlite:///{tmp_path / 'a.db'}", partitions=3)

    async def opens() -> None:
        async with how(App(), settings):
            pass

    with pytest.raises(UsageError, match="AMENDS_PARTITIONS=3"):
        asyncio.run(opens())
    assert is_empty(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=f"sqlite:///{tmp_path / 'a.db'}", broker=ADDRESS)


async def test_a_broker_apart_is_opened_and_closed_beside_its_store(
    apart: BrokerApart, settings: Settings
) -> None:
    async with open_backend(settings, engine=True) as backend:
        assert backend.broker is apart.opened[0]
        assert isinstance(backend.committer, SequentialCommitter)
        assert await backend.store.end() == -1
    with pytest.raises(BrokerClosed):
        await backend.broker.depths()
    with pytest.raises(StoreClosed):
        await backend.store.end()


async def test_a_broker_that_cannot_be_reached_is_found_out_before_a_file_is_made(
    apart: BrokerApart, settings: Settings, tmp_path: Path
) -> None:
    apart.is_down = BrokerUnavailable("down")
    with pytest.raises(BrokerUnavailable):
        async with open_backend(settings, engine=True):
            pass
    assert is_empty(tmp_path)
    async with open_backend(settings, engine=False, connect=False) as backend:
        assert await backend.store.end() == -1


async def test_over_a_broker_apart_many_engines_share_a_file(
    apart: BrokerApart, settings: Settings
) -> None:
    async with open_backend(settings, engine=True), open_backend(settings, engine=True):
        assert len(apart.opened) == 2


async def test_a_store_in_memory_goes_with_it(apart: BrokerApart) -> None:
    settings = Settings(store="memory://", broker=ADDRESS)
    async with open_backend(settings, engine=True) as backend:
        assert await backend.store.end() == -1


async def test_a_broker_is_closed_when_its_store_cannot_be_opened(
    apart: BrokerApart, settings: Settings, tmp_path: Path
) -> None:
    put(tmp_path / "a.db", "not a database" * 100)
    with pytest.raises(NotAnAmendsStore):
        async with open_backend(settings, engine=True):
            pass
    with pytest.raises(BrokerClosed):
        await apart.opened[0].depths()


async def test_an_unknown_kind_of_broker_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    settings = Settings(store=f"sqlite:///{tmp_path / 'a.db'}", broker="kafka://me:hunter2@host")
    with pytest.raises(
        UsageError, match=r"AMENDS_BROKER='kafka://\*\*\*@host': use embedded, or amqp"
    ):
        async with open_backend(settings, engine=True):
            pass
    assert is_empty(tmp_path)


async def test_without_its_client_rabbitmq_is_refused_before_a_file_is_made(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "amends.broker.rabbitmq", None)
    with pytest.raises(UsageError, match=r"pip install 'amends\[rabbitmq\]'") as refused:
        async with open_backend(settings, engine=True):
            pass
    assert "secret" not in str(refused.value)
    assert is_empty(tmp_path)


async def test_a_store_on_a_server_is_opened_and_closed_beside_its_broker(
    apart: BrokerApart, esdb: str
) -> None:
    async with open_backend(Settings(store=esdb, broker=ADDRESS), engine=True) as backend:
        assert await backend.store.end() >= -1
    with pytest.raises(StoreClosed):
        await backend.store.end()
    with pytest.raises(BrokerClosed):
        await backend.broker.depths()


async def test_a_server_that_is_not_there_is_found_out_when_it_is_needed(
    apart: BrokerApart,
) -> None:
    settings = Settings(
        store="esdb://me:hunter2@127.0.0.1:1?tls=false", broker=ADDRESS, store_timeout_s=0.2
    )
    with pytest.raises(StoreUnavailable, match=r"127.0.0.1:1 cannot be used") as unavailable:
        async with open_backend(settings, engine=True):
            pass
    assert "hunter2" not in str(unavailable.value)
    with pytest.raises(BrokerClosed):
        await apart.opened[0].depths()
    async with open_backend(settings, engine=False, connect=False) as backend:
        with pytest.raises(StoreUnavailable):
            await backend.store.end()


async def test_a_store_on_a_server_needs_a_broker_apart() -> None:
    settings = Settings(store="kurrentdb+discover://me:hunter2@host")
    with pytest.raises(UsageError, match="AMENDS_BROKER=amqp") as refused:
        async with open_backend(settings, engine=False):
            pass
    assert "hunter2" not in str(refused.value)


async def test_a_wrong_address_of_a_server_is_explained(apart: BrokerApart) -> None:
    settings = Settings(store="esdb://me:hunter2@host:port", broker=ADDRESS)
    with pytest.raises(UsageError, match="a port is a number") as refused:
        async with open_backend(settings, engine=False, connect=False):
            pass
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        ((), r"pip install 'amends\[eventstoredb\]'"),
        (("esdbclient", "kurrentdbclient"), "Uninstall one of them"),
    ],
)
async def test_a_store_on_a_server_needs_one_client(
    apart: BrokerApart, installed: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("amends.stores.eventstoredb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name in installed else None
    )
    with pytest.raises(UsageError, match=told):
        async with open_backend(Settings(store="esdb://host", broker=ADDRESS), engine=False):
            pass

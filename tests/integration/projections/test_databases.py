"""What databases do to projections: several processes at once, locks, lost connections."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from amends.domain.clock import SystemClock
from amends.errors import ProjectionError, ProjectionUnavailable, UsageError
from amends.projections.database import Database
from amends.projections.projector import Projector
from amends.projections.reading import Projections
from amends.settings import Settings
from amends.stores.memory import MemoryStore
from tests.integration.projections.sample import Ledger, Sagas, move
from tests.integration.projections.test_running import balances

WAIT_S = 60
Open = Callable[[], Database]


async def test_several_processes_may_be_the_first(open_database: Open) -> None:
    store = MemoryStore(SystemClock())
    projectors = [
        Projector([Ledger(), Sagas()], store, open_database(), SystemClock()) for _ in range(4)
    ]
    await asyncio.gather(*(projector.check() for projector in projectors))


async def test_lost_connections_are_made_again(postgres_database: str) -> None:
    store = MemoryStore(SystemClock())
    async with Database.at(postgres_database) as database:
        projector = Projector([Ledger()], store, database, SystemClock(), lease_s=1)
        await projector.check()
        task = asyncio.create_task(projector.run())
        reader = Projections({"ledger": Ledger()}, Settings(), store, SystemClock())
        reader._database = database
        for n in range(1, 4):
            await move(store, "a", 1)
            await reader.caught_up(timeout=WAIT_S)
            assert await balances(database) == {"a": n}
            await asyncio.to_thread(lose_connections, postgres_database)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lose_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_a_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    store, path = MemoryStore(SystemClock()), tmp_path / "projections.db"
    async with Database.at(f"sqlite:///{path}", busy_timeout_s=0.01) as database:
        projector = Projector([Ledger()], store, database, SystemClock(), lease_s=1)
        await projector.check()
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ProjectionUnavailable, match=r"locked.*Nothing was written"):
                await database.run(lambda connection: None)
            task = asyncio.create_task(projector.run())
            await move(store, "a", 1)
            await asyncio.sleep(0)
            other.execute("ROLLBACK")
        other.close()
        reader = Projections({"ledger": Ledger()}, Settings(), store, SystemClock())
        reader._database = database
        await reader.caught_up(timeout=WAIT_S)
        assert await balances(database) == {"a": 1}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at " * 40)
    before = path.read_bytes()
    async with Database.at(f"sqlite:///{path}") as database:
        with pytest.raises(ProjectionError, match=r"not a database.*Nothing was changed"):
            await Projector([Ledger()], MemoryStore(SystemClock()), database, SystemClock()).check()
    assert path.read_bytes() == before
    async with Database.at(f"sqlite:///{tmp_path}/nowhere/file.db") as database:
        with pytest.raises(ProjectionUnavailable, match="unable to open"):
            await database.run(lambda connection: None)


async def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    async with Database.at(f"postgresql://me@/db?host={tmp_path}") as database:
        with pytest.raises(ProjectionUnavailable, match="cannot be used"):
            await database.run(lambda connection: None)
        # An engine starts all the same.
        await Projector([Ledger()], MemoryStore(SystemClock()), database, SystemClock()).check()


@pytest.mark.parametrize(
    "address",
    [
        "", "file.db", "mysql://host/db", "sqlite://host/file.db", "sqlite:///a.db?mode=ro",
        "postgresql+psycopg2://host/db", "postgresql://me:secret@host:port/db",
    ],
)  # fmt: skip
def test_an_address_of_something_else_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="AMENDS_PROJECTIONS") as refused:
        Database.at(address)
    assert "secret" not in str(refused.value)


def test_passwords_are_not_told() -> None:
    database = Database.at("postgresql://me:secret@host/db")
    assert "secret" not in database.shown
    settings = Settings(projections="postgresql://me:secret@host/db")
    assert "secret" not in repr(settings)


def test_they_are_beside_the_store_unless_somebody_says_otherwise() -> None:
    def address(**given: str) -> str:
        return Settings(**given).projections_address  # type: ignore[arg-type]

    assert address() == "sqlite:///amends-projections.db"
    assert address(store="sqlite:////data/shop.sqlite") == "sqlite:////data/shop-projections.sqlite"
    assert address(store="memory://") == "sqlite://"
    assert address(store="esdb://host", projections="sqlite:///p.db") == "sqlite:///p.db"
    with pytest.raises(UsageError, match="Name one: AMENDS_PROJECTIONS"):
        address(store="esdb://host")

"""Opening what a command works on: the store that --db or the environment names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from amends.app import App
from amends.backend import open_backend
from amends.cli.exits import Exit, Stop
from amends.client import Client
from amends.settings import Settings

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do a command's work."""
    return asyncio.run(work)


@asynccontextmanager
async def looking(db: str | None, app: App | None = None) -> AsyncIterator[Client]:
    """A client that only reads. Raises Stop with code 3, and makes nothing, if there is no store.

    A broker apart from the store need not be there unless it is looked at.
    """
    settings = _existing(Settings.of(db))
    async with (
        open_backend(settings, engine=False, connect=False) as backend,
        Client(app or App(), backend, settings) as client,
    ):
        yield client


@asynccontextmanager
async def acting(db: str | None, app: App | None = None) -> AsyncIterator[Client]:
    """A client that sends something to what exists. Raises Stop like `looking`."""
    async with (app or App()).client(_existing(Settings.of(db))) as client:
        yield client


@asynccontextmanager
async def starting(db: str | None, app: App) -> AsyncIterator[Client]:
    """A client that may start the first saga of a new store."""
    async with app.client(_lasting(Settings.of(db))) as client:
        yield client


def _existing(settings: Settings) -> Settings:
    if settings.is_on_server:
        return settings
    path = _lasting(settings).sqlite_path
    if not path.exists():
        raise Stop(
            f"there is no store at {path.absolute()}. Nothing was created. Name it with --db FILE "
            "or AMENDS_STORE; `amends dev APP` makes a new one",
            Exit.NOT_FOUND,
        )
    return settings


def _lasting(settings: Settings) -> Settings:
    if settings.store.startswith("memory:"):
        raise Stop("a store in memory is gone with its process: name a file", Exit.USAGE)
    return settings

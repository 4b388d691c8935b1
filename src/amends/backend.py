"""The composition root: the one place that names adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from amends.broker.commit import Committer, SequentialCommitter
from amends.broker.memory import MemoryBroker
from amends.broker.port import Broker
from amends.domain.clock import Clock, SystemClock
from amends.errors import UsageError
from amends.settings import Settings, shown
from amends.stores.memory import MemoryStore
from amends.stores.port import EventStore

if TYPE_CHECKING:
    from amends.broker.rabbitmq import RabbitBroker
    from amends.broker.rabbitmq.topology import Finding

_MEMORY: Final = "memory://"


@dataclass(frozen=True)
class Backend:
    """A store, a broker, the way to commit a turn on them, and the clock they share."""

    store: EventStore
    broker: Broker
    committer: Committer
    clock: Clock


@asynccontextmanager
async def open_backend(
    settings: Settings, *, engine: bool, connect: bool = True, clock: Clock | None = None
) -> AsyncIterator[Backend]:
    """Open what the settings name, and close it at the end.

    `engine` says whether an engine will run on it: on an embedded file there can be one, over a
    broker that processes share there can be many. `connect=False` does not look for such a broker,
    or for a store on a server, until it is needed, for those who only read the store.

    Raises UsageError for settings that name nothing we have, EngineAlreadyRunning, BrokerRefused,
    BrokerUnavailable, and what the store raises when it cannot be opened.
    """
    clock = clock or SystemClock()
    if not settings.is_embedded:
        opening = _open_apart(settings, clock, connect=connect)
    elif settings.is_on_server:
        raise UsageError(
            f"AMENDS_STORE={shown(settings.store)}: the embedded broker is in the store's file, and "
            "EventStoreDB has none. Nothing was opened. Set AMENDS_BROKER=amqp://… for RabbitMQ"
        )
    elif settings.partitions != 1:
        raise UsageError(
            f"AMENDS_PARTITIONS={settings.partitions}: the embedded broker has one engine, and so "
            "one inbox. Nothing was opened. Leave it at 1"
        )
    elif settings.store == _MEMORY:
        opening = _open_memory(clock)
    else:
        opening = _open_embedded(settings, clock, engine=engine)
    async with opening as backend:
        yield backend


async def set_up_broker(settings: Settings, queues: Sequence[str]) -> Sequence[Finding]:
    """Declare all that a broker apart needs, with these queues; what was made, and what differs.

    What is there and differs is left as it is. Raises UsageError on the embedded broker, which
    needs none of it, BrokerRefused, BrokerUnavailable.
    """
    if settings.is_embedded:
        raise UsageError(
            "the embedded broker is in the store's file, and there is nothing to set up. Nothing "
            "was done. For RabbitMQ, set AMENDS_BROKER=amqp://…"
        )
    broker = _rabbit(settings, SystemClock())
    try:
        return await broker.set_up(queues)
    finally:
        await broker.close()


@asynccontextmanager
async def _open_memory(clock: Clock) -> AsyncIterator[Backend]:
    backend = memory_backend(clock)
    try:
        yield backend
    finally:
        await backend.broker.close()
        await backend.store.close()


@asynccontextmanager
async def _open_embedded(
    settings: Settings, clock: Clock, *, engine: bool
) -> AsyncIterator[Backend]:
    """Store and broker in one file, and a turn in one transaction."""
    # Imported here: whoever runs on other adapters need not have SQLite.
    from amends.broker.embedded import EmbeddedBroker  # noqa: PLC0415
    from amends.stores.sqlite import SqliteDatabase, SqliteStore  # noqa: PLC0415

    database = await SqliteDatabase.open(
        settings.sqlite_path, clock=clock, busy_timeout_s=settings.busy_timeout_s
    )
    try:
        if engine:
            database.acquire_engine_lock()
        store = SqliteStore(database)
        broker = EmbeddedBroker(database)
        try:
            yield Backend(store, broker, broker, clock)
        finally:
            await broker.close()
            await store.close()
    finally:
        await database.close()


@asynccontextmanager
async def _open_apart(settings: Settings, clock: Clock, *, connect: bool) -> AsyncIterator[Backend]:
    """A store and a broker that know nothing of each other."""
    broker = _rabbit(settings, clock)
    try:
        if connect:
            # Before the store: when it cannot be reached, no file is made for nothing.
            await broker.connect()
        store = await _open_store(settings, clock, connect=connect)
        try:
            yield Backend(store, broker, SequentialCommitter(store, broker), clock)
        finally:
            await store.close()
    finally:
        await broker.close()


def _rabbit(settings: Settings, clock: Clock) -> RabbitBroker:
    if not settings.broker.startswith(("amqp://", "amqps://")):
        raise UsageError(
            f"AMENDS_BROKER={shown(settings.broker)}: use embedded, or amqp://… or amqps://… for "
            "RabbitMQ. Nothing was opened"
        )
    try:
        from amends.broker.rabbitmq import BrokerAddress, RabbitBroker  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError(
            f"AMENDS_BROKER={shown(settings.broker)} needs a client of RabbitMQ, and "
            f"{error.name!r} is not installed. Nothing was opened. Install it with: "
            "pip install 'amends[rabbitmq]'"
        ) from error
    password = settings.broker_password
    address = BrokerAddress.parse(
        settings.broker,
        user=settings.broker_user,
        password=None if password is None else password.get_secret_value(),
        ca_file=settings.broker_ca_file,
        cert_file=settings.broker_cert_file,
        key_file=settings.broker_key_file,
        heartbeat_s=settings.broker_heartbeat_s,
    )
    return RabbitBroker(
        address,
        settings.broker_prefix,
        clock,
        partitions=settings.partitions,
        publish_timeout_s=settings.publish_timeout_s,
    )


async def _open_store(settings: Settings, clock: Clock, *, connect: bool) -> EventStore:
    if settings.store == _MEMORY:
        return MemoryStore(clock)
    if settings.is_on_server:
        return await _open_event_store_db(settings, connect=connect)
    from amends.stores.sqlite import SqliteDatabase, SqliteStore  # noqa: PLC0415

    database = await SqliteDatabase.open(
        settings.sqlite_path, clock=clock, busy_timeout_s=settings.busy_timeout_s
    )
    return SqliteStore(database)


async def _open_event_store_db(settings: Settings, *, connect: bool) -> EventStore:
    # It says by itself what to install if there is no client.
    from amends.stores.eventstoredb import EventStoreDb, StoreAddress  # noqa: PLC0415

    password = settings.store_password
    address = StoreAddress.parse(
        settings.store,
        user=settings.store_user,
        password=None if password is None else password.get_secret_value(),
        ca_file=settings.store_ca_file,
        cert_file=settings.store_cert_file,
        key_file=settings.store_key_file,
    )
    store = EventStoreDb(address, timeout_s=settings.store_timeout_s)
    if connect:
        try:
            await store.end()
        except BaseException:
            await store.close()
            raise
    return store


def memory_backend(clock: Clock) -> Backend:
    """Everything in memory: for tests, and for the test kit's virtual time."""
    store = MemoryStore(clock)
    broker = MemoryBroker(clock)
    return Backend(store, broker, SequentialCommitter(store, broker), clock)

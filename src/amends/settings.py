"""Settings: from the environment (`AMENDS_…`) or given in code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, ModelWrapValidatorHandler, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from amends.errors import InvalidSettings, UsageError

_PREFIX: Final = "AMENDS_"
#: Of a wrong value in an error message.
_VALUE_CHARS_MAX: Final = 100
_EMBEDDED: Final = "embedded"
#: Settings that may hold passwords.
_ADDRESSES: Final = frozenset({"store", "broker", "projections"})
_ON_SERVER: Final = re.compile(r"(esdb|kurrentdb|kurrent|kdb)(\+discover)?://", re.IGNORECASE)
#: Inboxes of a broker that several processes share, unless it is told otherwise.
_PARTITIONS_SHARED: Final = 8


def _usual_partitions(known: dict[str, Any]) -> int:
    return 1 if known["broker"] == _EMBEDDED else _PARTITIONS_SHARED


class Settings(BaseSettings):
    """Where an application runs, and its bounds. Everything has a default.

    Raises InvalidSettings, which names each variable, its value (without what an address has in
    front of its host) and what is allowed.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    store: str = "sqlite:///amends.db"
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, or `memory://` for tests. Or EventStoreDB,
    with a broker that is apart, too: `esdb://user:password@host:2113`, several nodes of a cluster
    with commas between them, or `esdb+discover://…`; `kurrentdb://…` is the same.
    """

    store_user: str | None = None
    """Who logs in to EventStoreDB, instead of who stands in the address."""

    store_password: SecretStr | None = None
    """The password that goes with the user; never shown."""

    store_ca_file: str | None = None
    """The certificates (PEM) that EventStoreDB's must be signed by; by default those that come with
    gRPC.
    """

    store_cert_file: str | None = None
    """This client's own certificate (PEM), where EventStoreDB asks for one."""

    store_key_file: str | None = None
    """The key of that certificate."""

    store_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long one call of EventStoreDB may take, however often it is tried meanwhile, until it fails
    with StoreUnavailable. To find out what became of an append takes as long again.
    """

    broker: str = _EMBEDDED
    """`embedded`: in the store's own file, with one engine. Or RabbitMQ, for several processes:
    `amqp://user:password@host:5672/vhost`, or `amqps://…`; several nodes of one cluster with
    commas between them.
    """

    broker_prefix: str = "amends"
    """With what the names begin of all that is declared in RabbitMQ, so that several deployments
    can share it. Fixed for the life of a deployment's data.
    """

    broker_user: str | None = None
    """Who logs in to RabbitMQ, instead of who stands in the address."""

    broker_password: SecretStr | None = None
    """The password that goes with the user; never shown."""

    broker_ca_file: str | None = None
    """The certificates (PEM) that RabbitMQ's must be signed by; by default the system's."""

    broker_cert_file: str | None = None
    """This client's own certificate (PEM), where RabbitMQ asks for one."""

    broker_key_file: str | None = None
    """The key of that certificate, unless it stands in the same file."""

    broker_heartbeat_s: Annotated[int, Field(ge=5, le=300)] = 10
    """A connection on which nothing came for twice as long is taken for dead. Unless the address
    says `?heartbeat=…`.
    """

    publish_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long one publish may take, however often the connection is made anew meanwhile, until
    it fails with BrokerUnavailable. What fails so is published again later.
    """

    projections: str | None = None
    """Where projections are kept: `sqlite:///file.db` or `postgresql://user:password@host/database`.
    By default a file beside the store's: `amends-projections.db` beside `amends.db`.
    """

    projections_lease_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """After how many seconds another process may take over the projections of one that died."""

    rebuild_projections: bool = False
    """Whether whoever runs projections rebuilds those whose version has grown; false leaves that to
    `amends projections rebuild`.
    """

    run_projections: bool = True
    """Whether an engine runs the projections of its application; false leaves them to
    `amends projector`.
    """

    audit_key_file: str | None = None
    """The private key (Ed25519, PEM, no password) that signs the checkpoints of the audit trail. An
    engine that has one keeps the trail, as a projection named `audit`; see docs/audit.md.
    """

    audit_every: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """How many events there are from one checkpoint of the audit trail to the next."""

    partitions: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=_usual_partitions)
    """Inboxes, over which the orchestrators of several processes spread. The embedded broker has
    one; RabbitMQ, 8 by default. Fixed for the life of a deployment's data.
    """

    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Attempts that run at once for each activity queue, unless the application says otherwise."""

    cache_max: Annotated[int, Field(ge=0, le=10_000_000)] = 4096
    """Saga instances kept live in memory, some 8 KB each and what the saga's own variables take;
    one that waits for many things at once counts for several.
    """

    cache_wait_s_per_event: Annotated[float, Field(ge=0, le=1e6)] = 10.0
    """An instance that waits only for a timer is not kept live when the timer is due in more than
    so many seconds for each event of its journal: reading it back then costs less than keeping it.
    """

    inbox_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Messages in hand for each inbox."""

    busy_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 5.0
    """How long to wait for a database that another process has locked."""

    retention_days: Annotated[float, Field(ge=1 / 24, le=36_500)] | None = None
    """How many days after its end the engine removes the journal of an instance, FOR GOOD: its
    history, the domain events that it emitted, and the protection from starting its id again.
    None (the default) keeps journals for ever.
    """

    shutdown_grace_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """How long running activities may take to finish when the engine is told to stop."""

    calm_gc: bool = True
    """While an engine runs, let Python's garbage collector look less often, and leave out what was
    there before. For the whole process; false leaves it alone.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _validated(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """In an error of our own: pydantic's shows whatever it was given."""
        try:
            return handler(values)
        except ValidationError as error:
            faults = error.errors(include_url=False)
        # One default is taken from another field: when that is wrong, it is not wrong as well.
        faults = [fault for fault in faults if fault["type"] != "default_factory_not_called"]
        told = "; ".join(cls._fault(fault["loc"], fault["msg"], fault["input"]) for fault in faults)
        raise InvalidSettings(f"the settings cannot be: {told}. Nothing was opened")

    @classmethod
    def _fault(cls, where: tuple[int | str, ...], what: str, value: Any) -> str:
        name = str(where[0]) if where else ""
        if name not in cls.model_fields:
            known = ", ".join(f"{_PREFIX}{field.upper()}" for field in cls.model_fields)
            return f"{name!r} is none of them; there are {known}"
        if not what.startswith("Input"):  # of one kind pydantic says what it tried instead
            what = "Input should be an integer of fewer digits"
        secret = cls.model_fields[name].annotation == SecretStr | None
        value = "***" if secret else shown(value)
        return f"{_PREFIX}{name.upper()}={value}: {what.replace('Input', 'it', 1)}"

    @classmethod
    def of(cls, where: str | Path | Settings | None) -> Settings:
        """Settings from what `App.run` and `App.client` take: a file's path, a store's address,
        whole settings, or None for the environment's. Raises InvalidSettings.
        """
        if isinstance(where, Settings):
            return where
        if where is None:
            return cls()
        text = str(where)
        return cls(store=text if "://" in text else f"sqlite:///{text}")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Settings end up in logs and tracebacks: addresses without what may be passwords."""
        for name, value in super().__repr_args__():
            yield name, redacted(value) if name in _ADDRESSES and value else value

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is the store's own file (or memory): then there is one engine, in one
        process.
        """
        return self.broker == _EMBEDDED

    @property
    def is_on_server(self) -> bool:
        """Whether the store is a server's, and not a file or memory."""
        return _ON_SERVER.match(self.store) is not None

    @property
    def retention(self) -> timedelta | None:
        """How long the journal of an instance is kept after its end; None for ever."""
        return None if self.retention_days is None else timedelta(days=self.retention_days)

    @property
    def projections_address(self) -> str:
        """The address of the projections' database. Raises UsageError when it must be named."""
        if self.projections is not None:
            return self.projections
        if self.store == "memory://":
            return "sqlite://"
        if not self.store.startswith("sqlite:"):
            raise UsageError(
                "the store is no file, so projections need a database of their own. Nothing was "
                "opened. Name one: AMENDS_PROJECTIONS=postgresql://user:password@host/database"
            )
        path = self.sqlite_path
        return f"sqlite:///{path.with_name(f'{path.stem}-projections{path.suffix}')}"

    @property
    def sqlite_path(self) -> Path:
        """The file of the embedded store. Raises UsageError when the store is another."""
        prefix = "sqlite:///"
        if not self.store.startswith(prefix) or self.store == prefix or "\0" in self.store:
            raise UsageError(
                f"AMENDS_STORE={shown(self.store)}: use sqlite:///file.db (or "
                "sqlite:////path/file.db), or esdb://… for EventStoreDB"
            )
        return Path(self.store.removeprefix(prefix))


def shown(value: object) -> str:
    """A value in an error message: short, and without what may be a password in an address."""
    try:
        text = redacted(repr(value))
    except Exception:  # an integer of too many digits, or an object of somebody's own
        text = f"a {type(value).__name__}"
    return text if len(text) <= _VALUE_CHARS_MAX else f"{text[:_VALUE_CHARS_MAX]}…"


def redacted(address: str) -> str:
    """An address, or several with commas between them, without what may be passwords."""
    several = re.split(r"(?=,\s*\w+://)", address)
    if not all("@" in one for one in several):
        several = [address]  # a comma may be part of a password: rather hide a host, too
    return "".join(re.sub(r"://.*@", "://***@", one, flags=re.DOTALL) for one in several)

"""Settings: from the environment (`AMENDS_…`) or given in code."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from amends.errors import InvalidSettings, UsageError

_PREFIX: Final = "AMENDS_"
#: Of a wrong value in an error message.
_VALUE_CHARS_MAX: Final = 100


class Settings(BaseSettings):
    """Where an application runs, and its bounds. Everything has a default.

    Raises InvalidSettings, which names each variable, its value (without what an address has in
    front of its host) and what is allowed.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    store: str = "sqlite:///amends.db"
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, or `memory://` for tests."""

    broker: str = "embedded"
    """`embedded`: in the store's own file."""

    partitions: Annotated[int, Field(ge=1, le=1024)] = 1
    """Inboxes, for brokers that spread over processes; with the embedded broker there is one.
    Fixed for the life of a deployment's data.
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
        return f"{_PREFIX}{name.upper()}={shown(value)}: {what.replace('Input', 'it', 1)}"

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

    @property
    def retention(self) -> timedelta | None:
        """How long the journal of an instance is kept after its end; None for ever."""
        return None if self.retention_days is None else timedelta(days=self.retention_days)

    @property
    def sqlite_path(self) -> Path:
        """The file of the embedded store. Raises UsageError when the store is another."""
        prefix = "sqlite:///"
        if not self.store.startswith(prefix) or self.store == prefix or "\0" in self.store:
            raise UsageError(
                f"AMENDS_STORE={shown(self.store)}: use sqlite:///file.db (or "
                "sqlite:////path/file.db)"
            )
        return Path(self.store.removeprefix(prefix))


def shown(value: object) -> str:
    """A value in an error message: short, and without what may be a password in an address."""
    try:
        text = re.sub(r"://.*@", "://***@", repr(value))
    except Exception:  # an integer of too many digits, or an object of somebody's own
        text = f"a {type(value).__name__}"
    return text if len(text) <= _VALUE_CHARS_MAX else f"{text[:_VALUE_CHARS_MAX]}…"
